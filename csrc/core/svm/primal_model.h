// One step of the inner problem on the working set: the quadratic model of its smooth part, one sweep over the groups to find which
// are active, one Newton step on those.
//
//     minimise over D:  <g, D> + <D, (mu + F' S F) D> / 2 + lambda1 sum_G ||W_G + D_G||
//
// The sweep takes a proximal gradient step in each group in turn. The Newton step is one on the natural residual prox(U) - W with
// U = W - gradient / L: groups with ||U_G|| > lambda1 / L_G are active, with curvature b = lambda1 / (||U_G|| - lambda1 / L_G) across
// U_G; the others go to zero. Matrices are (columns, k - 1), in the coordinates of ClassBasis.
#pragma once

#include <algorithm>
#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/class_basis.h"
#include "core/svm/free_samples.h"
#include "core/svm/newton_system.h"
#include "core/svm/proximal_rules.h"

SPARSESVM_BEGIN

template <class Passes, typename T, class Features>
class PrimalModel {
 public:
  using Column = typename Features::Column;

  PrimalModel(const Batch<T>& batch, Features& features, const ClassBasis& basis, const FreeSamples& free, Arena& arena)
      : k_(batch.n_way), q_(batch.n_way - 1), g_(batch.group_size), features_(features), basis_(basis), free_(free),
        system_(batch, features, basis, free, arena) {
    const index n = batch.n_samples, m = batch.n_features, k = k_;
    column_ = arena.template take<Column>(m);
    moved_ = arena.take<double>(m * q_);
    gradient_ = arena.take<double>(m * q_);
    curvature_ = arena.take<double>(m / g_);
    active_ = arena.take<index>(m / g_);
    crossing_ = arena.take<double>(m / g_);
    step_ = arena.take<double>(m * q_);
    right_ = arena.take<double>(m * q_);
    image_ = arena.take<double>(m * q_);
    scores_ = arena.take<double>(n * k);
    wide_ = arena.take<double>(2 * n);
    weights_ = arena.take<double>(n * k);
    local_ = arena.take<double>(g_ * q_);
    small_ = arena.take<double>(4 * k);
  }

  // Another inner problem comes.
  void forget() {
    system_.forget();
    crossed_ = false;
  }

  // Another task comes.
  void start() { system_.start(); }

  // Changes `w` (n_groups * group_size, k - 1) by a step of the model; `opened` are the columns of the working set over all samples, g
  // the gradient of the smooth part there, mu (n_groups) the curvature of its penalty, and threshold (n_groups) lambda1 of each group.
  void step(const Column* opened, index n_groups, const double* g, const double* mu, const double* threshold, double accuracy, double* w) {
    n_groups_ = n_groups;
    const index size = n_groups * g_ * q_;
    features_.select(opened, n_groups * g_, free_.sample, free_.count, column_);
    for (index e = 0; e < size; ++e) moved_[e] = 0;
    sweep(g, mu, threshold, w);
    gradient_after(g, mu, size);
    newton(mu, threshold, accuracy, w);
  }

 private:
  // Classes in which the sweep keeps w S Z: two differ in sign alone.
  index lanes() const { return k_ == 2 ? 1 : k_; }

  index at(index lane, index i) const { return Features::at(lane, i, lanes(), free_.count); }

  void sweep(const double* g, const double* mu, const double* threshold, double* w) {
    const index f = free_.count;
    for (index e = 0; e < lanes() * f; ++e) scores_[e] = 0;
    for (index l = 0; l < lanes(); ++l) {
      for (index i = 0; i < f; ++i) {
        weights_[at(l, i)] = k_ == 2 ? free_.weight[i] : 2 * free_.weight[i] * free_.mask[l * f + i] * (1 - free_.inverse[i]);
      }
    }
    for (index p = 0; p < n_groups_; ++p) {
      Passes::pause(g_ * lanes() * f);
      curvature_[p] = group_curvature(p) + mu[p];
      const double inverse = 1 / curvature_[p];
      double norm = 0;
      for (index j = p * g_; j < (p + 1) * g_; ++j) read_column(j, g, mu[p], w, inverse, local_ + (j - p * g_) * q_, norm);
      const double factor = soft_threshold_factor(std::sqrt(norm), threshold[p] * inverse);
      for (index j = p * g_; j < (p + 1) * g_; ++j) {
        const double* target = local_ + (j - p * g_) * q_;
        bool any = false;
        double* d = small_;
        for (index a = 0; a < q_; ++a) {
          const double next = factor * target[a];
          d[a] = next - w[j * q_ + a];
          any = any || d[a] != 0;
          w[j * q_ + a] = next;
          moved_[j * q_ + a] += d[a];
        }
        if (any) move_scores(j, d);
      }
    }
  }

