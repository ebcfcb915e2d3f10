// The algorithm: block-coordinate descent to find the faces and active groups, then Newton steps to the certificate; and where these
// do not get there, or the task is large, the proximal method of multipliers.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/block_descent.h"
#include "core/svm/dense_features.h"
#include "core/svm/dual_state.h"
#include "core/svm/identification.h"
#include "core/svm/newton.h"
#include "core/svm/output.h"
#include "core/svm/proximal_rules.h"
#include "core/svm/proximal_solver.h"
#include "core/svm/sweep_costs.h"
#include "core/svm/task.h"
#include "core/svm/working_set.h"
#include "core/team.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class DualSolver {
 public:
  // Takes all scratch memory for tasks of this batch's size; with a null arena this only measures.
  DualSolver(const Batch<T>& batch, Arena& arena)
      : task_(Task<T>::take(arena, batch)), best_(arena.template take<double>(batch.n_samples * batch.n_way)), shared_(arena),
        proximal_(batch, shared_) {
    const index n = batch.n_samples, m = batch.n_features, k = batch.n_way, groups = m / batch.group_size;
    state_ = DualState<Passes, T>::take(arena, n, m, k, groups);
    absent_ = arena.take<double>(k);
    set_ = WorkingSetMemory::take(arena, n, m, k, groups);
    block_ = BlockScratch::take(arena, k);
    newton_ = NewtonScratch::take(arena, n, k, groups, batch.group_size, set_);
    arena.reach(shared_);
  }

  void solve(const SolveArguments<T>& arguments, index number) {
    task_.bind(arguments.batch, number);
    const double target = arguments.tol * task_.total_weight;
    index iterations = 0;
    const bool weak = has_many_entries(task_, max_model_size) && !has_strong_ridge();
    const bool large = weak || is_large(task_, max_model_size) || has_intercept();
    if (!large) {
      start(arguments, number);
      const index first_try = task_.k > 1 && arguments.max_iter > Rules::max_newton ? Rules::max_newton : arguments.max_iter;
      const Status status = iterate(target, first_try, iterations);
      if (status == Status::converged || status == Status::non_finite || iterations >= arguments.max_iter || task_.k == 1) {
        finish(arguments, number, status, iterations);
        return;
      }
    }
    solve_by_proximal(arguments, number, target, iterations, large);
  }

 private:
  using Rules = ProximalRules;
  using Finding = IdentificationRules;
  using Costs = SweepCosts<Passes, T>;

  // The proximal method, which takes over the memory of this one, all but the best dual; so close to the solution Newton steps on the
  // dual of a task that is not large may be exact after all. `certified`: the best dual has the caller's certificate, and this is to
  // find the active sets.
  void solve_by_proximal(const SolveArguments<T>& arguments, index number, double target, index iterations, bool large,
                         bool certified = false) {
    const bool identify = arguments.identify && task_.lambda2 > 0;
    const double aim = large && identify ? Finding::aim(target, task_.total_weight) : target;
    const Status end = proximal_.solve(arguments, number, task_, aim, iterations + arguments.max_iter, iterations);
    const double gap = proximal_.gap();
    const bool undecided = certified || (identify && gap <= target);
    const Status status = undecided ? Status::not_identified : end;
    if (!large && end != Status::converged && !(gap < best_gap_)) {
      best_is_current_ = false;
      write(arguments, number, status, iterations);
      return;
    }
    proximal_.write(arguments, number, status, iterations);
    if (large ? !undecided : end != Status::converged) return;
    for (index i = 0; i < task_.n; ++i) {
      for (index l = 0; l < task_.k; ++l) best_[i * task_.k + l] = task_.weight[i] * proximal_.probabilities()[i * task_.k + l];
    }
    for (index e = 0; e < task_.n * task_.k; ++e) state_.dual[e] = best_[e];
    if (large) {
      arguments.status[number] = static_cast<std::int8_t>(judge_sets(arguments.active + number * task_.n_groups));
      return;
    }
    warm_ = true;
    const index last = iterations + Rules::polishing < arguments.max_iter ? iterations + Rules::polishing : arguments.max_iter;
    if (iterate(0.1 * gap, last, iterations) == Status::non_finite || !(best_gap_ < gap)) return;
    write(arguments, number, identify ? identify_sets(arguments.max_iter, iterations) : Status::converged, iterations);
  }

  Identification find_sets() const {
    return identify(OneThread{}, task_, state_, Finding::tolerated<T>(), [this] { return largest_squared_row(task_); });
  }

  // Whether state_.dual and the weights that were written hold the sets of the solution.
  Status judge_sets(const std::uint8_t* active) {
    state_.evaluate(task_, state_.dual);
    state_.certify(task_);
    bool sets = find_sets().sets;
    for (index b = 0; b < task_.n_groups && task_.lambda1 > 0; ++b) {
      sets = sets && (state_.norm[b] > task_.threshold(b)) == (active[b] != 0);
    }
    return sets ? Status::converged : Status::not_identified;
  }

  void start(const SolveArguments<T>& arguments, index number) {
    const index k = task_.k;
    const double others = k > 1 ? 1.0 / static_cast<double>(k - 1) : 0.0;
    for (index i = 0; i < task_.n; ++i) {
      double* row = state_.dual + i * k;
      if (arguments.init_dual != nullptr) {
        const double* given = arguments.init_dual + (number * arguments.batch.n_samples + task_.sample[i]) * arguments.batch.n_way;
        for (index l = 0; l < k; ++l) row[l] = task_.weight[i] * given[l];
        project_simplex(row, k, task_.weight[i]);
      } else {
        for (index l = 0; l < k; ++l) row[l] = task_.weight[i] * (k == 1 ? 1.0 : (task_.label[i] == l ? 0.0 : others));
      }
    }
    warm_ = arguments.init_dual != nullptr;
    if (!warm_ && !by_gram()) scale_start();
  }

  // Uniform over the wrong classes is the right direction but too far: moves back towards the labels, Lambda = (1 - t) Y + t
  // uniform, to the best t in [0, 1]. V is t times that of t = 1, so the derivative of the dual is
  // sum_i c_i - sum_G norm (t norm - lambda1_G)_+ / lambda2: decreasing and concave, so that Newton steps from t = 1 stay on the right
  // of its root.
  void scale_start() {
    state_.find_weights(task_, state_.dual);
    double t = 1;
    for (int step = 0; step < 20; ++step) {
      double slope = 0, curvature = 0;
      for (index b = 0; b < task_.n_groups; ++b) {
        const double norm = state_.norm[b], excess = t * norm - task_.threshold(b);
        slope += excess > 0 ? excess * norm : 0.0;
        curvature += excess > 0 ? norm * norm : 0.0;
      }
      const double overshoot = slope - task_.total_weight * task_.lambda2;
      if (!(overshoot > 1e-3 * slope)) break;
      t -= overshoot / curvature;
    }
    if (!(t < 1)) return;
    t = std::fabs(t);  // its sign is rounding where thresholds and lambda2 are nothing beside the norms
    for (index i = 0; i < task_.n; ++i) {
      for (index l = 0; l < task_.k; ++l) {
        double& x = state_.dual[i * task_.k + l];
        x = t * x + (task_.label[i] == l ? (1 - t) * task_.weight[i] : 0.0);
      }
    }
  }

  // A constant last group beside which the other features are small, as an intercept is appended: along it every step of a sample has to
  // be undone by another's, so that sweeps and Newton steps on the dual stall, while the proximal method goes on as without it.
  bool has_intercept() const {
    if (task_.n == 0 || task_.n_groups < 2 || task_.k == 1) return false;
    const index constant = task_.m - task_.group_size;
    const T* first = task_.rows[0];
    double others = 0;
    for (index j = 0; j < constant; ++j) others += static_cast<double>(first[j]) * static_cast<double>(first[j]);
    if (!(static_cast<double>(first[constant]) * static_cast<double>(first[constant]) > others)) return false;
    for (index i = 1; i < task_.n; ++i) {
      if (task_.rows[i][constant] != first[constant]) return false;
    }
    return true;
  }

  bool has_strong_ridge() const {
    const double n = static_cast<double>(task_.n), m = static_cast<double>(task_.m);
    const double beside_features = task_.total_weight / n * largest_squared_row(task_) * std::fmax(1.0, n / m);
    return task_.lambda2 >= Rules::strong_ridge * beside_features;
  }

  // Outer iterations from state_.dual until the certificate, counted on from `iterations` up to max_iter.
  Status iterate(double target, index max_iter, index& iterations) {
    newton_.has_gram = newton_.has_model = false;
    sweeping_ = !by_gram() && !warm_;
    costs_.swept_groups = -1;
    // With lambda1 = 0 the first step needs no more than the Gram matrix.
    const bool stepped = by_gram() && iterations < max_iter && NewtonStep<Passes, T>(task_, state_, newton_).step(target);
    if (stepped) {
      ++iterations;
    } else {
      state_.evaluate(task_, state_.dual);
    }
    const index first = iterations;
    double& best_gap = best_gap_;
    best_gap = 0;
    double reference_gap = 0;
    index since_progress = 0, extra = 0;
    for (;; ++iterations) {
      state_.certify(task_);
      best_is_current_ = iterations == first || state_.gap < best_gap;
      if (best_is_current_) {
        best_gap = state_.gap;
        keep_best();
      }
      if (!(state_.gap <= 1e300) || !(state_.objective <= 1e300)) return Status::non_finite;
      if (best_gap <= target) {
        // Where the objective is far below sum_i c_i a few more steps make the gap small beside it as well.
        const bool small = best_gap * task_.total_weight <= target * state_.objective;
        if (small || ++extra > 5 || iterations >= max_iter) return Status::converged;
      }
      if (iterations >= max_iter) return Status::max_iter;
      if (iterations == first || best_gap < 0.5 * reference_gap) {
        reference_gap = best_gap;
        since_progress = 0;
      } else if (++since_progress >= Rules::max_idle) {
        return Status::stalled;
      }
      // A step that is to make the gap small beside the objective has to aim there, which one by the Gram matrix does in any case.
      const bool aim_lower = best_gap <= target && !by_gram();
      advance(aim_lower ? target * state_.objective / task_.total_weight : target);
    }
  }

  void finish(const SolveArguments<T>& arguments, index number, Status status, index iterations) {
    if (arguments.identify && status == Status::converged) status = identify_sets(arguments.max_iter, iterations);
    const bool inexact = best_gap_ > Finding::exact * task_.total_weight;
    if (status == Status::not_identified && task_.k > 1 && iterations < arguments.max_iter && inexact) {
      // Newton steps have slowed down as where the certificate is out of reach.
      solve_by_proximal(arguments, number, Finding::closer * best_gap_, iterations, false, true);
      return;
    }
    write(arguments, number, status, iterations);
  }

  // Goes on beyond the certificate until the active sets are known; the best dual stays.
  Status identify_sets(index max_iter, index& iterations) {
    restore_best();
    const bool dropped = task_.lambda1 > 0 && prefer_no_weights();
    Identification found = find_sets();
    if (dropped && !found.weights) {
      state_.evaluate(task_, state_.dual);
      state_.certify(task_);
    }
    bool repeated = false;
    for (int step = 0, slow = 0; step < Finding::max_steps && slow < Finding::max_slow && !found.weights && iterations < max_iter;
         ++step, ++iterations) {
      // Once the sets are known, the matrix of the last step serves a second time.
      repeated = !repeated && found.sets && NewtonStep<Passes, T>(task_, state_, newton_).repeat();
      if (!repeated) advance(0.0, Finding::share);
      state_.certify(task_);
      slow = state_.gap < 0.5 * best_gap_ ? 0 : slow + 1;
      best_is_current_ = state_.gap < best_gap_;
      if (!best_is_current_) continue;
      best_gap_ = state_.gap;
      keep_best();
      found = find_sets();
    }
    return found.sets ? Status::converged : Status::not_identified;
  }

  bool by_gram() const { return NewtonStep<Passes, T>::by_gram(task_); }

  // One outer iteration; leaves the state evaluated. `share`: as for a Newton step.
  void advance(double target, double share = 0.1) {
    NewtonStep<Passes, T> newton(task_, state_, newton_);
    const index candidates = by_gram() ? 0 : newton.count_candidates();
    if (sweeping_ && costs_.sweeps_pay(candidates)) {
      costs_.gap_before = state_.gap;
      // Where the hinge is smooth the gap after a sweep is some times what the sweep gained; else it may be any number of times that.
      descend(Costs::max_sweeps, task_.smoothing > 0 ? 0.1 * target : 0.0);
    } else if (sweeping_ = false; newton.step(target, costs_.operator_pays(candidates), share)) {
      const double before = state_.gap;
      state_.certify(task_);
      // Close to the solution Newton steps need no help.
      if (state_.gap > 0.1 * before && !by_gram()) descend(costs_.sweeps_between_steps(newton_.start[task_.n]));
    } else {
      descend(Costs::max_sweeps);  // the face is too large yet for a step without a matrix, or rounding leaves a step no descent
    }
    if (average_absent_classes()) state_.evaluate(task_, state_.dual);
  }

  // Classes without samples are interchangeable, so averaging their dual entries keeps the dual feasible and, by convexity, lowers
  // its objective by nothing. It takes away the freedom among equal solutions in which Newton steps would wander.
  bool average_absent_classes() {
    const index k = task_.k;
    double* absent = absent_;
    double count = 0;
    for (index l = 0; l < k; ++l) {
      absent[l] = 1;
      for (index i = 0; i < task_.n && absent[l] != 0; ++i) absent[l] = task_.label[i] == l ? 0.0 : 1.0;
      count += absent[l];
    }
    if (count < 2) return false;
    for (index i = 0; i < task_.n; ++i) {
      double* row = state_.dual + i * k;
      double mean = 0;
      for (index l = 0; l < k; ++l) mean += absent[l] * row[l];
      mean /= count;
      for (index l = 0; l < k; ++l) row[l] = absent[l] != 0 ? mean : row[l];
    }
    return true;
  }

  // Sweeps over the samples, until one gains no more than `enough`; in single precision while the gap is far above its rounding.
  void descend(index sweeps, double enough = 0) {
    if (!descend_in<float>(sweeps, enough)) descend_in<double>(sweeps, enough);
    state_.evaluate(task_, state_.dual);
  }

  template <typename S>
  bool descend_in(index sweeps, double enough) {
    WorkingSet<S> set(set_);
    set.gather(task_, state_.v, state_.norm, 0.8);
    costs_.swept_groups = set.n_groups;
    BlockDescent<Passes, T, S> descent(task_, set, state_.dual, block_);
    if (sizeof(S) == 4 && !(state_.gap > 30 * descent.noise() * task_.total_weight)) return false;
    for (index pass = 0; pass < sweeps && descent.sweep(pass) > enough; ++pass) {
    }
    return true;
  }

  void keep_best() {
    for (index e = 0; e < task_.n * task_.k; ++e) best_[e] = state_.dual[e];
  }

  void restore_best() {
    if (best_is_current_) return;
    for (index e = 0; e < task_.n * task_.k; ++e) state_.dual[e] = best_[e];
    state_.evaluate(task_, state_.dual);
    state_.certify(task_);
    best_is_current_ = true;
  }

  // From lambda1_max on no weights are better than none; an iterate that is almost there should say so. Whether they are now zero.
  bool prefer_no_weights() {
    double without = 0;
    double *zero = block_.scores, *probabilities = block_.delta;
    for (index l = 0; l < task_.k; ++l) zero[l] = 0;
    for (index i = 0; i < task_.n; ++i) {
      for (index l = 0; l < task_.k; ++l) probabilities[l] = state_.dual[i * task_.k + l] / task_.weight[i];
      without += task_.weight[i] * sample_value(zero, probabilities, task_.label[i], task_.k, task_.smoothing, block_.product).loss;
    }
    if (!(without <= state_.objective)) return false;
    for (index b = 0; b < task_.n_groups; ++b) {
      state_.norm[b] = state_.norm[b] < task_.threshold(b) ? state_.norm[b] : task_.threshold(b);
    }
    for (index e = 0; e < task_.k * task_.m; ++e) state_.w[e] = 0;
    certify_changed_weights();
    return true;
  }

  // A group whose norm exceeds lambda1 by rounding alone is inactive: where the dual is not unique an exact solution may sit on the
  // threshold, and counting such a group would change the gradient. Kept only if the certificate of the changed weights holds.
  void drop_borderline_groups(double target) {
    const index g = task_.group_size;
    bool any = false;
    for (index b = 0; b < task_.n_groups; ++b) {
      const double threshold = task_.threshold(b);
      if (!(state_.norm[b] > threshold) || state_.norm[b] > (1 + 1e-9) * threshold) continue;
      any = true;
      state_.norm[b] = threshold;
      for (index l = 0; l < task_.k; ++l) {
        for (index e = l * task_.m + b * g; e < l * task_.m + (b + 1) * g; ++e) state_.w[e] = 0;
      }
    }
    if (!any) return;
    const double gap = state_.gap;
    certify_changed_weights();
    if (state_.gap <= (gap > target ? gap : target)) return;
    state_.evaluate(task_, state_.dual);
    state_.certify(task_);
  }

  // The weights as the caller gets them.
  void round_weights() {
    for (index e = 0; e < task_.k * task_.m; ++e) state_.w[e] = static_cast<double>(static_cast<T>(state_.w[e]));
    certify_changed_weights();
  }

  // The gap of weights that the dual does not link to: it changes with the objective.
  void certify_changed_weights() {
    const double objective = state_.objective;
    double gap = state_.gap;
    state_.add_scores(task_);
    state_.certify(task_);
    gap += state_.objective - objective;
    state_.gap = gap > 0 ? gap : 0.0;
  }

  // Outputs at the best dual found; weights follow from it by the link.
  void write(const SolveArguments<T>& arguments, index number, Status status, index iterations) {
    const Batch<T>& batch = arguments.batch;
    const index k = task_.k, m = task_.m;
    restore_best();
    bool finite = status != Status::non_finite;
    if (finite && (task_.lambda1 > 0 || status != Status::converged)) prefer_no_weights();
    if (finite && task_.lambda1 > 0) drop_borderline_groups(arguments.tol * task_.total_weight);
    if (finite && sizeof(T) < sizeof(double)) round_weights();
    finite = finite && std::fabs(state_.objective) <= 1e300;  // weights may be beyond the range of T
    if (!finite) status = Status::non_finite;
    const double nan = __builtin_nan("");
    T* weights = arguments.weights + number * batch.n_way * m;
    for (index b = 0; b < task_.n_groups; ++b) {
      arguments.active[number * task_.n_groups + b] = finite && state_.norm[b] > task_.threshold(b);
    }
    for (index e = 0; e < k * m; ++e) weights[e] = static_cast<T>(finite ? state_.w[e] : nan);
    const index row = batch.n_way;
    T* dual = arguments.dual + number * batch.n_samples * row;
    write_absent(batch, number, task_.smoothing, state_.sample, dual, [&](index i, double* out) {
      const T* features = batch.features + number * batch.task_stride + i * batch.row_stride;
      for (index l = 0; l < k; ++l) out[l] = 0;
      Passes::add_products(&features, 1, state_.w, m, k, m, 1.0, out, k);
    });
    for (index i = 0; i < task_.n; ++i) {
      for (index l = 0; l < k; ++l) dual[task_.sample[i] * row + l] = static_cast<T>(state_.dual[i * k + l] / task_.weight[i]);
    }
    arguments.gap[number] = finite ? state_.gap : nan;
    arguments.objective[number] = finite ? state_.objective : nan;
    arguments.n_iter[number] = iterations;
    arguments.status[number] = static_cast<std::int8_t>(status_of_written(arguments, task_, state_.gap, status));
  }

  Task<T> task_;
  double* best_;  // (n, k) dual of the smallest gap
  Arena shared_;  // of the proximal method, over what follows
  ProximalSolver<Passes, T, DenseFeatures> proximal_;
  DualState<Passes, T> state_;
  double* absent_;  // (k,) one for a class without samples
  double best_gap_ = 0;
  WorkingSetMemory set_;
  BlockScratch block_;
  NewtonScratch newton_;
  bool warm_ = false;
  bool best_is_current_ = false;
  bool sweeping_ = false;           // before the first Newton step
  Costs costs_{task_, state_};
};

SPARSESVM_END
