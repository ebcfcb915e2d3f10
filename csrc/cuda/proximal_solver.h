// The proximal method of multipliers (core/svm/proximal_solver.h; docs/method.md, 9), by a team: the outer loop is the core's, the
// inner problems are minimised on working sets of groups.
#pragma once

#include <cmath>

#include "core/linear_algebra/root.h"
#include "core/svm/proximal_rules.h"
#include "cuda/output.h"
#include "cuda/primal_model.h"
#include "cuda/saddle_state.h"

SPARSESVM_BEGIN
namespace gpu {

// square (groups) = sum_i c_i ||f_iG||^2 / group_size, which carries each group's units. False, and no primal value, where that is
// not finite.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE bool measure_groups(Team team, SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  double all = 0;
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) {
    double total = 0;
    for (int i = 0; i < task.n; ++i) {
      for (int j = b * task.g; j < (b + 1) * task.g; ++j) {
        const double value = static_cast<double>(task.rows[i][j]);
        total += task.weight[i] * value * value;
      }
    }
    w.proximal.square[b] = total / task.g;
  }
  team.sync_team();
  for (int b = team.rank(); b < task.n_groups; b += team.size()) all += w.proximal.square[b];
  const bool finite = team.sum(all) <= 1e300;
  if (!finite && team.rank() == 0) w.proximal.best_primal = __builtin_nan("");
  team.sync();
  return finite;
}

// The working set: groups in use, and of the others those that pull hardest against lambda1, at most as many again. Returns the gap
// of the inner problem over all groups.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE double choose_groups(Team team, SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  ProximalArrays<T>& s = w.proximal;
  const int k = task.k;
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) {
    double ww = 0, xx = 0, wx = 0;
    for (int j = b * task.g; j < (b + 1) * task.g; ++j) {
      for (int l = 0; l < k; ++l) {
        const index e = static_cast<index>(j) * k + l;
        const double own = s.w[e], x = w.state.v[static_cast<index>(l) * task.m + j] + s.sigma[b] * s.w_centre[e];
        ww += own * own;
        xx += x * x;
        wx += own * x;
      }
    }
    const double threshold = task.threshold(b), excess = sqrt(xx) - threshold;
    s.by_group[b] = ww > 0 || excess > 0 ? inner_gap(ww, xx, wx, task.lambda2 + s.sigma[b], threshold) : 0.0;
    s.flag[b] = ww > 0;
    s.excess[b] = ww > 0 ? 0.0 : excess;
  }
  team.sync_team();
  double total = 0, used = 0, pulling = 0, high = 0;
  for (int b = team.rank(); b < task.n_groups; b += team.size()) {
    total += s.by_group[b];
    used += s.flag[b];
    pulling += s.excess[b] > 0;
    high = larger(high, s.excess[b]);
  }
  total = team.sum(total);
  used = team.sum(used);
  pulling = team.sum(pulling);
  high = team.max(high);
  const double allowed = larger(used, static_cast<double>(ProximalRules::small_set));
  // A threshold that between half of them and all exceed, as far as ties allow.
  double low = 0, found = 0;
  for (int step = 0; step < 60 && pulling > allowed && found < 0.5 * allowed; ++step) {
    const double middle = 0.5 * (low + high);
    double count = 0;
    for (int b = team.rank(); b < task.n_groups; b += team.size()) count += s.excess[b] > middle;
    count = team.sum(count);
    if (count > allowed) {
      low = middle;
    } else {
      high = middle;
      found = count;
    }
  }
  const double threshold = found > 0 ? high : low;
  team.sync_team();
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) s.flag[b] = s.flag[b] || s.excess[b] > threshold;
  const int count = list_groups(team, task, w.panel, s.flag, 1);
  if (team.rank() == 0) s.n_set = count;
  team.sync();
  return total;
}