  // u = w - (g + change of the gradient) / L of one column, its squared norm added to `norm`.
  void read_column(index j, const double* g, double mu, const double* w, double inverse, double* u, double& norm) {
    double *y = small_, *reduced = small_ + k_;
    for (index l = 0; l < lanes(); ++l) y[l] = 0;
    features_.add_products(column_[j], free_.count, scores_, lanes(), y);
    if (k_ == 2) {
      reduced[0] = y[0];
    } else {
      basis_.reduce(y, reduced);
    }
    for (index a = 0; a < q_; ++a) {
      const index e = j * q_ + a;
      u[a] = w[e] - inverse * (g[e] + reduced[a] + mu * moved_[e]);
      norm += u[a] * u[a];
    }
  }

  // A bound on the largest eigenvalue of the group's block of F' S F: absolute row sums over the classes, summed over the columns.
  double group_curvature(index p) {
    double* sums = small_;
    for (index l = 0; l < lanes(); ++l) sums[l] = 0;
    for (index j = p * g_; j < (p + 1) * g_; ++j) features_.add_square_products(column_[j], free_.count, weights_, lanes(), sums);
    double largest = 0;
    for (index l = 0; l < lanes(); ++l) largest = sums[l] > largest ? sums[l] : largest;
    return largest;
  }

  // scores_ += w S f_j d'
  void move_scores(index j, const double* d) {
    const index f = free_.count;
    double *scores = scores_, *wide = small_ + k_;
    const double *weight = free_.weight, *inverse = free_.inverse, *masks = free_.mask;
    if (k_ == 2) {
      const double by = d[0];
      Features::visit(column_[j], f, [=](index i, double x) { scores[i] += weight[i] * by * x; });
      return;
    }
    basis_.expand(d, wide);
    if constexpr (Features::sparse) {
      Features::visit(column_[j], f, [=](index i, double x) {
        double mean = 0;
        for (index l = 0; l < k_; ++l) mean += masks[l * f + i] * wide[l];
        mean *= inverse[i];
        for (index l = 0; l < k_; ++l) scores[at(l, i)] += weight[i] * x * masks[l * f + i] * (wide[l] - mean);
      });
      return;
    }
    double *scaled = wide_, *mean = wide_ + f;
    for (index i = 0; i < f; ++i) mean[i] = 0;
    Features::visit(column_[j], f, [=](index i, double x) { scaled[i] = weight[i] * x; });
    for (index l = 0; l < k_; ++l) {
      const double by = wide[l];
      const double* mask = masks + l * f;
#pragma omp simd
      for (index i = 0; i < f; ++i) mean[i] += mask[i] * by;
    }
#pragma omp simd
    for (index i = 0; i < f; ++i) mean[i] *= inverse[i];
    for (index l = 0; l < k_; ++l) {
      const double by = wide[l];
      const double* mask = masks + l * f;
      double* to = scores + l * f;
#pragma omp simd
      for (index i = 0; i < f; ++i) to[i] += scaled[i] * mask[i] * (by - mean[i]);
    }
  }

  // gradient_ = g + (mu + F' S F) moved
  void gradient_after(const double* g, const double* mu, index size) {
    set_columns(n_groups_, nullptr);
    system_.multiply(moved_, gradient_);
    for (index e = 0; e < size; ++e) gradient_[e] += g[e] + mu[e / (g_ * q_)] * moved_[e];
  }

