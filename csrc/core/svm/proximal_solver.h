// The proximal method of multipliers: one algorithm for every size (docs/method.md, 9).
//
// Saddle form of the problem, with p_i in the simplex, A = diag(c) (Y - p) and Z = F W':
//
//     min over W, max over p:  sum_i c_i [<p_i, 1 - y_i + z_i> - z_{i, y_i}] + lambda1 sum_G ||W_G|| + lambda2 / 2 ||W||^2
//
// Outer loop: add sum_G sigma_G / 2 ||W_G - W_tG||^2, subtract sum_i c_i rho / 2 ||p_i - p_ti||^2, solve, move the centres (W_t, p_t) to
// the solution. Inner loop: with p eliminated the loss is smooth in W; steps of its quadratic model (primal_model.h) on a working set
// of groups, each with a line search. Certificate: of the original problem, always.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/linear_algebra/root.h"
#include "core/macros.h"
#include "core/svm/class_basis.h"
#include "core/svm/free_samples.h"
#include "core/svm/output.h"
#include "core/svm/primal_model.h"
#include "core/svm/proximal_rules.h"
#include "core/svm/saddle_state.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <class Passes, typename T, template <class, typename> class FeatureAccess>
class ProximalSolver {
 public:
  using Features = FeatureAccess<Passes, T>;  // DenseFeatures or SparseFeatures

  ProximalSolver(const Batch<T>& batch, Arena& arena)
      : k_(batch.n_way), q_(batch.n_way - 1), g_(batch.group_size), features_(batch, arena), basis_(batch.n_way, arena),
        state_(batch, basis_, arena), free_(batch.n_samples, batch.n_way, arena), model_(batch, features_, basis_, free_, arena) {
    const index n = batch.n_samples, m = batch.n_features, groups = m / g_;
    sigma_ = arena.take<double>(groups);
    square_ = arena.take<double>(m);
    group_ = arena.take<index>(groups);
    in_ = arena.take<char>(groups);
    excess_ = arena.take<double>(groups);
    ordered_ = arena.take<double>(groups);
    column_ = arena.template take<typename Features::Column>(m);
    w_ = arena.take<double>(m * q_);
    centre_ = arena.take<double>(m * q_);
    pull_ = arena.take<double>(m * q_);
    gradient_ = arena.take<double>(m * q_);
    direction_ = arena.take<double>(m * q_);
    mu_ = arena.take<double>(groups);
    threshold_ = arena.take<double>(groups);
    dz_ = arena.take<double>(n * q_);
    wide_ = arena.take<double>(m * k_);
    scores_ = arena.take<double>(n * k_);
    scratch_ = arena.take<double>(2 * k_);
  }

  // Task `number`, from the probabilities and weights that are given for it, or none, until the gap is at most `target`.
  Status solve(const SolveArguments<T>& arguments, index number, const Task<T>& task, double target, index max_iter, index& iterations) {
    task_ = &task;
    model_.start();
    features_.bind(arguments.batch, number, task);
    basis_.fill();
    const double* probabilities = arguments.init_dual;
    if (probabilities != nullptr) probabilities += number * arguments.batch.n_samples * arguments.batch.n_way;
    const T* weights = arguments.init_weights;
    if (weights != nullptr) weights += number * arguments.batch.n_way * task.m;
    state_.start(task, probabilities, arguments.batch.n_way);
    if (!measure_groups()) {
      state_.best_primal = __builtin_nan("");
      return Status::non_finite;
    }
    double share = 1;
    if (weights != nullptr) {
      start_at(weights);
      // The closer the start, the less has to hold a smoothed hinge there. The exact one finds its faces faster from large terms down.
      if (task.smoothing > 0) share = std::fmin(1.0, 10 * state_.gap() / task.total_weight);
    }
    return proximal_loop(*this, task.smoothing, task.total_weight, target, max_iter, iterations, share);
  }

  // For the outer loop.
  double best_primal() const { return state_.best_primal; }
  double loss_gap() const { return state_.loss_gap; }
  double penalty_gap() const { return state_.penalty_gap; }
  void move_centre() { state_.move_centre(); }
  void set_terms(double rho, double scale) {
    rho_ = rho;
    for (index b = 0; b < task_->n_groups; ++b) sigma_[b] = proximal_curvature(scale, square_[b], task_->lambda2);
  }

