// The active groups of a solution, a panel of columns at a time: features, weights, unit blocks, and the derivative of the link.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <typename T>
class ActivePanel {
 public:
  ActivePanel(const Batch<T>& batch, Arena& arena) {
    const index n = batch.n_samples, k = batch.n_way, m = batch.n_features, g = batch.group_size;
    stride = g > target_columns ? g : target_columns / g * g;
    if (stride > m) stride = m;
    group_ = arena.take<index>(m / g);
    norm_ = arena.take<double>(m / g);
    f = arena.take<double>(n * stride);
    u = arena.take<double>(k * stride);
    w = arena.take<double>(k * stride);
    keep = arena.take<double>(stride / g);
    weight = arena.take<double>(stride);
    along_ = arena.take<double>(stride / g);
    inverse_ = arena.take<double>(m / g);
    given_ = arena.take<const T*>(n);
    copied_ = arena.take<const double*>(n);
  }

  // Lists the active groups. With lambda1 = 0 the link is linear and every group counts, also one that is zero on the whole support
  // set.
  void bind(const Task<T>& task, const T* weights) {
    task_ = &task;
    weights_ = weights;
    const index m = task.m, g = task.group_size;
    for (index b = 0; b < task.n_groups; ++b) norm_[b] = 0;
    for (index l = 0; l < task.k; ++l) {
      const T* row = weights + l * m;
      if (g == 1) {
        for (index j = 0; j < m; ++j) norm_[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
      } else {
        for (index j = 0; j < m; ++j) norm_[j / g] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
      }
    }
    n_active = groups = 0;
    for (index b = 0; b < task.n_groups; ++b) {
      if (!(norm_[b] > 0) && task.lambda1 > 0) continue;
      group_[n_active] = b;
      const double norm = std::sqrt(norm_[b]);
      inverse_[n_active] = norm > 0 ? 1 / norm : 0.0;
      norm_[n_active++] = norm;  // the list is never ahead of what it reads
    }
  }

  // The next panel, from active group `first` on; returns the first group after it.
  index load(index first) {
    const index next = load_link(first);
    for (index i = 0; i < task_->n && !contiguous_; ++i) gather(task_->rows[i], f + i * stride);
    return next;
  }

  // Calls body(rows) with the panel's part of the samples' features: where they lie if its columns are side by side, else copied
  // to `f`.
  template <class Body>
  void with_features(const Body& body) {
    if (contiguous_) {
      for (index i = 0; i < task_->n; ++i) given_[i] = task_->rows[i] + column(0);
      body(given_);
    } else {
      for (index i = 0; i < task_->n; ++i) copied_[i] = f + i * stride;
      body(copied_);
    }
  }

  // The same without the features.
  index load_link(index first) {
    const index g = task_->group_size, k = task_->k, m = task_->m;
    first_ = first;
    groups = n_active - first < stride / g ? n_active - first : stride / g;
    width = groups * g;
    contiguous_ = groups > 0 && group_[first + groups - 1] - group_[first] == groups - 1;
    for (index l = 0; l < k; ++l) {
      gather(weights_ + l * m, w + l * stride);
      const double* inverse = inverse_ + first;
      const double* from = w + l * stride;
      double* unit = u + l * stride;
      over_columns([&](index p, index j) { unit[j] = inverse[p] * from[j]; });
    }
    for (index p = 0; p < groups; ++p) {
      const double shrunk = task_->lambda2 * norm_[first + p];
      keep[p] = task_->lambda1 > 0 ? shrunk / (task_->threshold(group_[first + p]) + shrunk) : 1.0;
      for (index j = p * g; j < (p + 1) * g; ++j) weight[j] = task_->threshold.weight(group_[first + p]);
    }
    return first + groups;
  }

  // Whether it holds all active groups.
  bool whole() const { return groups > 0 && groups == n_active; }

  // Position among all features of column j of the panel.
  index column(index j) const {
    const index g = task_->group_size;
    return group_[first_ + j / g] * g + j % g;
  }

  // The panel's part of a row over all features, and back.
  template <typename From, typename To>
  void gather(const From* from, To* to) const {
    if (contiguous_) {
      const From* start = from + column(0);
      for (index j = 0; j < width; ++j) to[j] = static_cast<To>(start[j]);
    } else if (task_->group_size == 1) {
      for (index j = 0; j < width; ++j) to[j] = static_cast<To>(from[group_[first_ + j]]);
    } else {
      for (index j = 0; j < width; ++j) to[j] = static_cast<To>(from[column(j)]);
    }
  }

  template <typename To>
  void scatter(const double* from, To* to) const {
    if (contiguous_) {
      To* start = to + column(0);
      for (index j = 0; j < width; ++j) start[j] = static_cast<To>(from[j]);
    } else if (task_->group_size == 1) {
      for (index j = 0; j < width; ++j) to[group_[first_ + j]] = static_cast<To>(from[j]);
    } else {
      for (index j = 0; j < width; ++j) to[column(j)] = static_cast<To>(from[j]);
    }
  }

  // out = D x / lambda2, group by group: (1 - t) x + t <u, x> u, for x and out (k, stride). They may be the same.
  void apply_link_derivative(const double* x, double* out) { apply_link_derivative(x, out, stride); }

  // The same for the panel's part of longer rows.
  void apply_link_derivative(const double* x, double* out, index row_stride) {
    const index k = task_->k;
    const double inverse = 1 / task_->lambda2;
    if (task_->lambda1 == 0) {
      for (index l = 0; l < k; ++l) {
        for (index j = 0; j < width; ++j) out[l * row_stride + j] = inverse * x[l * row_stride + j];
      }
      return;
    }
    for (index p = 0; p < groups; ++p) along_[p] = 0;
    for (index l = 0; l < k; ++l) {
      const double *unit = u + l * stride, *from = x + l * row_stride;
      over_columns([&](index p, index j) { along_[p] += unit[j] * from[j]; });
    }
    for (index p = 0; p < groups; ++p) along_[p] *= (1 - keep[p]) * inverse;
    for (index l = 0; l < k; ++l) {
      const double *unit = u + l * stride, *from = x + l * row_stride;
      double* to = out + l * row_stride;
      over_columns([&](index p, index j) { to[j] = keep[p] * inverse * from[j] + along_[p] * unit[j]; });
    }
  }

  index n_active = 0;              // groups
  index stride = 0;                // of the panel's rows
  index groups = 0, width = 0;     // on the panel now
  double *f, *u, *w;               // (n, stride), (k, stride), (k, stride); see with_features
  double* keep;                    // (groups) 1 - t = lambda2 ||W_G|| / (lambda1 + lambda2 ||W_G||): what the link keeps across u
  double* weight;                  // (width) of each column's group

 private:
  static constexpr index target_columns = 256;

  // body(group, column) for all columns of the panel; a loop of its own for single features, which it is vectorised for.
  template <class Body>
  void over_columns(const Body& body) const {
    const index g = task_->group_size;
    if (g == 1) {
      for (index p = 0; p < groups; ++p) body(p, p);
    } else {
      for (index p = 0; p < groups; ++p) {
        for (index j = p * g; j < (p + 1) * g; ++j) body(p, j);
      }
    }
  }

  const Task<T>* task_ = nullptr;
  const T* weights_ = nullptr;
  index* group_;   // (groups) the active ones
  double *norm_, *inverse_;  // (groups) of their weights, and one over it or zero
  double* along_;            // (panel groups) scratch
  const T** given_;          // (n)
  const double** copied_;    // (n)
  index first_ = 0;
  bool contiguous_ = false;
};

SPARSESVM_END
