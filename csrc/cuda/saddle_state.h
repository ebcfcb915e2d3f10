// The iterate (W, p) of the proximal method of multipliers, and the best primal and dual values seen on the way
// (core/svm/saddle_state.h), by a team.
#pragma once

#include <cmath>

#include "core/svm/proximal_rules.h"
#include "cuda/output.h"
#include "cuda/state.h"

SPARSESVM_BEGIN
namespace gpu {

// Never below what rounding leaves of two sums of this size.
template <typename T>
SPARSESVM_HD double certified_gap(const ProximalArrays<T>& s) {
  return (s.best_primal <= s.best_dual ? 0.0 : s.best_primal - s.best_dual) + s.rounding;
}

// W = 0 and `probabilities` (n_samples, n_way), or uniform ones. The labels' own dual has the value zero.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void start_saddle(Team team, SolveWorkspace<T>& w, const double* probabilities) {
  const Task<T>& task = w.task;
  ProximalArrays<T>& s = w.proximal;
  const int k = task.k;
  team.sync_team();
  if (team_rank(team) == 0) s.basis.fill();
  for (index e = team_rank(team); e < static_cast<index>(task.m) * k; e += team_size(team)) {
    s.w[e] = s.w_centre[e] = s.best_w[e] = 0;
  }
  for (int i = team_rank(team); i < task.n; i += team_size(team)) {
    for (int l = 0; l < k; ++l) {
      s.z[i * k + l] = 0;
      s.best_p[i * k + l] = task.one_hot(i, l);
      s.p_centre[i * k + l] = probabilities != nullptr ? probabilities[static_cast<index>(task.sample[i]) * task.n_way + l] : 1.0 / k;
    }
    project_simplex(s.p_centre + i * k, k, 1.0);
  }
  const double without = loss_without_weights(team, w);
  if (team.rank() == 0) {
    s.best_primal = without;
    s.rounding = 1e-16 * without;
    s.best_dual = 0;
  }
  team.sync_team();
}

// Scores move by `length` along dz; p = the probabilities that maximise the inner saddle there, coefficients = diag(c) (Y - p).
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void respond(Team team, const SolveWorkspace<T>& w, double length) {
  const Task<T>& task = w.task;
  const ProximalArrays<T>& s = w.proximal;
  const int k = task.k;
  const double total = task.smoothing + s.rho;
  team.sync_team();
  for (int i = team_rank(team); i < task.n; i += team_size(team)) {
    double* row = s.p + i * k;
    for (int l = 0; l < k; ++l) {
      const int e = i * k + l;
      const double y = task.one_hot(i, l);
      if (length != 0) s.z[e] += length * s.dz[e];
      row[l] = (s.z[e] - y + task.smoothing * y + s.rho * s.p_centre[e]) / total;
    }
    project_simplex(row, k, 1.0);
    for (int l = 0; l < k; ++l) w.state.coefficients[i * k + l] = task.weight[i] * (task.one_hot(i, l) - row[l]);
  }
  team.sync_team();
}

// V and its norms: the one pass over all features.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void pull_all(Team team, const SolveWorkspace<T>& w) {
  pull_groups(team, w.task, w.state.coefficients, w.state.v, w.state.norm);
  team.sync_team();
}

// Values of the original problem at W and at p after `pull_all`; the best of each are kept apart. Also what of this pair's gap the
// loss and the penalty leave open.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void certify_saddle(Team team, SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  ProximalArrays<T>& s = w.proximal;
  const int k = task.k, block = task.g * k;
  for (int i = team_rank(team); i < task.n; i += team_size(team)) {
    const double *row = s.p + i * k, c = task.weight[i];
    const SampleValue value = sample_value(s.z + i * k, row, task.label[i], k, task.smoothing, w.state.sample + 2 * k * i);
    double square = 0;
    for (int l = 0; task.smoothing > 0 && l < k; ++l) square += (row[l] - task.one_hot(i, l)) * (row[l] - task.one_hot(i, l));
    double* sums = s.by_sample + 4 * i;
    sums[0] = c * value.loss;
    sums[1] = c * value.gap;
    sums[2] = c * (1 - row[task.label[i]]);
    sums[3] = task.smoothing * c * square;
  }
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) {
    double square = 0;
    for (int e = 0; e < block; ++e) square += s.w[static_cast<index>(b) * block + e] * s.w[static_cast<index>(b) * block + e];
    s.by_group[b] = task.threshold(b) * sqrt(square) + 0.5 * task.lambda2 * square;
  }
  team.sync_team();
  double loss = 0, loss_gap = 0, linear = 0, curved = 0, penalty = 0, largest = 0;
  for (int i = team.rank(); i < task.n; i += team.size()) {
    const double* sums = s.by_sample + 4 * i;
    loss += sums[0];
    loss_gap += sums[1];
    linear += sums[2];
    curved += sums[3];
  }
  for (int b = team.rank(); b < task.n_groups; b += team.size()) {
    penalty += s.by_group[b];
    largest = larger(largest, w.state.norm[b] > 0 ? w.state.norm[b] / task.threshold(b) : 0.0);  // beside its threshold
  }
  loss_gap = team.sum(loss_gap);
  linear = team.sum(linear);
  curved = team.sum(curved);
  largest = team.max(largest);
  const double primal = team.sum(loss) + team.sum(penalty);
  const auto sums = [&](double share) {
    ExcessSums found{};
    for (int b = team.rank(); b < task.n_groups; b += team.size()) found.add(w.state.norm[b], share, task.threshold(b));
    found.square = team.sum(found.square);
    found.slope = team.sum(found.slope);
    found.bend = team.sum(found.bend);
    return found;
  };
  const double share = best_share(linear, curved, task.lambda2, largest, sums);
  const double dual = scaled_dual_value(share, linear, curved, task.lambda2, sums);
  const bool finite = fabs(primal) <= 1e300 && fabs(dual) <= 1e300;
  const bool better_primal = finite && primal < s.best_primal, better_dual = finite && dual > s.best_dual;
  team.sync();
  if (team.rank() == 0) {
    s.loss_gap = loss_gap;
    s.penalty_gap = primal - dual - loss_gap;
    if (better_primal || !finite) s.best_primal = finite ? primal : __builtin_nan("");
    if (better_dual) s.best_dual = dual;
  }
  if (better_primal) {
    for (index e = team_rank(team); e < static_cast<index>(task.m) * k; e += team_size(team)) s.best_w[e] = s.w[e];
  }
  if (better_dual) {
    for (int e = team_rank(team); e < task.n * k; e += team_size(team)) {
      const double y = task.one_hot(e / k, e % k);
      s.best_p[e] = y + share * (s.p[e] - y);
    }
  }
  team.sync_team();
}

template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void move_centre(Team team, const SolveWorkspace<T>& w) {
  const ProximalArrays<T>& s = w.proximal;
  for (int e = team_rank(team); e < w.task.n * w.task.k; e += team_size(team)) s.p_centre[e] = s.p[e];
  for (index e = team_rank(team); e < static_cast<index>(w.task.m) * w.task.k; e += team_size(team)) s.w_centre[e] = s.w[e];
  team.sync_team();
}

}  // namespace gpu
SPARSESVM_END
