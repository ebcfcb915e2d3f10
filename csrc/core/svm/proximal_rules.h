// What the proximal method of multipliers (docs/method.md, 9) does alike whoever works on a task, a thread of the CPU or a team of
// CUDA threads: when it takes over, its outer loop, and the scalar formulas of its certificate.
#pragma once

#include <cmath>

#include "core/basics.h"
#include "core/macros.h"

SPARSESVM_BEGIN

struct ProximalRules {
  // When it takes over from the Newton steps on the dual.
  static constexpr index max_newton = 25;     // iterations; Newton steps on the dual converge within some 15 or hardly at all
  static constexpr index max_idle = 10;       // of them that do not halve the gap
  static constexpr index many_samples = 512;  // where the proximal method takes a tenth of their time
  // lambda2 beside the largest square of a row times the mean weight, and times n / m where the dual has more directions than the
  // features. From here on Newton steps on a dual of many entries take a hundredth to a half of the proximal method's time with well
  // separated classes, twice of it with overlapping ones at worst; below, up to a hundred times as long.
  static constexpr double strong_ridge = 4e-3;
  static constexpr index polishing = 10;      // Newton steps on the dual after it

  static constexpr index easy_steps = 12, max_steps = 30;  // of an inner problem
  static constexpr index max_still = 60;                   // outer steps that do not lower the gap by a tenth
  static constexpr index max_extra = 5;
  static constexpr double fastest = 0.2, slowest = 0.8;    // factors by which rho and sigma fall
  static constexpr double inner_share = 0.1;               // of the true gap to which inner problems are solved
  static constexpr double set_share = 0.3;                 // of that, to which they are solved on a working set
  static constexpr double accuracy = 0.05;                 // of Newton steps by conjugate gradients
  static constexpr index small_set = 20;                   // groups that join a working set of fewer
  static constexpr double remnant = 1e-10;                 // squared share of the largest group's scores that may be no more than a rest

  // Rounds of a Newton step in which groups leave, and what they may cost together: about a tenth of a second.
  static constexpr int max_drops = 20;
  static constexpr double drop_cost = 3e9;
};

// Whether a task is the proximal method's from the start: where the dual is nearly a linear program, or has too many samples. With lambda1 = 0 and no more samples than features the dual is as strictly convex as the kernel is regular, and
// sweeps over the samples leave little to Newton steps at any size.
template <class Task>
SPARSESVM_HD bool is_large(const Task& task, index max_model) {
  if (!(task.lambda2 > 0)) return true;
  if (task.k == 1) return false;
  if (task.smoothing > 0) return task.lambda1 > 0 && task.n > ProximalRules::many_samples;
  if (task.lambda1 > 0) return task.n > ProximalRules::many_samples;
  return task.n > max_model && task.n > task.m;
}

// Whether the dual may have more entries than a model takes, `max_model`. With a weak ridge such a task is the proximal method's too.
template <class Task>
SPARSESVM_HD bool has_many_entries(const Task& task, index max_model) {
  return task.lambda1 > 0 && !(task.smoothing > 0) && task.k > 1 && task.n * task.k > max_model;
}

struct InnerEnd {
  bool solved;
  index steps;
};

// The outer loop until the gap is at most `target`, with proximal terms of the given share of what they are from W = 0. Method:
//   gap(), best_primal()        of the original problem, so far
//   loss_gap(), penalty_gap()   what the last iterate leaves open on either side
//   set_terms(rho, scale)       weights of the proximal terms of the probabilities and, in each group's units, of the weights
//   solve_inner(target)         minimises the inner problem; returns InnerEnd
//   move_centre()               to the iterate
template <class Method>
SPARSESVM_HD Status proximal_loop(Method& method, double smoothing, double total_weight, double target, index max_iter,
                                  index& iterations, double share = 1.0) {
  using Rules = ProximalRules;
  // A smoothed hinge needs no further smoothing once it bends within the range of the probabilities.
  double rho = smoothing >= 1 ? 0.0 : share, scale = 0.1 * share, pace = Rules::fastest;
  index still = 0, extra = 0;
  while (iterations < max_iter) {
    ++iterations;
    method.set_terms(rho, scale);
    const double before = method.gap();
    // Where the objective is far below sum_i c_i a few more steps make the gap small beside it as well.
    const bool within = before <= target;
    const InnerEnd inner = method.solve_inner(within ? target * method.best_primal() / total_weight : target);
    const double gap = method.gap();
    if (!(gap <= 1e300)) return Status::non_finite;
    if (gap <= target) {
      const bool small = gap * total_weight <= target * method.best_primal();
      if (small || ++extra > Rules::max_extra) return Status::converged;
    }
    if (inner.solved || gap < before) method.move_centre();
    if (inner.solved) {
      // Each proximal term shrinks while it is what keeps the gap open, faster after an easy inner problem.
      const bool easy = inner.steps <= Rules::easy_steps;
      if (easy && inner.steps > 0) pace = pace * pace > Rules::fastest ? pace * pace : Rules::fastest;
      const double factor = easy ? pace : std::sqrt(pace);
      if (method.loss_gap() > 0.3 * method.penalty_gap()) rho *= factor;
      if (method.penalty_gap() > 0.3 * method.loss_gap()) scale *= factor;
    } else {
      rho /= pace;
      scale /= pace;
      pace = std::sqrt(pace) < Rules::slowest ? std::sqrt(pace) : Rules::slowest;
    }
    still = gap < 0.9 * before ? 0 : still + 1;
    if (still >= Rules::max_still) return gap <= target ? Status::converged : Status::stalled;
  }
  return method.gap() <= target ? Status::converged : Status::max_iter;
}

