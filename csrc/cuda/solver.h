// The algorithm (core/svm/dual_solver.h): first-order steps to the neighbourhood of the solution, then Newton steps to the
// certificate; and where these do not get there, or the task is large, the proximal method of multipliers.
#pragma once

#include "core/svm/identification.h"
#include "cuda/newton.h"
#include "cuda/output.h"
#include "cuda/proximal_solver.h"
#include "cuda/start.h"
#include "cuda/state.h"

SPARSESVM_BEGIN
namespace gpu {

template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE double largest_squared_row(Team team, const Task<T>& task) {
  double largest = 0;
  for (int i = team.warp(); i < task.n; i += team.warps()) {
    const T* row = task.rows[i];
    double squared = 0;
    for (int j = team.lane(); j < task.m; j += lanes) squared += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    largest = larger(largest, team.warp_sum(squared));
  }
  return team.max(largest);
}

// Whether the state, evaluated and certified, holds the active sets of the solution.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE Identification find_sets(Team team, const SolveWorkspace<T>& w) {
  return identify(team, w.task, w.state, IdentificationRules::tolerated<T>(), [&] { return largest_squared_row(team, w.task); });
}

// Whether the dual and the active groups, as the proximal method wrote them, are known to be those of the solution.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE bool has_sets(Team team, SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  evaluate(team, task, w.state);
  certify(team, task, w.state);
  double other = find_sets(team, w).sets ? 0 : 1;
  for (int b = team.rank(); b < task.n_groups && task.lambda1 > 0; b += team.size()) {
    if ((w.state.norm[b] > task.threshold(b)) != (w.model.on[b] != 0)) other = 1;
  }
  return team.max(other) == 0;
}

template <typename T, class Team>
class Solver {
 public:
  // `w` is this block's copy, with sizes set and arrays taken.
  SPARSESVM_HD Solver(Team team, SolveWorkspace<T>& w) : team_(team), w_(w), task_(w.task), state_(w.state) {}

  SPARSESVM_HD void solve(const SolveArguments<T>& arguments, index number) {
    bind(team_, task_, arguments.batch, number);
    const double target = arguments.tol * task_.total_weight;
    const int limit = limit_of(arguments);
    const double* init = arguments.init_dual == nullptr ? nullptr : arguments.init_dual + number * task_.n_samples * task_.n_way;
    n_absent_ = find_absent_classes(team_, w_);
    start_dual(team_, w_, init);
    int iterations = 0;
    if (!(task_.total_weight <= 1e300)) {
      write_outputs(team_, w_, arguments, number, Status::non_finite, iterations);
      return;
    }
    const bool large = is_large(task_, max_model_size) || has_many_entries(task_, max_model_size) || task_.n > w_.model.gram_size;
    bool certified = false;
    if (!large) {
      feature_bound_ = feature_bound(team_, task_, w_.model, w_.panel);
      warm_ = init != nullptr;
      const int first_try = task_.k > 1 ? smaller(limit, max_newton) : limit;
      Status status = iterate(target, first_try, iterations);
      certified = status == Status::converged;
      if (certified && arguments.identify) status = identify_sets(limit, iterations);
      // Beyond the certificate Newton steps slow down as where that is out of reach.
      const bool unfinished = certified ? status == Status::not_identified && best_gap_ > Finding::exact * task_.total_weight
                                        : status != Status::non_finite;
      if (!unfinished || iterations >= limit || task_.k == 1) {
        write(arguments, number, status, iterations);
        return;
      }
    }
    go_on(arguments, number, init, certified ? Finding::closer * best_gap_ : target, large, certified, iterations);
  }

 private:
  using Newton = NewtonStep<T, Team>;
  using Rules = ProximalRules;
  using Finding = IdentificationRules;

  // A Newton step on the dual that goes wrong takes thousands of barriers, more than the whole proximal method: a device gives up
  // sooner than the CPU.
  static constexpr int max_newton = 15;  // iterations
  static constexpr int max_idle = 4;     // of them that do not halve the gap
  static constexpr int max_warm_bursts = 6;
  static constexpr int burst = 25;

  SPARSESVM_HD static int limit_of(const SolveArguments<T>& arguments) {
    return static_cast<int>(smaller<index>(arguments.max_iter, 1 << 30));
  }

  // The proximal method, and where it converged Newton steps on the dual: so close to the solution they may be exact after all.
  // `certified`: the best dual has the caller's certificate, and this is to find the active sets.
  SPARSESVM_HD void go_on(const SolveArguments<T>& arguments, index number, const double* init, double target, bool large,
                          bool certified, int iterations) {
    ProximalSolver<T, Team> proximal(team_, w_);
    index counted = iterations;
    const index limit = iterations + static_cast<index>(limit_of(arguments));
    const bool identify = arguments.identify && task_.lambda2 > 0;
    const double aim = large && identify ? Finding::aim(target, task_.total_weight) : target;
    const Status end = proximal.solve(init, aim, limit, counted);
    iterations = static_cast<int>(counted);
    const double gap = proximal.gap();
    const bool undecided = certified || (end != Status::non_finite && identify && gap <= target);
    const Status status = undecided ? Status::not_identified : end;
    if (!large && end != Status::converged && best_gap_ < gap) {
      best_is_current_ = false;
      write(arguments, number, status, iterations);
      return;
    }
    proximal.write(arguments, number, status, iterations);
    if (large) {
      if (undecided && has_sets(team_, w_)) write_status(team_, arguments, number, Status::converged);
      return;
    }
    if (end != Status::converged) return;
    warm_ = true;
    const int last = smaller(iterations + static_cast<int>(Rules::polishing), limit_of(arguments));
    if (iterate(0.1 * gap, last, iterations) == Status::non_finite || !(best_gap_ < gap)) return;
    const Status found = identify ? identify_sets(limit_of(arguments), iterations) : Status::converged;
    write(arguments, number, found, iterations);
  }