// Copies the working set: weights, centre, pull, and its columns over all samples.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void load_groups(Team team, const SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  const ProximalArrays<T>& s = w.proximal;
  const int k = task.k, g = task.g, n = task.n, width = s.n_set * g;
  const int* list = w.panel.list;
  for (int c = team_rank(team); c < width; c += team_size(team)) {
    const int b = list[c / g], j = b * g + c % g;
    if (c % g == 0) s.mu[c / g] = task.lambda2 + s.sigma[b];
    for (int l = 0; l < k; ++l) {
      const index to = static_cast<index>(c) * k + l, from = static_cast<index>(j) * k + l;
      s.set_w[to] = s.w[from];
      s.centre[to] = s.sigma[b] * s.w_centre[from];
      s.pull[to] = w.state.v[static_cast<index>(l) * task.m + j];
    }
  }
  // Neighbouring threads read neighbouring features.
  for (index e = team_rank(team); e < static_cast<index>(width) * n; e += team_size(team)) {
    const int c = static_cast<int>(e % width), i = static_cast<int>(e / width);
    s.columns[static_cast<index>(c) * n + i] = task.rows[i][list[c / g] * g + c % g];
  }
  team.sync_team();
}

template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void store_groups(Team team, const SolveWorkspace<T>& w) {
  const ProximalArrays<T>& s = w.proximal;
  const int block = w.task.g * w.task.k;
  for (int e = team_rank(team); e < s.n_set * block; e += team_size(team)) {
    s.w[static_cast<index>(w.panel.list[e / block]) * block + e % block] = s.set_w[e];
  }
  team.sync_team();
}

// Of the inner objective along `direction`, at set_w + shift * direction and the response in place.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE double inner_slope(Team team, const SolveWorkspace<T>& w, double shift) {
  const Task<T>& task = w.task;
  const ProximalArrays<T>& s = w.proximal;
  const int block = task.g * task.k;
  double total = 0;
  for (int e = team.rank(); e < task.n * task.k; e += team.size()) total -= w.state.coefficients[e] * s.dz[e];
  for (int t = team.rank(); t < s.n_set; t += team.size()) {
    double inner = 0, square = 0, length = 0;
    for (int e = t * block; e < (t + 1) * block; ++e) {
      const double d = s.direction[e], at = s.set_w[e] + shift * d;
      inner += at * d;
      square += at * at;
      length += d * d;
      total += (s.mu[t] * at - s.centre[e]) * d;
    }
    total += task.threshold(w.panel.list[t]) * (square > 0 ? inner / sqrt(square) : sqrt(length));
  }
  return team.sum(total);
}

// Along `direction`, whose end set_w is, to where the inner objective stops falling; leaves weights, scores and response there. False
// where nothing moved.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE bool search_line(Team team, const SolveWorkspace<T>& w) {
  const ProximalArrays<T>& s = w.proximal;
  const int size = s.n_set * w.task.g * w.task.k;
  score_columns(team, w, {nullptr, s.n_set}, s.direction, nullptr, w.task.n, s.dz);
  const double at_zero = inner_slope(team, w, -1.0);
  double here = 0;
  const auto at = [&](double t) {
    respond(team, w, t - here);
    here = t;
    return inner_slope(team, w, t - 1);
  };
  double end = at_zero < 0 ? 1.0 : 0.0;
  if (end > 0) {
    const double at_one = at(1);
    if (at_one > -0.1 * at_zero) {
      end = root_on_unit_interval(at, at_zero, at_one);
      if (end != here) at(end);
    }
  }
  team.sync_team();
  for (int e = team_rank(team); end < 1 && e < size; e += team_size(team)) s.set_w[e] += (end - 1) * s.direction[e];
  team.sync_team();
  return end > 0;
}

// Lists the remnants of groups in `flag`; whether there may be any. Leaves V and its norms at the best dual.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE bool list_remnants(Team team, const SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  const ProximalArrays<T>& s = w.proximal;
  const int k = task.k, block = task.g * k;
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) {
    double square = 0;
    for (index e = static_cast<index>(b) * block; e < static_cast<index>(b + 1) * block; ++e) square += s.best_w[e] * s.best_w[e];
    s.excess[b] = square * s.square[b];
  }
  team.sync_team();
  double largest = 0, slight = 0;
  for (int b = team.rank(); b < task.n_groups; b += team.size()) largest = larger(largest, s.excess[b]);
  largest = team.max(largest);
  for (int b = team.rank(); b < task.n_groups; b += team.size()) {
    slight = larger(slight, is_slight(s.excess[b], largest) ? 1.0 : 0.0);
  }
  if (team.max(slight) == 0) return false;
  for (int e = team_rank(team); e < task.n * k; e += team_size(team)) {
    w.state.coefficients[e] = task.weight[e / k] * (task.one_hot(e / k, e % k) - s.best_p[e]);
  }
  team.sync_team();
  pull_all(team, w);
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) {
    s.flag[b] = is_slight(s.excess[b], largest) && w.state.norm[b] < task.threshold(b);
  }
  team.sync_team();
  return true;
}