// Whether a group may be a remnant: a line search that ends before its step does leaves a part of groups that go to zero there.
// Such a group hardly adds to the scores, by `share` = ||W_G||^2 sum_i c_i ||f_iG||^2 beside the largest one, and the dual holds it
// below its threshold.
SPARSESVM_HD inline bool is_slight(double share, double largest) {
  return share > 0 && share <= ProximalRules::remnant * largest;
}

// Writes the best weights, without remnants where the objective does not rise by more than a part of the gap; returns the objective
// of what is written. Method:
//   write_weights(dropping)   writes the best weights, where `dropping` without the groups listed
//   objective_of_written()    with what rounding to the caller's type moved
//   list_remnants()           whether there may be any
template <class Method>
SPARSESVM_HD double write_best_weights(Method& method, bool finite) {
  const double gap = method.gap();
  method.write_weights(false);
  if (!finite) return __builtin_nan("");
  const double objective = method.objective_of_written();
  if (!method.list_remnants()) return objective;
  constexpr double rounding = 1e-13;
  method.write_weights(true);
  const double without = method.objective_of_written();
  if (without <= (1 + rounding) * objective + ProximalRules::inner_share * gap) return without;
  method.write_weights(false);
  return objective;
}

// Curvature of a group's proximal term, `square` being sum_i c_i ||f_iG||^2 / group_size: in the group's units, and zero where
// lambda2 gives the inner problem as much. A group of zeros has no units.
SPARSESVM_HD inline double proximal_curvature(double scale, double square, double lambda2) {
  const double s = scale * square, sigma = lambda2 < s ? s : 0.0;
  return lambda2 + sigma > 0 ? sigma : 1.0;
}

// Duality gap that one group leaves in the inner problem, from ||W_G||^2, ||X_G||^2 and <W_G, X_G> with the pull X = V + sigma W_t:
// the probabilities are the exact response, so that these add up to the whole. A sum of non-negative terms.
SPARSESVM_HD inline double inner_gap(double ww, double xx, double wx, double mu, double threshold) {
  const double length = std::sqrt(ww), pull = std::sqrt(xx), excess = pull - threshold;
  const double turned = length * pull - wx > 0 ? length * pull - wx : 0.0;
  if (!(excess > 0)) return turned - length * excess + 0.5 * mu * ww;
  const double miss = length - excess / mu;
  return turned + 0.5 * mu * miss * miss;
}

// Sums over the groups whose excess = share ||V_G|| - threshold is positive.
struct ExcessSums {
  double square, slope, bend;  // of excess^2, excess ||V_G||, ||V_G||^2

  SPARSESVM_HD void add(double norm, double share, double threshold) {
    const double excess = share * norm - threshold;
    if (!(excess > 0)) return;
    square += excess * excess;
    slope += excess * norm;
    bend += norm * norm;
  }
};

// The dual value at Y + share (p - Y): share linear - share^2 curved / 2 - sum_G (share ||V_G|| - threshold)_+^2 / (2 lambda2), with
// sums(share) the ExcessSums.
template <class Sums>
SPARSESVM_HD double scaled_dual_value(double share, double linear, double curved, double lambda2, const Sums& sums) {
  const double own = share * linear - 0.5 * share * share * curved;
  return lambda2 > 0 ? own - sums(share).square / (2 * lambda2) : own;
}

// The share in [0, 1] with the largest dual value. Each row's set c_i (y_i - simplex) contains zero, so that all are feasible where
// lambda2 > 0; the derivative falls and is piecewise linear, and Newton steps from one stay on the right of its root. With
// lambda2 = 0 it is the largest that keeps every ||V_G||, at most `largest` times its threshold, within it.
template <class Sums>
SPARSESVM_HD double best_share(double linear, double curved, double lambda2, double largest, const Sums& sums) {
  if (!(lambda2 > 0)) {
    constexpr double rounding = 1e-15;
    return largest > 1 ? (1 - rounding) / largest : 1.0;
  }
  double share = 1;
  for (int step = 0; step < 50; ++step) {
    const ExcessSums found = sums(share);
    const double slope = linear - share * curved - found.slope / lambda2, bend = curved + found.bend / lambda2;
    if (!(slope < 0) || !(bend > 0)) break;
    const double next = share + slope / bend;
    if (!(next < share)) break;
    share = next;
  }
  return share > 0 ? share : 0.0;
}

SPARSESVM_END
