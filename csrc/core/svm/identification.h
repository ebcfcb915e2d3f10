// Whether the active groups and the free entries of the dual are those of the solution, which a derivative needs: the error left in the
// weights and in the dual is estimated from the ties, and has to be small beside the nearest change of either set.
//
// At the solution the entries of a sample in use tie in the gradient g. What is left of their differences, `tie`, is an error of the
// scores; over the length of a feature row it is one of the weights, of which each active group has its share, and over the curvature
// of a sample one of its dual (docs/method.md, 6).
#pragma once

#include <cmath>

#include "core/basics.h"
#include "core/macros.h"

SPARSESVM_BEGIN

struct Identification {
  bool sets;     // no change of a set is near
  bool weights;  // and every active group is known well
};

struct IdentificationRules {
  static constexpr double exact = 1e-10;     // share of sum_i c_i below which a gap leaves nothing to find
  static constexpr double margin = 10;       // what the nearest change of a set has to be above the error
  static constexpr double rounding = 1e-13;  // of a gap, as a share of sum_i c_i
  static constexpr double closer = 1e-3;     // share of a gap to which the proximal method is to find the active sets
  static constexpr double share = 1e-2;      // of the gap, to which the models of steps beyond the certificate are solved
  static constexpr int max_steps = 10, max_slow = 3;  // of these steps; slow: they do not halve the gap

  // Error of the weights that a derivative is taken at.
  template <typename T>
  SPARSESVM_HD static constexpr double tolerated() {
    return sizeof(T) < sizeof(double) ? 1e-3 : 5e-6;
  }

  // The gap at which a large task's sets are judged. A step or two more know the sets: this close the proximal method converges
  // fast, as far as rounding lets the gap fall.
  SPARSESVM_HD static double aim(double target, double total_weight) {
    const double least = target < rounding * total_weight ? target : rounding * total_weight;
    return closer * target > least ? closer * target : least;
  }
};

// `accuracy` is the relative error allowed to the weights of the active groups, in their root mean square. Expects the state evaluated
// and certified. `largest_squared_row()` = max ||f_i||^2. Of a team all call it, and get the same.
template <class Team, class Task, class State, class LargestSquaredRow>
SPARSESVM_HD Identification identify(Team team, const Task& task, const State& state, double accuracy,
                                     const LargestSquaredRow& largest_squared_row) {
  constexpr double margin = IdentificationRules::margin;
  const index n = task.n, k = task.k, n_groups = task.n_groups;
  double tie = 0, score = 0, nearest_use = 1e300;
  for (index i = team.rank(); i < n; i += team.size()) {
    const double *g = state.gradient + i * k, *a = state.dual + i * k, *s = state.scores + i * k;
    double low = g[0];
    for (index l = 1; l < k; ++l) low = g[l] < low ? g[l] : low;
    for (index l = 0; l < k; ++l) {
      score += s[l] * s[l];
      const double above = g[l] - low;
      if (a[l] > 0) {
        tie = above > tie ? above : tie;
      } else {
        nearest_use = above > nearest_use ? nearest_use : above;
      }
    }
  }
  tie = team.max(tie);
  score = team.sum(score);
  nearest_use = -team.max(-nearest_use);
  double squared = 0, inverse_squared = 0, active = 0, smallest = 1e300, nearest_group = 1e300;
  for (index b = team.rank(); b < n_groups && task.lambda1 > 0; b += team.size()) {
    const double excess = (state.norm[b] - task.threshold(b)) / task.lambda2;
    if (!(excess > 0)) {
      nearest_group = -excess < nearest_group ? -excess : nearest_group;
      continue;
    }
    smallest = excess < smallest ? excess : smallest;
    squared += excess * excess;
    inverse_squared += 1 / (excess * excess);
    ++active;
  }
  for (index b = team.rank(); b < n_groups && task.lambda1 == 0; b += team.size()) {
    squared += state.norm[b] * state.norm[b] / (task.lambda2 * task.lambda2);
  }
  squared = team.sum(squared);
  inverse_squared = team.sum(inverse_squared);
  active = team.sum(active);
  smallest = -team.max(-smallest);
  nearest_group = -team.max(-nearest_group);
  if (!(squared > 0)) {
    // Nothing depends on the dual if the weights are zero beyond doubt. With the hinge the gap is what the dual holds at the labels:
    // moved to other classes it leaves an optimal dual, and norms of V that are at most sqrt(2) gap ||f_i|| larger.
    const double room = nearest_group * task.lambda2;
    bool exact = state.gap <= IdentificationRules::exact * task.total_weight;
    if (!exact && task.lambda1 > 0 && task.smoothing == 0) {
      exact = room * room > 2 * state.gap * state.gap * largest_squared_row();
    }
    return {exact, exact};
  }
  if (task.lambda1 == 0) {  // no group decides anything
    smallest = std::sqrt(squared);
    inverse_squared = 1 / squared;
    active = 1;
  }
  // A row's length as the weights see it, which is less than it is.
  const double row = std::sqrt(score / (squared * static_cast<double>(n)));
  const double error = tie / row / std::sqrt(active);  // of a group
  bool sets = nearest_use > margin * tie && smallest > margin * error && nearest_group > margin * error;
  if (sets) {
    double near_zero = 0;
    for (index i = team.rank(); i < n; i += team.size()) {
      const double moved = tie / (task.weight[i] * row * row / task.lambda2 + task.smoothing);
      for (index l = 0; l < k; ++l) {
        const double a = state.dual[i * k + l] / task.weight[i];
        near_zero = a > 0 && a <= margin * moved ? 1.0 : near_zero;
      }
    }
    sets = team.max(near_zero) == 0;
  }
  return {sets, sets && error * std::sqrt(inverse_squared / active) <= accuracy};
}

SPARSESVM_END
