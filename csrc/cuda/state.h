// From the dual to V = (diag(c) Y - A)' F, group norms, weights, scores, gradient and certificate (docs/method.md, 1 and 2).
#pragma once

#include <cmath>

#include "core/prox.h"
#include "core/svm/objective.h"
#include "cuda/passes.h"
#include "cuda/workspace.h"

SPARSESVM_BEGIN
namespace gpu {

// V and its norms on a block's own groups, from coefficients (n, k).
template <typename S, typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void pull_groups(Team block, const Task<T>& task, const S* coefficients, S* v, double* norm) {
  const Range groups = task.own_groups(block), columns = task.columns(groups);
  combine_rows(block, task.rows, task.n, coefficients, task.k, task.m, columns, v);
  block.sync();
  for (int b = groups.begin + block.rank(); b < groups.end; b += block.size()) {
    S square = 0;
    for (int l = 0; l < task.k; ++l) {
      const S* row = v + static_cast<index>(l) * task.m + b * task.g;
      for (int j = 0; j < task.g; ++j) square += row[j] * row[j];
    }
    norm[b] = sqrt(static_cast<double>(square));
  }
  block.sync();
}

// The same, and W = BST(V, threshold) times `inverse`.
template <typename S, typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void link(Team block, const Task<T>& task, const S* coefficients, S* v, S* w, double* norm,
                                          Thresholds threshold, double inverse) {
  pull_groups(block, task, coefficients, v, norm);
  const Range groups = task.own_groups(block);
  for (int b = groups.begin + block.rank(); b < groups.end; b += block.size()) {
    const S factor = static_cast<S>(soft_threshold_factor(norm[b], threshold(b)) * inverse);
    for (int l = 0; l < task.k; ++l) {
      const index at = static_cast<index>(l) * task.m + b * task.g;
      for (int j = 0; j < task.g; ++j) w[at + j] = factor * v[at + j];
    }
  }
  block.sync();
}

// Scores S = F W' of all present samples; ends with a barrier of the team.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void add_scores(Team team, const Task<T>& task, const StateArrays& s) {
  team.sync_team();  // the sums of the last call have been read
  multiply_rows(team, task, task.rows, 0, task.n, s.w, s.partial);
  team.sync_team();
  for (int e = team_rank(team); e < task.n * task.k; e += team_size(team)) {
    s.scores[e] = add_chunks(s.partial, task.n_chunks, task.n, task.k, e);
  }
  team.sync_team();
}

// Everything that follows from the dual.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void evaluate(Team team, const Task<T>& task, const StateArrays& s) {
  team.sync_team();
  for (int e = team_rank(team); e < task.n * task.k; e += team_size(team)) {
    const int i = e / task.k, l = e % task.k;
    s.coefficients[e] = task.one_hot(i, l) * task.weight[i] - s.dual[e];
  }
  team.sync_team();
  link(team, task, s.coefficients, s.v, s.w, s.norm, task.threshold, 1 / task.lambda2);
  add_scores(team, task, s);
  for (int e = team_rank(team); e < task.n * task.k; e += team_size(team)) {
    const int i = e / task.k, l = e % task.k;
    const double y = task.one_hot(i, l);
    const double smooth = task.smoothing > 0 ? task.smoothing * (s.dual[e] / task.weight[i] - y) : 0.0;
    s.gradient[e] = y - s.scores[e] + smooth;
  }
  team.sync_team();
}

// Gap and primal objective of the current dual; call after `evaluate`. Every block keeps both.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void certify(Team team, const Task<T>& task, StateArrays& s) {
  const int k = task.k;
  for (int i = team_rank(team); i < task.n; i += team_size(team)) {
    double* probabilities = s.sample + 2 * k * i;
    for (int l = 0; l < k; ++l) probabilities[l] = s.dual[i * k + l] / task.weight[i];
    const SampleValue value = sample_value(s.scores + i * k, probabilities, task.label[i], k, task.smoothing, probabilities + k);
    s.value[2 * i] = task.weight[i] * value.loss;
    s.value[2 * i + 1] = task.weight[i] * value.gap;
  }
  team.sync_team();
  double loss = 0, gap = 0, penalty = 0;
  for (int i = team.rank(); i < task.n; i += team.size()) {
    loss += s.value[2 * i];
    gap += s.value[2 * i + 1];
  }
  for (int b = team.rank(); b < task.n_groups; b += team.size()) {
    const double threshold = task.threshold(b), excess = s.norm[b] > threshold ? s.norm[b] - threshold : 0.0;
    penalty += excess * (threshold + 0.5 * excess);  // lambda1 ||W||_21 + lambda2 / 2 ||W||^2, from the norms of V
  }
  gap = team.sum(gap);
  loss = team.sum(loss);
  penalty = team.sum(penalty);
  if (team.rank() == 0) {
    s.gap = gap;
    s.objective = loss + penalty / task.lambda2;
  }
  team.sync_team();
}

}  // namespace gpu
SPARSESVM_END
