// The algorithm (core/svm/dual_solver.h): first-order steps to the neighbourhood of the solution, then Newton steps to the
// certificate; and where these do not get there, or the task is large, the proximal method of multipliers.
#pragma once

#include "cuda/newton.h"
#include "cuda/output.h"
#include "cuda/proximal_solver.h"
#include "cuda/start.h"
#include "cuda/state.h"

SPARSESVM_BEGIN
namespace gpu {

template <typename T, class Team>
class Solver {
 public:
  // `w` is this block's copy, with sizes set and arrays taken.
  SPARSESVM_HD Solver(Team team, SolveWorkspace<T>& w) : team_(team), w_(w), task_(w.task), state_(w.state) {}

  SPARSESVM_HD void solve(const SolveArguments<T>& arguments, index number) {
    bind(team_, task_, arguments.batch, number);
    const double target = arguments.tol * task_.total_weight;
    const int limit = static_cast<int>(smaller<index>(arguments.max_iter, 1 << 30));
    const double* init = arguments.init_dual == nullptr ? nullptr : arguments.init_dual + number * task_.n_samples * task_.n_way;
    n_absent_ = find_absent_classes(team_, w_);
    start_dual(team_, w_, init);
    int iterations = 0;
    if (!(task_.total_weight <= 1e300)) {
      write_outputs(team_, w_, arguments, number, Status::non_finite, iterations);
      return;
    }
    const bool large = is_large(task_, max_model_size) || task_.n > w_.model.gram_size;
    if (!large) {
      feature_bound_ = feature_bound(team_, task_, w_.model, w_.panel);
      warm_ = init != nullptr;
      const int first_try = task_.k > 1 ? smaller(limit, max_newton) : limit;
      const Status status = iterate(target, first_try, iterations);
      if (status == Status::converged || status == Status::non_finite || iterations >= limit || task_.k == 1) {
        write(arguments, number, status, iterations);
        return;
      }
    }
    go_on(arguments, number, init, large, iterations);
  }

 private:
  using Newton = NewtonStep<T, Team>;
  using Rules = ProximalRules;

  // A Newton step on the dual that goes wrong takes thousands of barriers, more than the whole proximal method: a device gives up
  // sooner than the CPU.
  static constexpr int max_newton = 15;  // iterations
  static constexpr int max_idle = 4;     // of them that do not halve the gap
  static constexpr int max_warm_bursts = 6;
  static constexpr int burst = 25;

  // The proximal method, and where it converged Newton steps on the dual: so close to the solution they may be exact after all.
  SPARSESVM_HD void go_on(const SolveArguments<T>& arguments, index number, const double* init, bool large, int iterations) {
    ProximalSolver<T, Team> proximal(team_, w_);
    index counted = iterations;
    const index limit = iterations + smaller<index>(arguments.max_iter, 1 << 30);
    const Status status = proximal.solve(init, arguments.tol * task_.total_weight, limit, counted);
    iterations = static_cast<int>(counted);
    if (!large && status != Status::converged && best_gap_ < proximal.gap()) {
      best_is_current_ = false;
      write(arguments, number, status, iterations);
      return;
    }
    proximal.write(arguments, number, status, iterations);
    if (large || status != Status::converged) return;
    const double gap = proximal.gap();
    warm_ = true;
    const index last = smaller(static_cast<index>(iterations) + Rules::polishing, arguments.max_iter);
    if (iterate(0.1 * gap, static_cast<int>(last), iterations) != Status::non_finite && best_gap_ < gap) {
      write(arguments, number, status, iterations);
    }
  }

  SPARSESVM_HD void copy(const double* from, double* to) {
    team_.sync_team();
    for (int e = team_rank(team_); e < task_.n * task_.k; e += team_size(team_)) to[e] = from[e];
    team_.sync_team();
  }