  // Minimises the inner problem until its gap is a tenth of the true one.
  InnerEnd solve_inner(double target) {
    index steps = 0;
    model_.forget();
    state_.respond(rho_);
    for (;;) {
      state_.pull_all(features_);
      state_.certify();
      const double gap = state_.gap();
      if (gap <= target || !(gap <= 1e300)) return {true, steps};
      const double allowed = Rules::inner_share * gap;
      if (choose_groups() <= allowed) return {true, steps};
      if (steps >= Rules::max_steps) return {false, steps};
      load_groups();
      const bool moved = solve_on_groups(Rules::set_share * allowed, steps);
      store_groups();
      if (!moved) return {false, steps};
    }
  }

  double gap() const { return state_.gap(); }
  const double* probabilities() const { return state_.best_p; }

  // The weights as the caller gets them, the probabilities of the best dual value, and the gap of this pair.
  void write(const SolveArguments<T>& arguments, index number, Status status, index iterations) {
    const Batch<T>& batch = arguments.batch;
    const bool finite = status != Status::non_finite;
    const double nan = __builtin_nan("");
    finite_ = finite;
    weights_ = arguments.weights + number * batch.n_way * task_->m;
    active_ = arguments.active + number * task_->n_groups;
    const double objective = write_best_weights(*this, finite);
    const index row = batch.n_way;
    T* dual = arguments.dual + number * batch.n_samples * row;
    write_absent(batch, number, task_->smoothing, scratch_, dual, [&](index i, double* out) { features_.score(i, wide_, out); });
    for (index i = 0; i < task_->n; ++i) {
      for (index l = 0; l < k_; ++l) dual[task_->sample[i] * row + l] = static_cast<T>(state_.best_p[i * k_ + l]);
    }
    if (finite) state_.best_primal = objective;
    status = status_of_written(arguments, *task_, state_.gap(), status);
    arguments.gap[number] = finite ? state_.gap() : nan;
    arguments.objective[number] = objective;
    arguments.n_iter[number] = iterations;
    const bool unique = task_->lambda2 > 0 || status != Status::converged || !any_active_;
    arguments.status[number] = static_cast<std::int8_t>(unique ? status : Status::not_unique);
  }

  // For `write_best_weights`. Remnants are listed in in_.
  bool list_remnants() {
    const index block = g_ * q_;
    double largest = 0;
    for (index b = 0; b < task_->n_groups; ++b) {
      double square = 0;
      for (index e = b * block; e < (b + 1) * block; ++e) square += state_.best_w[e] * state_.best_w[e];
      excess_[b] = square * square_[b];
      largest = excess_[b] > largest ? excess_[b] : largest;
    }
    bool any = false;
    for (index b = 0; b < task_->n_groups; ++b) {
      in_[b] = is_slight(excess_[b], largest);
      any = any || in_[b];
    }
    if (!any) return false;
    state_.pull_best(features_);
    for (index b = 0; b < task_->n_groups; ++b) in_[b] = in_[b] && state_.norm(b) < task_->threshold(b);
    return true;
  }

  // Also what T holds of them in wide_, and whether any group is active.
  void write_weights(bool dropping) {
    const index m = task_->m;
    any_active_ = false;
    for (index b = 0; b < task_->n_groups; ++b) active_[b] = 0;
    for (index j = 0; j < m; ++j) {
      const double* packed = state_.best_w + j * q_;
      bool any = false;
      for (index c = 0; c < q_ && !(dropping && in_[j / g_]); ++c) any = any || packed[c] != 0;
      double* column = scratch_;
      basis_.expand(packed, column);
      for (index l = 0; l < k_; ++l) {
        weights_[l * m + j] = static_cast<T>(finite_ ? (any ? column[l] : 0.0) : __builtin_nan(""));
        wide_[l * m + j] = static_cast<double>(weights_[l * m + j]);
        active_[j / g_] = active_[j / g_] || (finite_ && weights_[l * m + j] != 0);
        any_active_ = any_active_ || active_[j / g_];
      }
    }
  }

  double objective_of_written() {
    const index n = task_->n, m = task_->m;
    features_.score_all(wide_, scores_);
    double total = 0;
    for (index i = 0; i < n; ++i) {
      total += task_->weight[i] *
               sample_value(scores_ + i * k_, state_.best_p + i * k_, task_->label[i], k_, task_->smoothing, scratch_).loss;
    }
    for (index b = 0; b < task_->n_groups; ++b) {
      double square = 0;
      for (index l = 0; l < k_; ++l) {
        for (index e = l * m + b * g_; e < l * m + (b + 1) * g_; ++e) square += wide_[e] * wide_[e];
      }
      total += task_->threshold(b) * std::sqrt(square) + 0.5 * task_->lambda2 * square;
    }
    return total;
  }

