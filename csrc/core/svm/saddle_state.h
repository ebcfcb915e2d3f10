// The iterate (W, p) of the proximal method of multipliers, and the best primal and dual values seen on the way.
//
// Matrices over features are (m, k - 1), scores and pulls (k - 1, n), all in the coordinates of ClassBasis; probabilities are (n, k).
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/prox.h"
#include "core/svm/class_basis.h"
#include "core/svm/objective.h"
#include "core/svm/proximal_rules.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <typename T>
class SaddleState {
 public:
  SaddleState(const Batch<T>& batch, const ClassBasis& basis, Arena& arena)
      : k_(batch.n_way), q_(batch.n_way - 1), g_(batch.group_size), basis_(basis) {
    const index n = batch.n_samples, m = batch.n_features, groups = m / g_;
    w = arena.take<double>(m * q_);
    w_centre = arena.take<double>(m * q_);
    p = arena.take<double>(n * k_);
    p_centre = arena.take<double>(n * k_);
    best_w = arena.take<double>(m * q_);
    best_p = arena.take<double>(n * k_);
    z = arena.take<double>(n * q_);
    a = arena.take<double>(n * q_);
    v = arena.take<double>(m * q_);
    norm_ = arena.take<double>(groups);
    scratch_ = arena.take<double>(4 * k_);
  }

  // W = 0 and `probabilities` (n_samples of the batch, k), rows `stride` apart, or uniform ones. The labels' own dual has the value zero.
  void start(const Task<T>& task, const double* probabilities, index stride) {
    task_ = &task;
    drop_weights();
    for (index e = 0; e < task.m * q_; ++e) best_w[e] = 0;
    for (index i = 0; i < task.n; ++i) {
      double* row = p_centre + i * k_;
      for (index l = 0; l < k_; ++l) {
        row[l] = probabilities != nullptr ? probabilities[task.sample[i] * stride + l] : 1.0 / static_cast<double>(k_);
      }
      project_simplex(row, k_, 1.0);
    }
    for (index i = 0; i < task.n; ++i) {
      for (index l = 0; l < k_; ++l) best_p[i * k_ + l] = task.label[i] == l;
    }
    best_primal = value_without_weights();
    rounding_ = 1e-16 * best_primal;
    best_dual = 0;
  }

  // Never below what rounding leaves of two sums of this size.
  double gap() const { return (best_primal <= best_dual ? 0.0 : best_primal - best_dual) + rounding_; }

  // p = the probabilities that maximise the inner saddle at the scores z, and a = diag(c) (Y - p).
  void respond(double rho) {
    const index n = task_->n;
    const double total = task_->smoothing + rho;
    double *score = scratch_, *packed = scratch_ + k_;
    for (index i = 0; i < n; ++i) {
      for (index c = 0; c < q_; ++c) packed[c] = z[c * n + i];
      basis_.expand(packed, score);
      double* row = p + i * k_;
      for (index l = 0; l < k_; ++l) {
        const double y = task_->label[i] == l;
        row[l] = (score[l] - y + task_->smoothing * y + rho * p_centre[i * k_ + l]) / total;
      }
      project_simplex(row, k_, 1.0);
      take_row(i);
    }
  }

  void drop_weights() {
    for (index e = 0; e < task_->m * q_; ++e) w[e] = w_centre[e] = 0;
    for (index e = 0; e < task_->n * q_; ++e) z[e] = 0;
  }

  // p = its centre, and a likewise.
  void stay() { take(p_centre); }

  // v and the norms of its blocks at the best dual, in place of p and a.
  template <class Features>
  void pull_best(Features& features) {
    take(best_p);
    pull_all(features);
  }

  double norm(index b) const { return norm_[b]; }

  // v (k - 1, m) = a F over all features: the one pass over everything.
  template <class Features>
  void pull_all(Features& features) {
    const index m = task_->m;
    features.pull_all(a, q_, v);
    for (index b = 0; b < task_->n_groups; ++b) norm_[b] = 0;
    for (index c = 0; c < q_; ++c) {
      const double* row = v + c * m;
      if (g_ == 1) {
        for (index j = 0; j < m; ++j) norm_[j] += row[j] * row[j];
      } else {
        for (index j = 0; j < m; ++j) norm_[j / g_] += row[j] * row[j];
      }
    }
    for (index b = 0; b < task_->n_groups; ++b) norm_[b] = std::sqrt(norm_[b]);
  }

