// Newton steps on the features in use of a sparse regression.
#pragma once

#include "core/regression/state.h"

SPARSESVM_BEGIN

template <typename T>
struct RegressionNewton {
  ActiveSystem system;
  double* step;    // (m, q) of the features in use, side by side
  double* before;  // (m, q) their weights before the step

  SPARSESVM_HD void take(Arena& arena, const RegressionBatch<T>& batch) {
    constexpr index most = 1024;  // variables; more in use are left to coordinate descent alone
    const index all = batch.n_features * batch.n_outputs;
    system.take(arena, all < most ? all : most);
    step = arena.template take<double>(all);
    before = arena.template take<double>(all);
  }

  // Solves the optimality conditions of the features in use. A feature whose weights would turn round is set to zero if that
  // lowers the objective; else the step ends where the first one vanishes (up to there a single output's objective falls for
  // certain). Whether the whole step was taken.
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE bool take_step(Team team, RegressionState<T>& state) {
    const RegressionTask<T>& task = state.task;
    const index q = task.q;
    if (state.n_active == 0 || state.n_active * q > system.limit) return true;
    index dependent = system.factor(team, task, state.active, state.n_active);
    while (dependent >= 0 && slide(team, state, dependent)) {
      dependent = system.factor(team, task, state.active, state.n_active);
    }
    if (state.n_active == 0) return true;
    const index count = state.n_active;
    list_columns(team, state);
    team.products(state.left, count, task.residual, task.stride, q, task.stride, task.inverse_n, step, q);
    for (index a = team.rank(); a < count; a += team.size()) {
      const double norm = task.norm(state.active[a]);
      for (index o = 0; o < q; ++o) {
        const double w = task.weights[state.active[a] * q + o];
        before[a * q + o] = w;
        step[a * q + o] -= task.lambda1 * (w / norm) + task.lambda2 * w;
      }
    }
    team.sync();
    system.solve(team, step, count * q);
    // Near the end a step's gain is lost in the rounding of the objective.
    const double now = (1 + 1e-14) * state.objective(team);
    double first = 1;  // share of the step at which the first feature turns round
    for (index a = team.rank(); a < count; a += team.size()) {
      double along = 0, square = 0;
      for (index o = 0; o < q; ++o) {
        along += step[a * q + o] * before[a * q + o];
        square += before[a * q + o] * before[a * q + o];
      }
      if (task.lambda1 > 0 && along < 0 && square + first * along <= 0) first = -square / along;
    }
    first = -team.max(-first);
    if (go(team, state, 1.0) <= now) return true;
    double share = q == 1 && first < 1 ? first : 0.5;
    for (index halving = 0; halving < 10; ++halving, share *= 0.5) {
      if (go(team, state, share) <= now) return false;
    }
    go(team, state, 0.0);
    return true;
  }

  // A variable that depends on those before it: along the combination v with H v = 0 the fit does not change and the norms change
  // linearly, hence so does the objective, until the first feature's weights vanish. Goes there, downhill.
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE bool slide(Team team, RegressionState<T>& state, index dependent) {
    const RegressionTask<T>& task = state.task;
    const index q = task.q, count = state.n_active, k = dependent / q, output = dependent % q;
    const double* u = task.weights + state.active[k] * q;
    const double own_norm = task.norm(state.active[k]);
    for (index i = team.rank(); i < count * q; i += team.size()) step[i] = 0;
    list_columns(team, state);
    team.products(state.left, count, state.left[k], 0, 1, task.stride, -task.inverse_n, step + output, q);
    for (index o = team.rank(); o < q; o += team.size()) {
      step[k * q + o] += task.lambda1 / own_norm * (u[o] / own_norm) * (u[output] / own_norm);
    }
    team.sync();
    system.solve(team, step, count * q);
    if (team.rank() == 0) step[dependent] = 1;
    team.sync();
    double slope = 0;
    for (index a = team.rank(); a < count; a += team.size()) slope += growth(state, a) / task.norm(state.active[a]);
    const double direction = team.sum(slope) > 0 ? -1 : 1;
    double mine = HUGE_VAL;
    index my_first = count;
    for (index a = team.rank(); a < count; a += team.size()) {
      const double norm = task.norm(state.active[a]), gain = direction * growth(state, a);
      const double reach = -norm * norm / gain;
      if (gain < 0 && reach < mine) {
        mine = reach;
        my_first = a;
      }
    }
    const double length = -team.max(-mine);
    const index first = static_cast<index>(-team.max(-static_cast<double>(mine == length ? my_first : count)));
    if (first == count) return false;
    for (index a = team.rank(); a < count; a += team.size()) {
      for (index o = 0; o < q; ++o) {
        double& w = task.weights[state.active[a] * q + o];
        w = a == first ? 0 : w + length * direction * step[a * q + o];
      }
    }
    team.sync();
    state.collect_active(team);
    state.compute_residual(team);
    return true;
  }

  // The objective after this share of the step.
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE double go(Team team, RegressionState<T>& state, double share) {
    const RegressionTask<T>& task = state.task;
    const index q = task.q;
    for (index a = team.rank(); a < state.n_active; a += team.size()) {
      double* w = task.weights + state.active[a] * q;
      double along = 0;
      for (index o = 0; o < q; ++o) {
        w[o] = before[a * q + o] + share * step[a * q + o];
        along += w[o] * before[a * q + o];
      }
      if (task.lambda1 > 0 && along <= 0) {
        for (index o = 0; o < q; ++o) w[o] = 0;
      }
    }
    team.sync();
    state.compute_residual(team);
    return state.objective(team);
  }

  // <w, step> of one feature in use.
  SPARSESVM_HD double growth(const RegressionState<T>& state, index a) const {
    const index q = state.task.q;
    double total = 0;
    for (index o = 0; o < q; ++o) total += state.task.weights[state.active[a] * q + o] * step[a * q + o];
    return total;
  }

  template <class Team>
  SPARSESVM_HD static void list_columns(Team team, RegressionState<T>& state) {
    for (index a = team.rank(); a < state.n_active; a += team.size()) state.left[a] = state.task.column[state.active[a]];
    team.sync();
  }
};

SPARSESVM_END
