// Whether the active groups and the free entries of the dual are those of the solution, which a derivative needs: the error left in the
// weights and in the dual is estimated from the ties, and has to be small beside the nearest change of either set.
//
// At the solution the entries of a sample in use tie in the gradient g. What is left of their differences, `tie`, is an error of the
// scores; over the length of a feature row it is one of the weights, of which each active group has its share, and over the curvature
// of a sample one of its dual (docs/method.md, 6).
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/svm/dual_state.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

struct Identification {
  bool sets;     // no change of a set is near
  bool weights;  // and every active group is known well
};

template <typename T>
double largest_squared_row(const Task<T>& task) {
  double largest = 0;
  for (index i = 0; i < task.n; ++i) {
    double squared = 0;
    for (index j = 0; j < task.m; ++j) squared += static_cast<double>(task.rows[i][j]) * static_cast<double>(task.rows[i][j]);
    largest = squared > largest ? squared : largest;
  }
  return largest;
}

// `accuracy` is the relative error allowed to the weights of the active groups, in their root mean square. Expects the state evaluated
// and certified.
template <class Passes, typename T>
Identification identify(const Task<T>& task, const DualState<Passes, T>& state, double accuracy) {
  constexpr double margin = 10;  // what the nearest change has to be above the error
  const index k = task.k;
  double tie = 0, score = 0, nearest_use = 1e300;
  for (index i = 0; i < task.n; ++i) {
    const double *g = state.gradient + i * k, *a = state.dual + i * k, *s = state.scores + i * k;
    double low = g[0];
    for (index l = 1; l < k; ++l) low = g[l] < low ? g[l] : low;
    for (index l = 0; l < k; ++l) {
      score += s[l] * s[l];
      double& bound = a[l] > 0 ? tie : nearest_use;
      bound = (a[l] > 0) == (g[l] - low > bound) ? g[l] - low : bound;
    }
  }
  double squared = 0, inverse_squared = 0, active = 0, smallest = 1e300, nearest_group = 1e300;
  for (index b = 0; b < task.n_groups && task.lambda1 > 0; ++b) {
    const double excess = (state.norm[b] - task.threshold(b)) / task.lambda2;
    double& bound = excess > 0 ? smallest : nearest_group;
    bound = std::fabs(excess) < bound ? std::fabs(excess) : bound;
    if (!(excess > 0)) continue;
    squared += excess * excess;
    inverse_squared += 1 / (excess * excess);
    ++active;
  }
  for (index b = 0; b < task.n_groups && task.lambda1 == 0; ++b) squared += state.norm[b] * state.norm[b] / (task.lambda2 * task.lambda2);
  if (!(squared > 0)) {
    // Nothing depends on the dual if the weights are zero beyond doubt. With the hinge the gap is what the dual holds at the labels:
    // moved to other classes it leaves an optimal dual, and norms of V that are at most sqrt(2) gap ||f_i|| larger.
    const double room = nearest_group * task.lambda2;
    const bool exact = state.gap <= 1e-10 * task.total_weight ||
                       (task.lambda1 > 0 && task.smoothing == 0 && room * room > 2 * state.gap * state.gap * largest_squared_row(task));
    return {exact, exact};
  }
  if (task.lambda1 == 0) {  // no group decides anything
    smallest = std::sqrt(squared);
    inverse_squared = 1 / squared;
    active = 1;
  }
  // A row's length as the weights see it, which is less than it is.
  const double row = std::sqrt(score / (squared * static_cast<double>(task.n)));
  const double error = tie / row / std::sqrt(active);  // of a group
  bool sets = nearest_use > margin * tie && smallest > margin * error && nearest_group > margin * error;
  for (index i = 0; i < task.n && sets; ++i) {
    const double moved = tie / (task.weight[i] * row * row / task.lambda2 + task.smoothing);
    for (index l = 0; l < k; ++l) {
      const double a = state.dual[i * k + l] / task.weight[i];
      sets = sets && !(a > 0 && a <= margin * moved);
    }
  }
  return {sets, sets && error * std::sqrt(inverse_squared / active) <= accuracy};
}

SPARSESVM_END
