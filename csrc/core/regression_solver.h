// Lasso, elastic net and their group versions for one task: coordinate descent on a working set of features, Newton steps on those
// in use, and the duality gap over all as the stopping test.
#pragma once

#include "core/prox.h"
#include "core/regression_task.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class RegressionSolver {
 public:
  RegressionSolver(const RegressionBatch<T>& batch, Arena& arena)
      : task_(RegressionTask<Passes, T>::take(arena, batch)), system_(arena, newton_limit(batch)) {
    const index m = task_.m, q = task_.q;
    working_ = arena.template take<index>(m);
    everything_ = arena.template take<index>(m);
    active_ = arena.template take<index>(m);
    left_ = arena.template take<const double*>(m);
    correlation_ = arena.template take<double>(m * q);
    score_ = arena.template take<double>(m);
    step_ = arena.template take<double>(m * q);
    before_ = arena.template take<double>(m * q);
  }

  void solve(const RegressionSolveArguments<T>& a, index number) {
    task_.bind(a.batch, number);
    const index m = task_.m, q = task_.q;
    for (index j = 0; j < m; ++j) everything_[j] = j;
    for (index i = 0; i < m * q; ++i) task_.weights[i] = 0;
    n_active_ = 0;
    task_.compute_residual(active_, 0);
    const double start = objective();
    tolerance_ = a.tol * start;
    const double lambda1 = task_.lambda1;
    if (std::isfinite(start)) approach(lambda1);
    Status status = Status::max_iter;
    double gap = 0, best = HUGE_VAL;
    index iteration = 0;
    for (index idle = 0;; ++iteration) {
      collect_active();
      task_.compute_residual(active_, n_active_);  // afresh: no rounding errors pile up
      gap = certificate(everything_, m);
      // The weights of the last penalty of `approach` may pass too, but are less exact than a Newton step makes them. An infinite gap
      // is within an infinite tolerance.
      if (!std::isfinite(gap) || !std::isfinite(start)) status = Status::non_finite;
      else if (gap <= tolerance_ && (iteration > 0 || n_active_ == 0)) status = Status::converged;
      idle = gap < 0.9 * best ? 0 : idle + 1;
      if (idle == max_idle) status = Status::stalled;
      if (status != Status::max_iter || iteration == a.max_iter) break;
      best = gap < best ? gap : best;
      descend(choose_working_set(), std::fmax(0.1 * gap, 0.1 * tolerance_));
    }
    a.gap[number] = gap;
    a.objective[number] = objective();
    a.n_iter[number] = iteration;
    a.status[number] = static_cast<std::int8_t>(status);
    for (index j = 0; j < m; ++j) {
      a.active[number * m + j] = task_.is_active(j);
      for (index o = 0; o < q; ++o) {
        const double value = status == Status::non_finite ? NAN : task_.weights[j * q + o];
        a.weights[(number * q + o) * m + j] = static_cast<T>(value);
      }
    }
  }

 private:
  // Rough solutions for decreasing penalties: from zero weights, a small one would bring in far more features than it keeps.
  void approach(double lambda1) {
    certificate(everything_, task_.m);
    double largest = 0;
    for (index j = 0; j < task_.m; ++j) largest = score_[j] > largest ? score_[j] : largest;
    const double smallest = std::fmax(2 * lambda1, 1e-6 * largest);
    for (double penalty = stage * largest; penalty > smallest && std::isfinite(penalty); penalty *= stage) {
      task_.lambda1 = penalty;
      for (index step = 0; step < 3; ++step) {
        collect_active();
        const double gap = certificate(everything_, task_.m);
        if (gap <= 0.01 * objective()) break;
        descend(choose_working_set(), 0.1 * gap);
      }
    }
    task_.lambda1 = lambda1;
  }

  static constexpr double stage = 0.3;
  static constexpr index max_idle = 10;       // certificates without progress before rounding is blamed
  static constexpr index sweeps_per_step = 5;
  static constexpr index max_steps = 50;
  static constexpr index max_cuts = 8;         // Newton steps in a row
  static constexpr index small_problem = 32;  // features that are all worked on at once

  // More variables in use than this are left to coordinate descent alone.
  static index newton_limit(const RegressionBatch<T>& batch) {
    const index all = batch.n_features * batch.n_outputs;
    return all < 1024 ? all : 1024;
  }

  double objective() const {
    double squares = 0, norms = 0, ridge = 0;
    for (index i = 0; i < task_.q * task_.stride; ++i) squares += task_.residual[i] * task_.residual[i];
    for (index a = 0; a < n_active_; ++a) {
      const double norm = task_.norm(active_[a]);
      norms += norm;
      ridge += norm * norm;
    }
    return 0.5 * task_.inverse_n * squares + task_.lambda1 * norms + 0.5 * task_.lambda2 * ridge;
  }

  void collect_active() {
    n_active_ = 0;
    for (index j = 0; j < task_.m; ++j) {
      if (task_.is_active(j)) active_[n_active_++] = j;
    }
  }

  // The duality gap of the problem on the listed features, which must include those in use. Two dual points are tried, and both
  // gaps are sums of non-negative terms (docs/bilevel.md): the scaled residual of the problem with lambda2 moved into the data, and,
  // with lambda2 > 0, the residual itself. Leaves in `score_` how strongly each feature pulls.
  double certificate(const index* list, index count) {
    const index q = task_.q;
    const double lambda1 = task_.lambda1, lambda2 = task_.lambda2;
    for (index a = 0; a < count; ++a) left_[a] = task_.column[list[a]];
    for (index i = 0; i < count * q; ++i) correlation_[i] = 0;
    Passes::add_products(left_, count, task_.residual, task_.stride, q, task_.stride, task_.inverse_n, correlation_, q);
    double largest = 0, direct = 0, ridge = 0;
    for (index a = 0; a < count; ++a) {
      const double* w = task_.weights + list[a] * q;
      const double* c = correlation_ + a * q;
      double pull = 0, shrunk = 0, along = 0;
      for (index o = 0; o < q; ++o) {
        const double rest = c[o] - lambda2 * w[o];
        pull += c[o] * c[o];
        shrunk += rest * rest;
        along += c[o] * w[o];
      }
      pull = std::sqrt(pull);
      shrunk = std::sqrt(shrunk);
      score_[a] = shrunk;
      largest = shrunk > largest || std::isnan(shrunk) ? shrunk : largest;
      if (!(lambda2 > 0)) continue;
      const double norm = task_.norm(list[a]);
      const double factor = soft_threshold_factor(pull, lambda1) / lambda2;
      double distance = 0;
      for (index o = 0; o < q; ++o) distance += (w[o] - factor * c[o]) * (w[o] - factor * c[o]);
      direct += 0.5 * lambda2 * distance;
      if (norm > 0) direct += lambda1 * norm - (pull > lambda1 ? lambda1 / pull : 1.0) * along;
      ridge += norm * norm;
    }
    const double scale = largest <= lambda1 ? 1.0 : lambda1 / largest;  // NaN stays NaN
    double squares = lambda2 > 0 ? lambda2 * ridge * static_cast<double>(task_.n) : 0;
    for (index i = 0; i < q * task_.stride; ++i) squares += task_.residual[i] * task_.residual[i];
    double scaled = 0.5 * task_.inverse_n * (1 - scale) * (1 - scale) * squares;
    for (index a = 0; a < count; ++a) {
      const double norm = task_.norm(list[a]);
      if (norm == 0) continue;
      double along = 0;
      for (index o = 0; o < q; ++o) {
        const double w = task_.weights[list[a] * q + o];
        along += (correlation_[a * q + o] - lambda2 * w) * w;
      }
      scaled += lambda1 * norm - scale * along;
    }
    const double gap = lambda2 > 0 && direct < scaled ? direct : scaled;
    return gap < 0 ? 0 : gap;
  }

  // The features in use and as many others, at least `small_problem`, that pull most, by the scores of the full certificate.
  index choose_working_set() {
    const index m = task_.m;
    const index others = n_active_ > small_problem ? n_active_ : small_problem;
    if (m <= 2 * small_problem || n_active_ + others >= m) {
      for (index j = 0; j < m; ++j) working_[j] = j;
      return m;
    }
    for (index a = 0; a < n_active_; ++a) score_[active_[a]] = 0;
    double high = 0;
    for (index j = 0; j < m; ++j) high = score_[j] > high ? score_[j] : high;
    double low = 0, top = high;
    for (index halving = 0; halving < 40; ++halving) {  // the threshold that about `others` exceed
      const double middle = 0.5 * (low + top);
      index above = 0;
      for (index j = 0; j < m; ++j) above += score_[j] > middle;
      if (above == others) {
        low = middle;
        break;
      }
      (above > others ? low : top) = middle;
    }
    index count = 0;
    for (index a = 0; a < n_active_; ++a) working_[count++] = active_[a];
    index added = 0;
    for (index j = 0; j < m && added < others; ++j) {  // ties with the largest count: some violator is always among them
      if (score_[j] > low) {
        working_[count++] = j;
        ++added;
      }
    }
    return count;
  }

  void descend(index count, double tolerance) {
    for (index step = 0; step < max_steps; ++step) {
      for (index sweep = 0; sweep < sweeps_per_step; ++sweep) {
        if (!sweep_once(count)) break;
      }
      collect_active();
      // A step that a vanishing weight cut short is followed by one without it, before a sweep can bring it back.
      for (index left = task_.q == 1 ? max_cuts : 1; left > 0 && !newton_step(); --left) collect_active();
      if (certificate(working_, count) <= tolerance) return;
    }
  }

  // Exact minimisation over one feature's weights after the other. Whether a feature came into or went out of use.
  bool sweep_once(index count) {
    const index q = task_.q;
    bool changed = false;
    for (index a = 0; a < count; ++a) {
      const index j = working_[a];
      const double curvature = task_.squared_norm[j] + task_.lambda2;
      if (!(curvature > 0)) continue;
      double* w = task_.weights + j * q;
      double* target = step_;
      double squares = 0;
      for (index o = 0; o < q; ++o) target[o] = task_.squared_norm[j] * w[o];
      Passes::add_products(task_.column + j, 1, task_.residual, task_.stride, q, task_.stride, task_.inverse_n, target, q);
      for (index o = 0; o < q; ++o) squares += target[o] * target[o];
      const double factor = soft_threshold_factor(std::sqrt(squares), task_.lambda1) / curvature;
      const bool was = task_.is_active(j);
      for (index o = 0; o < q; ++o) {
        const double value = factor * target[o];
        if (value == w[o]) continue;
        task_.add_column(task_.residual + o * task_.stride, j, w[o] - value);
        w[o] = value;
      }
      changed |= was != task_.is_active(j);
    }
    return changed;
  }

  // Solves the optimality conditions of the features in use. A feature whose weights would turn round is set to zero if that lowers
  // the objective; else the step ends where the first one vanishes (up to there a single output's objective falls for certain).
  // Whether the whole step was taken.
  bool newton_step() {
    const index q = task_.q, size = n_active_ * q;
    if (size == 0 || size > system_.limit()) return true;
    system_.factor(task_, active_, n_active_);
    while (system_.dropped() >= 0 && slide(system_.dropped())) system_.factor(task_, active_, n_active_);
    if (n_active_ == 0) return true;
    for (index a = 0; a < n_active_; ++a) {
      const double norm = task_.norm(active_[a]);
      for (index o = 0; o < q; ++o) {
        const double w = task_.weights[active_[a] * q + o];
        before_[a * q + o] = w;
        double value = -task_.lambda1 * (w / norm) - task_.lambda2 * w;
        const double* residual = task_.residual + o * task_.stride;
        Passes::add_products(task_.column + active_[a], 1, residual, 0, 1, task_.stride, task_.inverse_n, &value, 1);
        step_[a * q + o] = value;
      }
    }
    system_.solve(step_);
    const double now = (1 + 1e-14) * objective();  // near the end a step's gain is lost in the rounding of the objective
    double first = 1;  // share of the step at which the first feature turns round
    for (index a = 0; a < n_active_; ++a) {
      double along = 0, square = 0;
      for (index o = 0; o < q; ++o) {
        along += step_[a * q + o] * before_[a * q + o];
        square += before_[a * q + o] * before_[a * q + o];
      }
      if (task_.lambda1 > 0 && along < 0 && square + first * along <= 0) first = -square / along;
    }
    if (take_step(1.0) <= now) return true;
    double share = q == 1 && first < 1 ? first : 0.5;
    for (index halving = 0; halving < 10; ++halving, share *= 0.5) {
      if (take_step(share) <= now) return false;
    }
    take_step(0.0);
    return true;
  }

  // A variable that depends on those before it: along the combination v with H v = 0 the fit does not change and the norms change
  // linearly, hence so does the objective, until the first feature's weights vanish. Goes there, downhill.
  bool slide(index dependent) {
    const index q = task_.q, k = dependent / q, output = dependent % q;
    const double* u = task_.weights + active_[k] * q;
    const double norm = task_.norm(active_[k]);
    for (index i = 0; i < n_active_ * q; ++i) step_[i] = 0;
    for (index a = 0; a < n_active_; ++a) {
      const double* other = task_.column[active_[k]];
      double* value = step_ + a * q + output;
      Passes::add_products(task_.column + active_[a], 1, other, 0, 1, task_.stride, -task_.inverse_n, value, 1);
    }
    for (index o = 0; o < q; ++o) step_[k * q + o] += task_.lambda1 / norm * (u[o] / norm) * (u[output] / norm);
    system_.solve(step_);
    step_[dependent] = 1;
    double slope = 0;
    for (index a = 0; a < n_active_; ++a) slope += growth(a) / task_.norm(active_[a]);
    const double direction = slope > 0 ? -1 : 1;
    double length = HUGE_VAL;
    index first = -1;
    for (index a = 0; a < n_active_; ++a) {
      const double reach = -task_.norm(active_[a]) * task_.norm(active_[a]) / (direction * growth(a));
      if (direction * growth(a) < 0 && reach < length) {
        length = reach;
        first = a;
      }
    }
    if (first < 0) return false;
    for (index a = 0; a < n_active_; ++a) {
      for (index o = 0; o < q; ++o) {
        double& w = task_.weights[active_[a] * q + o];
        w = a == first ? 0 : w + length * direction * step_[a * q + o];
      }
    }
    collect_active();
    task_.compute_residual(active_, n_active_);
    return true;
  }

  // <w, step> of one feature in use.
  double growth(index a) const {
    double total = 0;
    for (index o = 0; o < task_.q; ++o) total += task_.weights[active_[a] * task_.q + o] * step_[a * task_.q + o];
    return total;
  }

  // The objective after this share of the step.
  double take_step(double share) {
    const index q = task_.q;
    for (index a = 0; a < n_active_; ++a) {
      double* w = task_.weights + active_[a] * q;
      double along = 0;
      for (index o = 0; o < q; ++o) {
        w[o] = before_[a * q + o] + share * step_[a * q + o];
        along += w[o] * before_[a * q + o];
      }
      if (task_.lambda1 > 0 && along <= 0) {
        for (index o = 0; o < q; ++o) w[o] = 0;
      }
    }
    task_.compute_residual(active_, n_active_);
    return objective();
  }

  RegressionTask<Passes, T> task_;
  ActiveSystem<Passes> system_;
  index* working_;
  index* everything_;
  index* active_;
  index n_active_ = 0;
  const double** left_;
  double* correlation_;
  double* score_;
  double* step_;
  double* before_;
  double tolerance_ = 0;
};

SPARSESVM_END