// Puts the best weights, rounded to T and where `dropping` without the flagged groups, where `write_outputs` finds them, and
// their scores.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void put_best_weights(Team team, const SolveWorkspace<T>& w, bool dropping) {
  const Task<T>& task = w.task;
  const ProximalArrays<T>& s = w.proximal;
  const int k = task.k, g = task.g;
  team.sync_team();
  for (int b = team_rank(team); b < task.n_groups; b += team_size(team)) {
    const bool dropped = dropping && s.flag[b];
    double square = 0;
    for (int e = b * g; e < (b + 1) * g; ++e) {
      for (int l = 0; l < k; ++l) {
        const double best = dropped ? 0.0 : s.best_w[static_cast<index>(e) * k + l];
        const double value = static_cast<double>(static_cast<T>(best));
        w.state.w[static_cast<index>(l) * task.m + e] = value;
        square += value * value;
      }
    }
    w.model.on[b] = square > 0;
    s.by_group[b] = task.threshold(b) * sqrt(square) + 0.5 * task.lambda2 * square;
  }
  add_scores(team, task, w.state);
}

// Of the weights and scores in place.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE double objective_of_put(Team team, const SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  const int k = task.k;
  for (int i = team_rank(team); i < task.n; i += team_size(team)) {
    double* scratch = w.state.sample + 2 * k * i;
    const double* row = w.proximal.best_p + i * k;
    const SampleValue value = sample_value(w.state.scores + i * k, row, task.label[i], k, task.smoothing, scratch);
    w.state.value[i] = task.weight[i] * value.loss;
  }
  team.sync_team();
  double objective = 0;
  for (int i = team.rank(); i < task.n; i += team.size()) objective += w.state.value[i];
  for (int b = team.rank(); b < task.n_groups; b += team.size()) objective += w.proximal.by_group[b];
  return team.sum(objective);
}

// The best dual for `write_outputs`, and the gap that it leaves the objective of the weights in place. Whether any group is
// active.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE bool put_best_dual(Team team, SolveWorkspace<T>& w, double objective) {
  const Task<T>& task = w.task;
  ProximalArrays<T>& s = w.proximal;
  const int k = task.k;
  for (int e = team_rank(team); e < task.n * k; e += team_size(team)) w.state.dual[e] = task.weight[e / k] * s.best_p[e];
  team.sync();
  if (team.rank() == 0) {
    s.best_primal = w.state.objective = objective;
    w.state.gap = certified_gap(s);
  }
  double any = 0;
  for (int b = team.rank(); b < task.n_groups; b += team.size()) any = larger(any, w.model.on[b] ? 1.0 : 0.0);
  any = team.max(any);
  team.sync_team();
  return any > 0;
}

template <typename T, class Team>
class ProximalSolver {
 public:
  SPARSESVM_HD ProximalSolver(Team team, SolveWorkspace<T>& w) : team_(team), w_(w), task_(w.task), s_(w.proximal) {}

  // From W = 0 and the given probabilities (n_samples, k), or none, until the gap is at most `target`.
  SPARSESVM_HD Status solve(const double* probabilities, double target, index max_iter, index& iterations) {
    start_saddle(team_, w_, probabilities);
    if (!measure_groups(team_, w_)) return Status::non_finite;
    return proximal_loop(*this, task_.smoothing, task_.total_weight, target, max_iter, iterations);
  }

  // For the outer loop.
  SPARSESVM_HD double gap() const { return certified_gap(s_); }
  SPARSESVM_HD double best_primal() const { return s_.best_primal; }
  SPARSESVM_HD double loss_gap() const { return s_.loss_gap; }
  SPARSESVM_HD double penalty_gap() const { return s_.penalty_gap; }
  SPARSESVM_HD void move_centre() { gpu::move_centre(team_, w_); }
  SPARSESVM_HD void set_terms(double rho, double scale) {
    team_.sync_team();
    if (team_.rank() == 0) s_.rho = rho;
    for (int b = team_rank(team_); b < task_.n_groups; b += team_size(team_)) {
      s_.sigma[b] = proximal_curvature(scale, s_.square[b], task_.lambda2);
    }
    team_.sync_team();
  }