  // The system's columns: those of the listed groups, or of all.
  void set_columns(index count, const index* groups) {
    for (index t = 0; t < count; ++t) {
      const index p = groups != nullptr ? groups[t] : t;
      for (index j = 0; j < g_; ++j) system_.column[t * g_ + j] = column_[p * g_ + j];
    }
    system_.set_groups(count);
  }

  // One Newton step on the natural residual; where the model does not fall along it, steps on the groups in use. Where these had to stop
  // many groups the time before and a step is dear, they come at once.
  void newton(const double* mu, const double* threshold, double accuracy, double* w) {
    if (crossed_ && system_.dear()) {
      newton_in_use(mu, threshold, accuracy, w);
      return;
    }
    const index block = g_ * q_, n_active = list_active(mu, threshold, w);
    set_columns(n_groups_, nullptr);
    system_.multiply(step_, image_);  // what the groups that go to zero do to the others
    for (index t = 0; t < n_active; ++t) {
      for (index e = 0; e < block; ++e) right_[t * block + e] -= image_[active_[t] * block + e];
    }
    solve_active(n_active, accuracy);
    if (!take(1, mu, threshold, w)) newton_in_use(mu, threshold, accuracy, w);
  }

  // Lists the groups that the natural residual calls active, and the system there; the step takes the others to zero.
  index list_active(const double* mu, const double* threshold, const double* w) {
    const index block = g_ * q_;
    index n_active = 0;
    for (index p = 0; p < n_groups_; ++p) {
      const double inverse = 1 / curvature_[p];
      double *unit = system_.unit + n_active * block, *right = right_ + n_active * block, norm = 0;
      for (index e = 0; e < block; ++e) {
        unit[e] = w[p * block + e] - inverse * gradient_[p * block + e];
        norm += unit[e] * unit[e];
      }
      norm = std::sqrt(norm);
      const bool active = norm > threshold[p] * inverse;
      for (index e = 0; e < block; ++e) step_[p * block + e] = active ? 0.0 : -w[p * block + e];
      if (!active) continue;
      const double t = threshold[p] * inverse / norm, bend = threshold[p] / (norm * (1 - t));
      double inner = 0;
      for (index e = 0; e < block; ++e) {
        right[e] = (1 - t) * unit[e] - w[p * block + e];
        unit[e] /= norm;
        inner += unit[e] * right[e];
      }
      for (index e = 0; e < block; ++e) right[e] = curvature_[p] * right[e] + bend * (right[e] - inner * unit[e]);
      set_penalty(n_active, mu[p], bend);
      active_[n_active++] = p;
    }
    return n_active;
  }

  void set_penalty(index t, double mu, double bend) {
    system_.along[t] = 1 / mu;
    system_.across[t] = 1 / (mu + bend);
  }

  // The step on the listed groups.
  void solve_active(index n_active, double accuracy) {
    const index block = g_ * q_;
    if (n_active == 0) return;
    set_columns(n_active, active_);
    system_.solve(right_, accuracy, image_);
    for (index t = 0; t < n_active; ++t) {
      for (index e = 0; e < block; ++e) step_[active_[t] * block + e] = image_[t * block + e];
    }
  }

