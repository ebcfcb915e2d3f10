// Lasso, elastic net and their group versions for one task: coordinate descent on a working set of features, Newton steps on
// those in use, and the duality gap over all as the stopping test.
#pragma once

#include "core/regression/newton.h"

SPARSESVM_BEGIN

template <typename T>
class RegressionSolver {
 public:
  SPARSESVM_HD void take(Arena& arena, const RegressionBatch<T>& batch) {
    state_.take(arena, batch);
    newton_.take(arena, batch);
    working_ = arena.template take<index>(batch.n_features);
    everything_ = arena.template take<index>(batch.n_features);
    pull_ = arena.template take<double>(2 * batch.n_outputs);
  }

  template <class Team>
  SPARSESVM_HD void solve(Team team, const RegressionSolveArguments<T>& a, index number) {
    RegressionTask<T>& task = state_.task;
    task.bind(team, a.batch, number);
    const index m = task.m, q = task.q;
    for (index j = team.rank(); j < m; j += team.size()) everything_[j] = j;
    for (index i = team.rank(); i < m * q; i += team.size()) task.weights[i] = 0;
    team.sync();
    state_.collect_active(team);
    state_.compute_residual(team);
    // The penalties of a task on a device are looked at here first.
    const double penalties = task.lambda1 + task.lambda2;
    const bool in_range = task.lambda1 >= 0 && task.lambda2 >= 0 && penalties > 0 && std::isfinite(penalties);
    const double at_zero = state_.objective(team), start = in_range ? at_zero : NAN;
    const double tolerance = a.tol * start;
    if (std::isfinite(start)) approach(team);
    Status status = Status::max_iter;
    double gap = 0, best = HUGE_VAL;
    index iteration = 0;
    for (index idle = 0;; ++iteration) {
      state_.collect_active(team);
      state_.compute_residual(team);  // afresh: no rounding errors pile up
      gap = state_.certificate(team, everything_, m);
      idle = gap < 0.9 * best ? 0 : idle + 1;
      // In this order, as an infinite gap is within an infinite tolerance. The weights of the last penalty of `approach` may pass
      // too, but are less exact than a Newton step makes them.
      if (!std::isfinite(gap) || !std::isfinite(start)) status = Status::non_finite;
      else if (gap <= tolerance && (iteration > 0 || state_.n_active == 0)) status = Status::converged;
      else if (idle == max_idle) status = Status::stalled;
      if (status != Status::max_iter || iteration == a.max_iter) break;
      best = gap < best ? gap : best;
      descend(team, choose_working_set(team), std::fmax(0.1 * gap, 0.1 * tolerance));
    }
    const double objective = state_.objective(team);
    if (team.rank() == 0) {
      a.gap[number] = gap;
      a.objective[number] = objective;
      a.n_iter[number] = iteration;
      a.status[number] = static_cast<std::int8_t>(status);
    }
    for (index j = team.rank(); j < m; j += team.size()) {
      a.active[number * m + j] = task.is_active(j);
      for (index o = 0; o < q; ++o) {
        const double value = status == Status::non_finite ? NAN : task.weights[j * q + o];
        a.weights[(number * q + o) * m + j] = static_cast<T>(value);
      }
    }
  }

 private:
  // Rough solutions for decreasing penalties: from zero weights, a small one would bring in far more features than it keeps.
  template <class Team>
  SPARSESVM_HD void approach(Team team) {
    const index m = state_.task.m;
    const double lambda1 = state_.task.lambda1;
    if (!std::isfinite(state_.certificate(team, everything_, m))) return;
    const double largest = largest_score(team);
    const double smallest = std::fmax(2 * lambda1, 1e-6 * largest);
    for (double penalty = stage * largest; penalty > smallest && std::isfinite(penalty); penalty *= stage) {
      set_lambda1(team, penalty);
      for (index step = 0; step < 3; ++step) {
        state_.collect_active(team);
        const double gap = state_.certificate(team, everything_, m);
        if (gap <= 0.01 * state_.objective(team)) break;
        descend(team, choose_working_set(team), 0.1 * gap);
      }
    }
    set_lambda1(team, lambda1);
  }

  static constexpr double stage = 0.3;
  static constexpr index max_idle = 10;       // certificates without progress before rounding is blamed
  static constexpr index sweeps_per_step = 5;
  static constexpr index max_steps = 50;
  static constexpr index max_cuts = 8;        // Newton steps in a row
  static constexpr index small_problem = 32;  // features that are all worked on at once