  // Values of the original problem at W and at p after `pull_all`; the best of each are kept apart. Also what of this pair's gap the
  // loss and the penalty leave open.
  void certify() {
    const index n = task_->n;
    double loss = 0, linear = 0, curved = 0;
    double *score = scratch_, *packed = scratch_ + k_;
    loss_gap = 0;
    for (index i = 0; i < n; ++i) {
      for (index c = 0; c < q_; ++c) packed[c] = z[c * n + i];
      basis_.expand(packed, score);
      const double* row = p + i * k_;
      const SampleValue value = sample_value(score, row, task_->label[i], k_, task_->smoothing, scratch_ + 2 * k_);
      loss += task_->weight[i] * value.loss;
      loss_gap += task_->weight[i] * value.gap;
      linear += task_->weight[i] * (1 - row[task_->label[i]]);
      for (index l = 0; task_->smoothing > 0 && l < k_; ++l) {
        const double d = row[l] - (task_->label[i] == l);
        curved += task_->smoothing * task_->weight[i] * d * d;
      }
    }
    const Thresholds threshold = task_->threshold;
    double penalty = 0;
    for (index b = 0; b < task_->n_groups; ++b) {
      double square = 0;
      for (index e = b * g_ * q_; e < (b + 1) * g_ * q_; ++e) square += w[e] * w[e];
      penalty += threshold(b) * std::sqrt(square) + 0.5 * task_->lambda2 * square;
    }
    double largest = 0;  // beside its threshold
    for (index b = 0; b < task_->n_groups && !(task_->lambda2 > 0); ++b) {
      largest = norm_[b] > largest * threshold(b) ? norm_[b] / threshold(b) : largest;
    }
    const auto sums = [this](double share) { return excess_sums(share); };
    const double share = best_share(linear, curved, task_->lambda2, largest, sums);
    const double value = scaled_dual_value(share, linear, curved, task_->lambda2, sums);
    penalty_gap = loss + penalty - value - loss_gap;
    if (!(std::fabs(loss + penalty) <= 1e300) || !(std::fabs(value) <= 1e300)) {
      best_primal = __builtin_nan("");
      return;
    }
    if (loss + penalty < best_primal) {
      best_primal = loss + penalty;
      for (index e = 0; e < task_->m * q_; ++e) best_w[e] = w[e];
    }
    if (value > best_dual) {
      best_dual = value;
      for (index i = 0; i < n; ++i) {
        for (index l = 0; l < k_; ++l) {
          const double y = task_->label[i] == l;
          best_p[i * k_ + l] = y + share * (p[i * k_ + l] - y);
        }
      }
    }
  }

  // Duality gap that one group leaves in the inner problem, at weights x_w and pull x = V + sigma W_t (group_size, k - 1) each.
  double group_gap(const double* x_w, const double* x, double mu, double threshold) const {
    double ww = 0, xx = 0, wx = 0;
    for (index e = 0; e < g_ * q_; ++e) {
      ww += x_w[e] * x_w[e];
      xx += x[e] * x[e];
      wx += x_w[e] * x[e];
    }
    return inner_gap(ww, xx, wx, mu, threshold);
  }

  void move_centre() {
    for (index e = 0; e < task_->n * k_; ++e) p_centre[e] = p[e];
    for (index e = 0; e < task_->m * q_; ++e) w_centre[e] = w[e];
  }

  double *w, *w_centre, *best_w;  // (m, k - 1)
  double *p, *p_centre, *best_p;  // (n, k)
  double *z, *a;                  // (k - 1, n)
  double* v;                      // (k - 1, m)
  double best_primal = 0, best_dual = 0, loss_gap = 0, penalty_gap = 0;

 private:
  // p = the given probabilities, and a likewise.
  void take(const double* probabilities) {
    for (index e = 0; e < task_->n * k_; ++e) p[e] = probabilities[e];
    for (index i = 0; i < task_->n; ++i) take_row(i);
  }

  // a = diag(c) (Y - p) of one sample.
  void take_row(index i) {
    double *wide = scratch_, *packed = scratch_ + k_;
    for (index l = 0; l < k_; ++l) wide[l] = task_->weight[i] * ((task_->label[i] == l) - p[i * k_ + l]);
    basis_.reduce(wide, packed);
    for (index c = 0; c < q_; ++c) a[c * task_->n + i] = packed[c];
  }

  double value_without_weights() {
    double total = 0;
    double *zero = scratch_, *uniform = scratch_ + k_;
    for (index l = 0; l < k_; ++l) {
      zero[l] = 0;
      uniform[l] = 1.0 / static_cast<double>(k_);
    }
    for (index i = 0; i < task_->n; ++i) {
      total += task_->weight[i] * sample_value(zero, uniform, task_->label[i], k_, task_->smoothing, scratch_ + 2 * k_).loss;
    }
    return total;
  }

  ExcessSums excess_sums(double share) const {
    ExcessSums sums{};
    const Thresholds threshold = task_->threshold;
    for (index b = 0; b < task_->n_groups; ++b) sums.add(norm_[b], share, threshold(b));
    return sums;
  }

  index k_, q_, g_;
  const ClassBasis& basis_;
  const Task<T>* task_ = nullptr;
  double rounding_ = 0;
  double* norm_;  // (groups) of the blocks of v
  double* scratch_;
};

SPARSESVM_END