  // Goes on beyond the certificate until the active sets are known; the best dual stays.
  SPARSESVM_HD Status identify_sets(int max_iter, int& iterations) {
    if (!best_is_current_) restore_best();
    const bool dropped = change(0);
    Identification found = find_sets(team_, w_);
    if (dropped && !found.weights) {
      evaluate(team_, task_, state_);
      certify(team_, task_, state_);
    }
    for (int step = 0, slow = 0; step < Finding::max_steps && slow < Finding::max_slow && !found.weights && iterations < max_iter;
         ++step, ++iterations) {
      advance(Finding::share * state_.gap, Finding::share);
      certify(team_, task_, state_);
      slow = state_.gap < 0.5 * best_gap_ ? 0 : slow + 1;
      best_is_current_ = state_.gap < best_gap_;
      if (!best_is_current_) continue;
      best_gap_ = state_.gap;
      copy(state_.dual, w_.best);
      found = find_sets(team_, w_);
    }
    return found.sets ? Status::converged : Status::not_identified;
  }

  SPARSESVM_HD void copy(const double* from, double* to) {
    team_.sync_team();
    for (int e = team_rank(team_); e < task_.n * task_.k; e += team_size(team_)) to[e] = from[e];
    team_.sync_team();
  }

  SPARSESVM_HD void restore_best() {
    copy(w_.best, state_.dual);
    evaluate(team_, task_, state_);
    certify(team_, task_, state_);
    best_is_current_ = true;
  }

  // Outer iterations from the dual until the certificate, counted on from `iterations` up to max_iter.
  SPARSESVM_HD Status iterate(double target, int max_iter, int& iterations) {
    const double total = task_.total_weight;
    lipschitz_ = dual_lipschitz(team_, task_, feature_bound_);
    const bool scaling = task_.lambda1 > 0 && !warm_;
    int warming = scaling ? max_warm_bursts : 0;
    bool polishing = false, fresh = true;
    double gap_before = 0, reference_gap = 0;
    int since_progress = 0, extra = 0;
    best_gap_ = 0;
    evaluate(team_, task_, state_);
    if (scaling) {
      scale_start(team_, w_);
      evaluate(team_, task_, state_);
    }
    for (;;) {
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
        move_first_order(burst / 2);
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
        move_first_order(burst);
      } else {
        warming = 0;
        gap_before = state_.gap;
        polishing = advance(target, 0.1) && task_.lambda1 > 0;
      }
      fresh = false;
    }
  }

  // A Newton step and its line search, or first-order steps where there is none; leaves the state evaluated. Whether it was a
  // Newton step.
  SPARSESVM_HD bool advance(double target, double share) {
    const double at_zero = Newton::step(team_, w_, state_.gap, target, share);
    if (!(at_zero < 0)) {
      move_first_order(2 * burst);
      return false;
    }
    evaluate(team_, task_, state_);
    const double at_one = Newton::slope(team_, w_);
    const bool too_far = at_one > -0.1 * at_zero;
    if (too_far) Newton::shorten(team_, w_, at_zero, at_one);
    average_absent_classes(team_, w_, n_absent_);  // not before: the way back is along the step as it was taken
    if (too_far || n_absent_ > 1) evaluate(team_, task_, state_);
    return true;
  }

  // Leaves the state evaluated.
  SPARSESVM_HD void move_first_order(int steps) {
    take_first_order(team_, w_, lipschitz_, steps);
    average_absent_classes(team_, w_, n_absent_);
    evaluate(team_, task_, state_);
  }

  // `change_weights`, certified: the gap of weights that the dual does not link to changes with the objective. False when nothing
  // changed.
  SPARSESVM_HD bool change(int stage) {
    if (!change_weights(team_, w_, stage)) return false;
    const double gap = state_.gap, objective = state_.objective;
    add_scores(team_, task_, state_);
    certify(team_, task_, state_);
    const double now = larger(gap + state_.objective - objective, 0.0);
    team_.sync();
    if (team_.rank() == 0) state_.gap = now;
    team_.sync();
    return true;
  }

  // What the caller gets is certified as it is, rounded.
  SPARSESVM_HD void write(const SolveArguments<T>& arguments, index number, Status status, int iterations) {
    const bool finite = status != Status::non_finite;
    const double target = arguments.tol * task_.total_weight;
    if (finite && !best_is_current_) restore_best();
    for (int stage = 0; finite && stage < 3; ++stage) {
      const double gap = state_.gap;
      if (!change(stage) || stage != 1 || state_.gap <= larger(gap, target)) continue;
      evaluate(team_, task_, state_);
      certify(team_, task_, state_);
    }
    for (int b = team_rank(team_); b < task_.n_groups; b += team_size(team_)) w_.model.on[b] = state_.norm[b] > task_.threshold(b);
    write_outputs(team_, w_, arguments, number, status_of_written(arguments, task_, state_.gap, status), iterations);
  }

  Team team_;
  SolveWorkspace<T>& w_;
  Task<T>& task_;
  StateArrays& state_;
  double best_gap_ = 0;
  double feature_bound_ = 0;  // on the largest eigenvalue of F F'
  double lipschitz_ = 0;      // of the dual gradient
  int n_absent_ = 0;          // classes without samples
  bool warm_ = false;
  bool best_is_current_ = false;
};

}  // namespace gpu
SPARSESVM_END