  template <class Team>
  SPARSESVM_HD void set_lambda1(Team team, double value) {
    team.sync();
    if (team.rank() == 0) state_.task.lambda1 = value;
    team.sync();
  }

  template <class Team>
  SPARSESVM_HD double largest_score(Team team) const {
    double largest = 0;
    for (index j = team.rank(); j < state_.task.m; j += team.size()) {
      largest = state_.score[j] > largest ? state_.score[j] : largest;
    }
    return team.max(largest);
  }

  // The features in use and as many others, at least `small_problem`, that pull most, by the scores of the full certificate.
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE index choose_working_set(Team team) {
    const index m = state_.task.m, n_active = state_.n_active;
    const double* score = state_.score;
    const index others = n_active > small_problem ? n_active : small_problem;
    if (m <= 2 * small_problem || n_active + others >= m) {
      for (index j = team.rank(); j < m; j += team.size()) working_[j] = j;
      team.sync();
      return m;
    }
    for (index a = team.rank(); a < n_active; a += team.size()) {
      working_[a] = state_.active[a];
      state_.score[state_.active[a]] = 0;
    }
    team.sync();
    double low = 0, top = largest_score(team);
    for (index halving = 0; halving < 40; ++halving) {  // the threshold that about `others` exceed
      const double middle = 0.5 * (low + top);
      index mine = 0;
      for (index j = team.rank(); j < m; j += team.size()) mine += score[j] > middle;
      const index above = static_cast<index>(team.sum(static_cast<double>(mine)));
      if (above == others) {
        low = middle;
        break;
      }
      (above > others ? low : top) = middle;
    }
    index* joining = working_ + n_active;
    index found = team.list(m, [score, low](index j) { return score[j] > low; }, joining);
    if (found > others) {
      // Ties, of which the first fill the rest: some violator is always among those that join.
      found = team.list(m, [score, top](index j) { return score[j] > top; }, joining);
      found += team.list(m, [score, low, top](index j) { return score[j] > low && !(score[j] > top); }, joining + found);
    }
    return n_active + (found < others ? found : others);
  }

  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE void descend(Team team, index count, double tolerance) {
    for (index step = 0; step < max_steps; ++step) {
      for (index sweep = 0; sweep < sweeps_per_step; ++sweep) {
        if (!sweep_once(team, count)) break;
      }
      state_.collect_active(team);
      // A step that a vanishing weight cut short is followed by one without it, before a sweep can bring it back.
      for (index left = state_.task.q == 1 ? max_cuts : 1; left > 0 && !newton_.take_step(team, state_); --left) {
        state_.collect_active(team);
      }
      if (state_.certificate(team, working_, count) <= tolerance) return;
    }
  }

  // Exact minimisation over one feature's weights after the other. Whether a feature came into or went out of use.
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE bool sweep_once(Team team, index count) {
    const RegressionTask<T>& task = state_.task;
    const index q = task.q;
    bool changed = false;
    double* pull = pull_;
    for (index a = 0; a < count; ++a) {
      if (a % 64 == 0) listen(team, 64 * q * task.stride);
      const index j = working_[a];
      const double own = task.squared_norm[j], curvature = own + task.lambda2;
      if (!(curvature > 0)) continue;
      double* w = task.weights + j * q;
      pull = pull == pull_ ? pull_ + q : pull_;  // by turns: while one is written, others may still read the last one
      team.products(task.column + j, 1, task.residual, task.stride, q, task.stride, task.inverse_n, pull, q);
      double squares = 0;
      for (index o = 0; o < q; ++o) squares += (pull[o] + own * w[o]) * (pull[o] + own * w[o]);
      const double factor = soft_threshold_factor(std::sqrt(squares), task.lambda1) / curvature;
      bool moved = false, was = false, is = false;
      for (index o = 0; o < q; ++o) {
        const double value = factor * (pull[o] + own * w[o]);
        was |= w[o] != 0;
        is |= value != 0;
        if (value == w[o]) continue;
        moved = true;
        task.add_column(team, task.residual + o * task.stride, j, w[o] - value);
      }
      changed |= was != is;
      if (!moved) continue;
      team.sync();  // the residual is complete, and all have read the weights
      for (index o = team.rank(); o < q; o += team.size()) w[o] = factor * (pull[o] + own * w[o]);
    }
    team.sync();
    return changed;
  }

  RegressionState<T> state_;
  RegressionNewton<T> newton_;
  index* working_;     // (m) features that are worked on
  index* everything_;  // (m) all of them
  double* pull_;       // (2, q)
};

SPARSESVM_END