  // Outer iterations from the dual until the certificate, counted on from `iterations` up to max_iter.
  SPARSESVM_HD Status iterate(double target, int max_iter, int& iterations) {
    const double total = task_.total_weight, lipschitz = dual_lipschitz(team_, task_, feature_bound_);
    bool scaling = task_.lambda1 > 0 && !warm_;
    int warming = scaling ? max_warm_bursts : 0;
    bool polishing = false, fresh = true;
    double searching = 0, gap_before = 0, reference_gap = 0;
    int since_progress = 0, extra = 0, first_order = 0;
    best_gap_ = 0;
    for (;;) {
      if (first_order > 0) {
        take_first_order(team_, w_, lipschitz, first_order);
        average_absent_classes(team_, w_, n_absent_);
      }
      first_order = 0;
      evaluate(team_, task_, state_);
      if (scaling) {
        scaling = false;
        scale_start(team_, w_);
        continue;
      }
      if (searching < 0) {
        const double at_zero = searching, at_one = Newton::slope(team_, w_);
        const bool too_far = at_one > -0.1 * at_zero;
        searching = 0;
        if (too_far) Newton::shorten(team_, w_, at_zero, at_one);
        average_absent_classes(team_, w_, n_absent_);  // not before: the way back is along the step as it was taken
        if (too_far || n_absent_ > 1) continue;
      }
      certify(team_, task_, state_);
      if (!(state_.gap <= 1e300) || !(state_.objective <= 1e300) || !(total <= 1e300)) return Status::non_finite;
      best_is_current_ = fresh || state_.gap < best_gap_;
      if (best_is_current_) {
        best_gap_ = state_.gap;
        copy(state_.dual, w_.best);
      }
      // Close to the solution Newton steps need no help.
      if (polishing && state_.gap > 0.1 * gap_before && best_gap_ > target) {
        polishing = false;
        first_order = burst / 2;
        continue;
      }
      polishing = false;
      if (best_gap_ <= target) {
        // Where the objective is far below sum_i c_i a few more steps make the gap small beside it as well.
        const bool small = best_gap_ * total <= target * state_.objective;
        if (small || ++extra > 5 || iterations >= max_iter) return Status::converged;
      }
      if (iterations >= max_iter) return Status::max_iter;
      if (fresh || best_gap_ < 0.5 * reference_gap) {
        reference_gap = best_gap_;
        since_progress = 0;
      } else if (++since_progress >= max_idle) {
        return Status::stalled;
      }
      // One outer iteration.
      ++iterations;
      if (warming > 0 && (fresh || state_.gap < 0.5 * gap_before)) {
        --warming;
        gap_before = state_.gap;
        first_order = burst;
      } else {
        warming = 0;
        gap_before = state_.gap;
        searching = Newton::step(team_, w_, state_.gap, target);
        polishing = searching < 0 && task_.lambda1 > 0;
        if (!(searching < 0)) first_order = 2 * burst;
      }
      fresh = false;
    }
  }

  // What the caller gets is certified as it is, rounded.
  SPARSESVM_HD void write(const SolveArguments<T>& arguments, index number, Status status, int iterations) {
    const bool finite = status != Status::non_finite;
    const double target = arguments.tol * task_.total_weight;
    bool again = finite && !best_is_current_;
    if (again) copy(w_.best, state_.dual);
    for (int stage = 0;;) {
      if (again) {
        evaluate(team_, task_, state_);
        certify(team_, task_, state_);
        again = false;
      }
      if (stage == 3 || !finite) break;
      if (!change_weights(team_, w_, stage++)) continue;
      // The gap of weights that the dual does not link to changes with the objective.
      const double gap = state_.gap, objective = state_.objective;
      add_scores(team_, task_, state_);
      certify(team_, task_, state_);
      const double now = larger(gap + state_.objective - objective, 0.0);
      team_.sync();
      if (team_.rank() == 0) state_.gap = now;
      team_.sync();
      again = stage == 2 && !(now <= larger(gap, target));
    }
    for (int b = team_rank(team_); b < task_.n_groups; b += team_size(team_)) w_.model.on[b] = state_.norm[b] > task_.threshold(b);
    write_outputs(team_, w_, arguments, number, status, iterations);
  }

  Team team_;
  SolveWorkspace<T>& w_;
  Task<T>& task_;
  StateArrays& state_;
  double best_gap_ = 0;
  double feature_bound_ = 0;  // on the largest eigenvalue of F F'
  int n_absent_ = 0;          // classes without samples
  bool warm_ = false;
  bool best_is_current_ = false;
};

}  // namespace gpu
SPARSESVM_END