 private:
  using Rules = ProximalRules;

  // square_ (groups) = sum_i c_i ||f_iG||^2 / group_size, which carries each group's units. False where that is not finite.
  bool measure_groups() {
    features_.measure(square_);
    double all = 0;
    for (index b = 0; b < task_->n_groups; ++b) {
      double total = 0;
      for (index j = b * g_; j < (b + 1) * g_; ++j) total += square_[j];
      square_[b] = total / static_cast<double>(g_);
      all += square_[b];
    }
    return all <= 1e300;
  }

  // W = the given weights unless none are better, Z = F W' from their columns alone, and the certificate of both centres.
  void start_at(const T* weights) {
    const index m = task_->m;
    n_groups_ = 0;
    for (index b = 0; b < task_->n_groups; ++b) {
      bool any = false;
      for (index j = b * g_; j < (b + 1) * g_; ++j) {
        for (index l = 0; l < k_; ++l) {
          scratch_[l] = static_cast<double>(weights[l * m + j]);
          any = any || scratch_[l] != 0;
        }
        basis_.reduce(scratch_, state_.w + j * q_);
        for (index c = 0; c < q_; ++c) w_[(n_groups_ * g_ + j - b * g_) * q_ + c] = state_.w_centre[j * q_ + c] = state_.w[j * q_ + c];
      }
      if (any) group_[n_groups_++] = b;
    }
    features_.open(group_, n_groups_, column_);
    features_.combine(column_, n_groups_ * g_, task_->n, w_, q_, state_.z);
    state_.stay();
    state_.pull_all(features_);
    const double without = state_.best_primal;
    state_.certify();
    if (!(state_.best_primal < without)) state_.drop_weights();
  }

  // The working set: groups in use, and of the others those that pull hardest against lambda1, at most as many again. Returns the gap of
  // the inner problem over all groups.
  double choose_groups() {
    const index block = g_ * q_, m = task_->m;
    const Thresholds threshold_of = task_->threshold;
    double total = 0;
    index used = 0, pulling = 0;
    double* x = direction_;
    for (index b = 0; b < task_->n_groups; ++b) {
      bool any = false;
      double pull = 0;
      for (index j = b * g_; j < (b + 1) * g_; ++j) {
        for (index c = 0; c < q_; ++c) {
          const index e = j * q_ + c;
          const double value = state_.v[c * m + j] + sigma_[b] * state_.w_centre[e];
          x[e - b * block] = value;
          pull += value * value;
          any = any || state_.w[e] != 0;
        }
      }
      excess_[b] = std::sqrt(pull) - threshold_of(b);
      if (any || excess_[b] > 0) total += state_.group_gap(state_.w + b * block, x, task_->lambda2 + sigma_[b], threshold_of(b));
      in_[b] = any;
      used += any;
      if (!any && excess_[b] > 0) ordered_[pulling++] = excess_[b];
    }
    const index allowed = used > Rules::small_set ? used : Rules::small_set;
    double least = 0;
    if (pulling > allowed) {
      const index place = allowed - 1;
      std::nth_element(ordered_, ordered_ + place, ordered_ + pulling, [](double left, double right) { return left > right; });
      least = ordered_[place];
    }
    // All that tie with the last one, as columns that repeat do: without them none might join.
    n_groups_ = 0;
    for (index b = 0; b < task_->n_groups; ++b) {
      if (in_[b] || (excess_[b] > 0 && excess_[b] >= least)) group_[n_groups_++] = b;
    }
    return total;
  }

  // Copies the working set: weights, centre, pull; and opens its columns.
  void load_groups() {
    const index block = g_ * q_, m = task_->m;
    for (index t = 0; t < n_groups_; ++t) {
      const index b = group_[t];
      mu_[t] = task_->lambda2 + sigma_[b];
      threshold_[t] = task_->threshold(b);
      for (index e = 0; e < block; ++e) {
        w_[t * block + e] = state_.w[b * block + e];
        centre_[t * block + e] = sigma_[b] * state_.w_centre[b * block + e];
      }
      for (index j = 0; j < g_; ++j) {
        for (index c = 0; c < q_; ++c) pull_[(t * g_ + j) * q_ + c] = state_.v[c * m + b * g_ + j];
      }
    }
    features_.open(group_, n_groups_, column_);
  }

