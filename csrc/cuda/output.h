// What the caller gets: weights changed where that serves, and the fields of a solution.
#pragma once

#include "cuda/state.h"

SPARSESVM_BEGIN
namespace gpu {

template <typename T>
SPARSESVM_HD bool is_borderline(const SolveWorkspace<T>& w, int b) {
  const double threshold = w.task.threshold(b);
  return w.state.norm[b] > threshold && !(w.state.norm[b] > (1 + 1e-9) * threshold);
}

// The loss at W = 0, which is the objective.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE double loss_without_weights(Team team, const SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  const int k = task.k;
  for (int i = team_rank(team); i < task.n; i += team_size(team)) {
    double *zero = w.state.sample + 2 * k * i, *scratch = zero + k;
    for (int l = 0; l < k; ++l) zero[l] = 0;
    // The loss does not depend on the dual.
    w.state.value[i] = task.weight[i] * sample_value(zero, zero, task.label[i], k, task.smoothing, scratch).loss;
  }
  team.sync_team();
  double without = 0;
  for (int i = team.rank(); i < task.n; i += team.size()) without += w.state.value[i];
  return team.sum(without);
}

// 0: no weights, where these are no better (from lambda1_max on). 1: no weights in groups whose norm exceeds lambda1 by rounding
// alone; counting them would change the gradient. 2: weights rounded to T. False when nothing changed.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE bool change_weights(Team team, const SolveWorkspace<T>& w, int stage) {
  const Task<T>& task = w.task;
  const int k = task.k, m = task.m;
  if (stage < 2 && !(task.lambda1 > 0)) return false;
  if (stage == 2 && sizeof(T) == sizeof(double)) return false;
  double worth = stage == 0 && loss_without_weights(team, w) <= w.state.objective ? 1 : 0;
  const Range groups = task.own_groups(team);
  if (stage == 1) {
    for (int b = team.rank(); b < task.n_groups; b += team.size()) worth = larger(worth, is_borderline(w, b) ? 1.0 : 0.0);
    worth = team.max(worth);
  }
  team.sync_team();
  if (stage < 2 && worth == 0) return false;
  for (int b = groups.begin + team.rank(); b < groups.end; b += team.size()) {
    if (stage == 1 && !is_borderline(w, b)) continue;
    if (stage < 2) w.state.norm[b] = smaller(w.state.norm[b], task.threshold(b));
    for (int l = 0; l < k; ++l) {
      for (int j = b * task.g; j < (b + 1) * task.g; ++j) {
        double& value = w.state.w[static_cast<index>(l) * m + j];
        value = stage < 2 ? 0.0 : static_cast<double>(static_cast<T>(value));
      }
    }
  }
  return true;
}

template <typename T, class Team>
SPARSESVM_HD void write_status(Team team, const SolveArguments<T>& arguments, index number, Status status) {
  if (team.part() == 0 && team.rank() == 0) arguments.status[number] = static_cast<std::int8_t>(status);
}

// The solution that `state` holds, with the groups of `model.on` as the active ones.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void write_outputs(Team team, const SolveWorkspace<T>& w, const SolveArguments<T>& arguments,
                                                   index number, Status status, int iterations) {
  const Task<T>& task = w.task;
  const bool finite = status != Status::non_finite;
  const double nan = __builtin_nan("");
  const int k = task.k, m = task.m, n = task.n, absent = task.n_samples - n;
  team.sync_team();
  T* weights = arguments.weights + number * task.n_way * m;
  for (int l = 0; l < k; ++l) {
    for (int j = team_rank(team); j < m; j += team_size(team)) {
      const index e = static_cast<index>(l) * m + j;
      weights[e] = static_cast<T>(finite ? w.state.w[e] : nan);
    }
  }
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) {
    arguments.active[number * task.n_groups + b] = finite && w.model.on[b];
  }
  T* dual = arguments.dual + number * task.n_samples * task.n_way;
  for (int e = team_rank(team); e < n * k; e += team_size(team)) {
    dual[static_cast<index>(task.sample[e / k]) * task.n_way + e % k] = static_cast<T>(w.state.dual[e] / task.weight[e / k]);
  }
  if (team.part() == 0 && team.rank() == 0) {
    arguments.gap[number] = finite ? w.state.gap : nan;
    arguments.objective[number] = finite ? w.state.objective : nan;
    arguments.n_iter[number] = iterations;
  }
  write_status(team, arguments, number, status);
  // Samples of weight zero take the probabilities they would have if their weight grew. Their features may be anything.
  if (absent == 0) return;
  multiply_rows(team, task, task.rows, n, absent, w.state.w, w.state.partial);
  team.sync_team();
  for (int i = team_rank(team); i < absent; i += team_size(team)) {
    double *scores = w.state.sample + 2 * k * i, *response = scores + k;
    for (int l = 0; l < k; ++l) {
      const double score = add_chunks(w.state.partial, task.n_chunks, absent, k, i * k + l);
      scores[l] = fabs(score) <= 1e300 ? score : 0.0;
    }
    best_response(scores, task.label[n + i], k, task.smoothing, response);
    for (int l = 0; l < k; ++l) dual[static_cast<index>(task.sample[n + i]) * task.n_way + l] = static_cast<T>(response[l]);
  }
}

}  // namespace gpu
SPARSESVM_END