  // Minimises the inner problem until its gap is a tenth of the true one.
  SPARSESVM_HD InnerEnd solve_inner(double target) {
    index steps = 0;
    respond(team_, w_, 0);
    for (;;) {
      pull_all(team_, w_);
      certify_saddle(team_, w_);
      const double now = gap();
      if (now <= target || !(now <= 1e300)) return {true, steps};
      const double allowed = ProximalRules::inner_share * now;
      if (choose_groups(team_, w_) <= allowed) return {true, steps};
      if (steps >= ProximalRules::max_steps) return {false, steps};
      load_groups(team_, w_);
      const bool moved = solve_on_groups(ProximalRules::set_share * allowed, steps);
      store_groups(team_, w_);
      if (!moved) return {false, steps};
    }
  }

  // The weights as the caller gets them, the probabilities of the best dual value, and the gap of this pair.
  SPARSESVM_HD void write(const SolveArguments<T>& arguments, index number, Status status, int iterations) {
    const double objective = write_best_weights(*this, status != Status::non_finite);
    const bool any = put_best_dual(team_, w_, objective);
    status = status_of_written(arguments, task_, gap(), status);
    const bool unique = task_.lambda2 > 0 || status != Status::converged || !any;
    write_outputs(team_, w_, arguments, number, unique ? status : Status::not_unique, iterations);
  }

  // For `write_best_weights`.
  SPARSESVM_HD void write_weights(bool dropping) { put_best_weights(team_, w_, dropping); }
  SPARSESVM_HD double objective_of_written() { return objective_of_put(team_, w_); }
  SPARSESVM_HD bool list_remnants() { return gpu::list_remnants(team_, w_); }

 private:
  // Newton steps on the working set, one at least, until its gap is at most `enough`: that of all groups is not yet, but may lie in
  // many small parts elsewhere. False when none moved.
  SPARSESVM_HD bool solve_on_groups(double enough, index& steps) {
    const Columns all{nullptr, s_.n_set};
    for (bool moved = false;; moved = true) {
      const double gap = working_set_gap();
      if ((moved && gap <= enough) || steps >= ProximalRules::max_steps) return moved;
      ++steps;
      collect_free(team_, w_);
      step_model(team_, w_);
      set_direction();
      if (!search_line(team_, w_)) return moved;
      pull_columns(team_, w_, all, w_.state.coefficients, nullptr, task_.n, s_.pull);
    }
  }

  // Also the gradient of the smooth part, and in `direction` where the step begins.
  SPARSESVM_HD double working_set_gap() {
    const int block = task_.g * task_.k;
    for (int t = team_rank(team_); t < s_.n_set; t += team_size(team_)) {
      double ww = 0, xx = 0, wx = 0;
      for (int e = t * block; e < (t + 1) * block; ++e) {
        const double own = s_.set_w[e], x = s_.pull[e] + s_.centre[e];
        s_.gradient[e] = s_.mu[t] * own - x;
        s_.direction[e] = own;
        ww += own * own;
        xx += x * x;
        wx += own * x;
      }
      s_.by_group[t] = inner_gap(ww, xx, wx, s_.mu[t], task_.threshold(w_.panel.list[t]));
    }
    team_.sync_team();
    double total = 0;
    for (int t = team_.rank(); t < s_.n_set; t += team_.size()) total += s_.by_group[t];
    return team_.sum(total);
  }

  SPARSESVM_HD void set_direction() {
    for (int e = team_rank(team_); e < s_.n_set * task_.g * task_.k; e += team_size(team_)) {
      s_.direction[e] = s_.set_w[e] - s_.direction[e];
    }
    team_.sync_team();
  }

  Team team_;
  SolveWorkspace<T>& w_;
  const Task<T>& task_;
  ProximalArrays<T>& s_;
};

}  // namespace gpu
SPARSESVM_END