  void store_groups() {
    const index block = g_ * q_;
    for (index t = 0; t < n_groups_; ++t) {
      for (index e = 0; e < block; ++e) state_.w[group_[t] * block + e] = w_[t * block + e];
    }
  }

  // Newton steps on the working set, one at least, until its gap is at most `enough`: that of all groups is not yet, but may lie in
  // many small parts elsewhere. False when none moved.
  // Inlined, without which a solve of 600 samples and 300 features takes a tenth longer.
  SPARSESVM_INLINE bool solve_on_groups(double enough, index& steps) {
    const index n = task_->n, block = g_ * q_, size = n_groups_ * block;
    for (bool moved = false;; moved = true) {
      double gap = 0;
      for (index t = 0; t < n_groups_; ++t) {
        double* x = direction_ + t * block;
        for (index e = 0; e < block; ++e) {
          x[e] = pull_[t * block + e] + centre_[t * block + e];
          gradient_[t * block + e] = mu_[t] * w_[t * block + e] - x[e];
        }
        gap += state_.group_gap(w_ + t * block, x, mu_[t], threshold_[t]);
      }
      if ((moved && gap <= enough) || steps >= Rules::max_steps) return moved;
      ++steps;
      free_.collect(state_.p, task_->weight, n, task_->smoothing + rho_);
      for (index e = 0; e < size; ++e) direction_[e] = w_[e];
      model_.step(column_, n_groups_, gradient_, mu_, threshold_, Rules::accuracy, w_);
      for (index e = 0; e < size; ++e) direction_[e] = w_[e] - direction_[e];
      if (!search_line(size)) return moved;
      features_.pull(column_, n_groups_ * g_, n, state_.a, q_, pull_);
    }
  }

  // Along direction_, whose end w_ is, to where the inner objective stops falling; leaves weights, scores and response there.
  bool search_line(index size) {
    const index n = task_->n;
    features_.combine(column_, n_groups_ * g_, n, direction_, q_, dz_);
    const double at_zero = slope(size, -1.0);
    if (!(at_zero < 0)) {
      for (index e = 0; e < size; ++e) w_[e] -= direction_[e];
      return false;
    }
    double here = 0;
    const auto at = [&](double t) {
      for (index e = 0; e < n * q_; ++e) state_.z[e] += (t - here) * dz_[e];
      here = t;
      state_.respond(rho_);
      return slope(size, t - 1);
    };
    const double at_one = at(1);
    if (!(at_one > -0.1 * at_zero)) return true;
    const double t = root_on_unit_interval(at, at_zero, at_one);
    if (t != here) at(t);
    for (index e = 0; e < size; ++e) w_[e] += (t - 1) * direction_[e];
    return t > 0;
  }

  // Of the inner objective along direction_, at w_ + shift * direction_ and the response in place.
  double slope(index size, double shift) const {
    const index block = g_ * q_;
    double total = 0;
    for (index e = 0; e < task_->n * q_; ++e) total -= state_.a[e] * dz_[e];
    for (index t = 0; t < size / block; ++t) {
      double inner = 0, square = 0, length = 0;
      for (index e = t * block; e < (t + 1) * block; ++e) {
        const double w = w_[e] + shift * direction_[e], d = direction_[e];
        inner += w * d;
        square += w * w;
        length += d * d;
        total += (mu_[t] * w - centre_[e]) * d;
      }
      total += threshold_[t] * (square > 0 ? inner / std::sqrt(square) : std::sqrt(length));
    }
    return total;
  }

  index k_, q_, g_;
  Features features_;
  ClassBasis basis_;
  SaddleState<T> state_;
  FreeSamples free_;
  PrimalModel<Passes, T, Features> model_;
  const Task<T>* task_ = nullptr;
  T* weights_ = nullptr;  // of the solution that is written
  std::uint8_t* active_ = nullptr;
  bool finite_ = true, any_active_ = false;
  double rho_ = 0;
  double *sigma_, *square_, *excess_, *ordered_;  // (groups), square_ (m)
  char* in_;
  index* group_;  // the working set
  index n_groups_ = 0;
  typename Features::Column* column_;  // of the working set, over all samples
  double *w_, *centre_, *pull_, *gradient_, *direction_, *mu_, *threshold_;  // on the working set; centre_: sigma W_t
  double *dz_, *wide_, *scores_, *scratch_;
};

SPARSESVM_END
