// Where a solve begins, and its first-order steps.
#pragma once

#include "cuda/first_order.h"

SPARSESVM_BEGIN
namespace gpu {

// Marks the classes without samples in `absent`; returns how many.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE int find_absent_classes(Team team, const SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  for (int l = team_rank(team); l < task.k; l += team_size(team)) {
    double absent = 1;
    for (int i = 0; i < task.n; ++i) absent = task.label[i] == l ? 0.0 : absent;
    w.absent[l] = absent;
  }
  team.sync_team();
  int count = 0;
  for (int l = 0; l < task.k; ++l) count += w.absent[l] != 0;
  return count;
}

// From the dual given (n_samples, n_way) or null, projected, or else uniform over the wrong classes.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void start_dual(Team team, const SolveWorkspace<T>& w, const double* init_dual) {
  const Task<T>& task = w.task;
  const int k = task.k;
  const double others = k > 1 ? 1.0 / (k - 1) : 0.0;
  team.sync_team();
  for (int i = team_rank(team); i < task.n; i += team_size(team)) {
    double* row = w.state.dual + i * k;
    if (init_dual != nullptr) {
      const double* given = init_dual + static_cast<index>(task.sample[i]) * task.n_way;
      for (int l = 0; l < k; ++l) row[l] = task.weight[i] * given[l];
      project_simplex(row, k, task.weight[i]);
    } else {
      for (int l = 0; l < k; ++l) row[l] = task.weight[i] * (k == 1 ? 1.0 : (task.label[i] == l ? 0.0 : others));
    }
  }
  team.sync_team();
}

// Uniform over the wrong classes is the right direction but too far: moves back towards the labels, Lambda = (1 - t) Y + t uniform,
// to the best t in [0, 1] (core/svm/dual_solver.h). Expects the state evaluated.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void scale_start(Team team, const SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  double t = 1;
  for (int step = 0; step < 20; ++step) {
    double slope = 0, curvature = 0;
    for (int b = team.rank(); b < task.n_groups; b += team.size()) {
      const double norm = w.state.norm[b], excess = t * norm - task.threshold(b);
      slope += excess > 0 ? excess * norm : 0.0;
      curvature += excess > 0 ? norm * norm : 0.0;
    }
    slope = team.sum(slope);
    curvature = team.sum(curvature);
    const double overshoot = slope - task.total_weight * task.lambda2;
    if (!(overshoot > 1e-3 * slope)) break;
    t -= overshoot / curvature;
  }
  team.sync_team();
  if (!(t < 1)) return;
  t = fabs(t);  // its sign is rounding where thresholds and lambda2 are nothing beside the norms
  for (int e = team_rank(team); e < task.n * task.k; e += team_size(team)) {
    w.state.dual[e] = t * w.state.dual[e] + (1 - t) * task.one_hot(e / task.k, e % task.k) * task.weight[e / task.k];
  }
}

// In single precision while the gap is far above its rounding.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void take_first_order(Team team, const SolveWorkspace<T>& w, double lipschitz, int steps) {
  const Task<T>& task = w.task;
  if (sizeof(T) == 4 && w.state.gap > 1e-3 * task.total_weight) {
    double norm = task.threshold.group_weight == nullptr ? task.lambda1 : 0.0;
    for (int b = team.rank(); b < task.n_groups; b += team.size()) norm = larger(norm, w.state.norm[b]);
    norm = team.max(norm);
    first_order_steps<T>(team, task, w.state, w.model.direction, w.previous, lipschitz, norm > 0 ? 1 / norm : 1.0, steps);
  } else {
    first_order_steps<double>(team, task, w.state, w.model.direction, w.previous, lipschitz, 1.0, steps);
  }
}

// Classes without samples are interchangeable: averaging their entries takes away the freedom among equal solutions in which Newton
// steps would wander, and raises nothing (core/svm/dual_solver.h).
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void average_absent_classes(Team team, const SolveWorkspace<T>& w, int n_absent) {
  const Task<T>& task = w.task;
  const int k = task.k;
  if (n_absent < 2) return;
  team.sync_team();
  for (int i = team_rank(team); i < task.n; i += team_size(team)) {
    double* row = w.state.dual + i * k;
    double mean = 0;
    for (int l = 0; l < k; ++l) mean += w.absent[l] * row[l];
    mean /= n_absent;
    for (int l = 0; l < k; ++l) row[l] = w.absent[l] != 0 ? mean : row[l];
  }
}

}  // namespace gpu
SPARSESVM_END