  // Newton steps on the groups that the sweep left in use: there their norms are smooth, so that each step descends. Where a whole one
  // would push groups through zero these stop there, or where that raises the model half of them, and so on; the last one never
  // does. They leave.
  void newton_in_use(const double* mu, const double* threshold, double accuracy, double* w) {
    const index block = g_ * q_;
    double budget = 0;
    for (int drop = 0; drop < ProximalRules::max_drops; ++drop) {
      const index n_active = list_in_use(mu, threshold, w);
      if (n_active == 0) return;
      set_columns(n_active, active_);
      if (drop > 0 && budget + system_.direct_cost() > ProximalRules::drop_cost) return;
      solve_active(n_active, accuracy);
      budget += system_.spent;
      index crossing = 0;
      for (index t = 0; t < n_active; ++t) {
        double along = 0, own = 0;
        for (index e = active_[t] * block; e < (active_[t] + 1) * block; ++e) {
          along -= w[e] * step_[e];
          own += w[e] * w[e];
        }
        if (own < along) crossing_[crossing++] = own / along;
      }
      crossed_ = many_crossed * static_cast<double>(n_active) < static_cast<double>(crossing);
      double length = 1;
      index stopped = crossing;
      std::sort(crossing_, crossing_ + crossing);
      while (!take(length, mu, threshold, w)) {
        if (stopped > 1) {
          stopped = (stopped + 1) / 2;
          length = crossing_[stopped - 1];
        } else {
          stopped = 0;
          length *= 0.4;
          if (length < 1e-3) return;
        }
      }
      if (stopped == 0 || length == 1) return;
      for (index e = 0; e < n_groups_ * block; ++e) gradient_[e] += image_[e] + mu[e / block] * right_[e];
    }
  }

  // Lists the groups with weights, and the system there; the step is zero elsewhere.
  index list_in_use(const double* mu, const double* threshold, const double* w) {
    const index block = g_ * q_;
    index n_active = 0;
    for (index p = 0; p < n_groups_; ++p) {
      double norm = 0;
      for (index e = p * block; e < (p + 1) * block; ++e) {
        norm += w[e] * w[e];
        step_[e] = 0;
      }
      if (!(norm > 0)) continue;
      norm = std::sqrt(norm);
      for (index e = 0; e < block; ++e) {
        const double u = w[p * block + e] / norm;
        system_.unit[n_active * block + e] = u;
        right_[n_active * block + e] = -gradient_[p * block + e] - threshold[p] * u;
      }
      set_penalty(n_active, mu[p], threshold[p] / norm);
      active_[n_active++] = p;
    }
    return n_active;
  }

  // Moves w by `length` of the step if the model falls, and leaves the move in right_ and F' S F times it in image_. Groups that would
  // pass through zero stop there.
  bool take(double length, const double* mu, const double* threshold, double* w) {
    const index block = g_ * q_;
    double* d = right_;
    for (index p = 0; p < n_groups_; ++p) {
      double along = 0, own = 0;
      for (index e = p * block; e < (p + 1) * block; ++e) {
        d[e] = length * step_[e];
        along += w[e] * (w[e] + d[e]);
        own += w[e] * w[e];
      }
      if (own > 0 && !(along > 1e-14 * own)) {
        for (index e = p * block; e < (p + 1) * block; ++e) d[e] = -w[e];
      }
    }
    set_columns(n_groups_, nullptr);
    system_.multiply(d, image_);
    double change = 0;
    for (index p = 0; p < n_groups_; ++p) {
      double before = 0, after = 0, cross = 0;
      for (index e = p * block; e < (p + 1) * block; ++e) {
        const double next = w[e] + d[e];
        change += d[e] * (gradient_[e] + 0.5 * (image_[e] + mu[p] * d[e]));
        before += w[e] * w[e];
        after += next * next;
        cross += d[e] * (2 * w[e] + d[e]);
      }
      const double sum = std::sqrt(before) + std::sqrt(after);
      if (sum > 0) change += threshold[p] * cross / sum;
    }
    if (!(change < 0)) return false;
    for (index e = 0; e < n_groups_ * block; ++e) w[e] = d[e] == -w[e] ? 0.0 : w[e] + d[e];
    return true;
  }

  static constexpr double many_crossed = 0.01;  // of the groups in use

  index k_, q_, g_, n_groups_ = 0;
  bool crossed_ = false;
  Features& features_;
  const ClassBasis& basis_;
  const FreeSamples& free_;
  NewtonSystem<Passes, T, Features> system_;
  Column* column_;  // of the working set, over the free samples
  double *crossing_, *moved_, *gradient_, *curvature_, *step_, *right_, *image_, *scores_, *wide_, *weights_, *local_, *small_;
  index* active_;
};

SPARSESVM_END
