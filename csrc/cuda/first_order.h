// Accelerated projected gradient on the dual with restart: what comes before and between the Newton steps. An iteration is two
// passes over the features, which a device does as fast as it reads them.
#pragma once

#include <cmath>

#include "cuda/panel.h"
#include "cuda/state.h"

SPARSESVM_BEGIN
namespace gpu {

// Bound on the largest eigenvalue of F F', from the Gram matrix.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE double feature_bound(Team team, const Task<T>& task, const ModelArrays& model,
                                                     const PanelArrays& panel) {
  const int n = task.n;
  for (int e = team_rank(team); e < n * n; e += team_size(team)) model.gram[e] = 0;
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) panel.list[b] = b;
  const int width = PanelArrays::groups(task);
  for (int c = team_rank(team); c < width * task.g; c += team_size(team)) panel.column_weight[c] = 1;
  for (int first = 0; first < task.n_groups; first += width) {
    const int filled = smaller(width, task.n_groups - first);
    team.sync_team();
    load_columns(team, task, panel, first, filled);
    team.sync_team();
    add_rank_update(team_rank(team), team_size(team), panel.column, n, panel.column_weight, filled * task.g, n, model.gram, n);
  }
  team.sync_team();
  if (team.part() == 0) {
    const double value = largest_eigenvalue(team, model.gram, n, model.x, model.q);
    if (team.rank() == 0) model.value[0] = value;
  }
  team.sync_team();
  return model.value[0];
}

// The gradient of the dual at `point`, which need not be feasible, for a block's own samples. S: precision of the passes over
// features; V is held in units of `scale`, so that single precision serves any units of the features.
template <typename S, typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void evaluate_point(Team team, const Task<T>& task, const StateArrays& s, const double* point,
                                                    double scale) {
  const int k = task.k;
  const Range own = share(task.n, team.part(), team.parts());
  S* coefficients = reinterpret_cast<S*>(s.coefficients);
  S* partial = reinterpret_cast<S*>(s.partial);
  for (int e = own.begin * k + team.rank(); e < own.end * k; e += team.size()) {
    coefficients[e] = static_cast<S>(scale * (task.one_hot(e / k, e % k) * task.weight[e / k] - point[e]));
  }
  team.sync_team();
  const Thresholds threshold{task.lambda1 * scale, task.threshold.group_weight};
  link(team, task, coefficients, reinterpret_cast<S*>(s.v), reinterpret_cast<S*>(s.w), s.norm, threshold, 1.0);
  multiply_rows(team, task, task.rows, 0, task.n, reinterpret_cast<const S*>(s.w), partial);
  team.sync_team();
  const double score_scale = 1 / (scale * task.lambda2);
  for (int e = own.begin * k + team.rank(); e < own.end * k; e += team.size()) {
    const double y = task.one_hot(e / k, e % k);
    const double smooth = task.smoothing > 0 ? task.smoothing * (point[e] / task.weight[e / k] - y) : 0.0;
    s.gradient[e] = y - score_scale * add_chunks(partial, task.n_chunks, task.n, k, e) + smooth;
  }
  team.sync();
}

// Moves a block's own samples from `point` down the gradient and back to the simplices; returns the sum of <gradient, x - previous>
// over all samples, which is positive where momentum no longer helps.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE double move_samples(Team team, const Task<T>& task, const StateArrays& s, const double* point,
                                                    double* previous, double step) {
  const int k = task.k;
  const Range own = share(task.n, team.part(), team.parts());
  for (int i = own.begin + team.rank(); i < own.end; i += team.size()) {
    double uphill = 0;
    for (int e = i * k; e < (i + 1) * k; ++e) {
      previous[e] = s.dual[e];
      s.dual[e] = point[e] - step * s.gradient[e];
    }
    project_simplex(s.dual + i * k, k, task.weight[i]);
    for (int e = i * k; e < (i + 1) * k; ++e) uphill += s.gradient[e] * (s.dual[e] - previous[e]);
    s.value[i] = uphill;
  }
  team.sync_team();
  double uphill = 0;
  for (int i = team.rank(); i < task.n; i += team.size()) uphill += s.value[i];
  return team.sum(uphill);
}

// `iterations` steps from the dual, which they leave unevaluated; `scale` as above.
template <typename S, typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void first_order_steps(Team team, const Task<T>& task, const StateArrays& s, double* point,
                                                       double* previous, double lipschitz, double scale, int iterations) {
  const Range samples = share(task.n, team.part(), team.parts()), own{samples.begin * task.k, samples.end * task.k};
  double momentum = 1;
  team.sync_team();
  for (int e = own.begin + team.rank(); e < own.end; e += team.size()) point[e] = s.dual[e];
  for (int iteration = 0; iteration < iterations; ++iteration) {
    evaluate_point<S>(team, task, s, point, scale);
    const double uphill = move_samples(team, task, s, point, previous, 1 / lipschitz);
    if (uphill > 0) momentum = 1;
    const double next = 0.5 * (1 + sqrt(1 + 4 * momentum * momentum));
    const double carry = uphill > 0 ? 0.0 : (momentum - 1) / next;
    momentum = next;
    for (int e = own.begin + team.rank(); e < own.end; e += team.size()) point[e] = s.dual[e] + carry * (s.dual[e] - previous[e]);
  }
  team.sync_team();
}

// Lipschitz constant of the dual gradient.
template <typename T, class Team>
SPARSESVM_HD double dual_lipschitz(Team team, const Task<T>& task, double bound) {
  double smooth = 0;
  for (int i = team.rank(); i < task.n; i += team.size()) smooth = larger(smooth, task.smoothing / task.weight[i]);
  const double value = bound / task.lambda2 + team.max(smooth);
  return value > 0 ? value : 1.0;
}

}  // namespace gpu
SPARSESVM_END
