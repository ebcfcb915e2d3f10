// What the proximal method reads of a task's features, here as dense rows: all columns at once, and some columns over all samples or
// over a list of them. sparse_features.h offers the same.
#pragma once

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class DenseFeatures {
 public:
  using Column = const T*;  // its entries, sample by sample
  static constexpr bool sparse = false;

  DenseFeatures(const Batch<T>& batch, Arena& arena) {
    const index n = batch.n_samples, m = batch.n_features, k = batch.n_way;
    opened_ = arena.take<T>(n * m);
    selected_ = arena.take<T>(n * m);
    row_ = arena.take<const T*>(n);
    coefficients_ = arena.take<double>(n * k);
    square_ = arena.take<double>(n);
  }

  void bind(const Batch<T>& batch, index number, const Task<T>& task) {
    task_ = &task;
    stride_ = batch.row_stride;
    first_ = batch.features + number * batch.task_stride;
  }

  // out (m) = sum_i c_i f_ij^2
  void measure(double* out) const {
    Passes::count_full_pass();
    for (index j = 0; j < task_->m; ++j) out[j] = 0;
    for (index i = 0; i < task_->n; ++i) {
      const T* row = task_->rows[i];
      const double c = task_->weight[i];
      for (index j = 0; j < task_->m; ++j) out[j] += c * static_cast<double>(row[j]) * static_cast<double>(row[j]);
    }
  }

  // out (q, m) = a F for a (q, n)
  void pull_all(const double* a, index q, double* out) {
    Passes::count_full_pass();
    const index n = task_->n;
    index count = 0;
    for (index i = 0; i < n; ++i) {
      bool any = false;
      for (index c = 0; c < q; ++c) {
        coefficients_[count * q + c] = a[c * n + i];
        any = any || a[c * n + i] != 0;
      }
      if (any) row_[count++] = task_->rows[i];
    }
    Passes::combine_rows(row_, count, coefficients_, q, task_->m, out, task_->m);
  }

  // out (n, k) = F w' for w (k, m)
  void score_all(const double* w, double* out) const {
    Passes::count_full_pass();
    const index n = task_->n, m = task_->m, k = task_->k;
    for (index e = 0; e < n * k; ++e) out[e] = 0;
    Passes::add_all_products(task_->rows, n, w, m, k, m, 1.0, out);
  }

  // out (k) = the scores of sample i of the batch's task, present or not.
  void score(index i, const double* w, double* out) const {
    const index m = task_->m, k = task_->k;
    const T* row = first_ + i * stride_;
    for (index l = 0; l < k; ++l) out[l] = 0;
    Passes::add_products(&row, 1, w, m, k, m, 1.0, out, k);
  }

  // The columns of the listed groups over all samples; those opened before are closed.
  void open(const index* groups, index n_groups, Column* out) {
    const index n = task_->n, g = task_->group_size;
    for (index j = 0; j < n_groups * g; ++j) out[j] = opened_ + j * n;
    for (index i = 0; i < n; ++i) {
      const T* row = task_->rows[i];
      for (index t = 0; t < n_groups; ++t) {
        for (index j = 0; j < g; ++j) opened_[(t * g + j) * n + i] = row[groups[t] * g + j];
      }
    }
  }

  // The opened columns at the listed samples, in their order; those selected before are closed.
  void select(const Column* opened, index count, const index* samples, index length, Column* out) {
    for (index j = 0; j < count; ++j) {
      T* to = selected_ + j * length;
      for (index i = 0; i < length; ++i) to[i] = opened[j][samples[i]];
      out[j] = to;
    }
  }

  // out (q, length) = F x for x (count, q)
  void combine(const Column* column, index count, index length, const double* x, index q, double* out) {
    Passes::combine_rows(column, count, x, q, length, out, length);
  }

  // out (count, q) = F' s for s (q, length)
  void pull(const Column* column, index count, index length, const double* s, index q, double* out) {
    for (index e = 0; e < count * q; ++e) out[e] = 0;
    Passes::add_all_products(column, count, s, length, q, length, 1.0, out);
  }

  // Where the numbers of (lane, sample) lie that the passes over one column read.
  static index at(index lane, index i, index, index length) { return lane * length + i; }

  // out (lanes) += x' s
  void add_products(Column column, index length, const double* s, index lanes, double* out) const {
    Passes::add_products(&column, 1, s, length, lanes, length, 1.0, out, lanes);
  }

  // out (lanes) += (x^2)' s
  void add_square_products(Column column, index length, const double* s, index lanes, double* out) {
    for (index i = 0; i < length; ++i) square_[i] = static_cast<double>(column[i]) * static_cast<double>(column[i]);
    const double* row = square_;
    Passes::add_products(&row, 1, s, length, lanes, length, 1.0, out, lanes);
  }

  // Calls body(i, x) for the entries that may be other than zero.
  template <class Body>
  static SPARSESVM_INLINE void visit(Column column, index length, const Body& body) {
    for (index i = 0; i < length; ++i) body(i, static_cast<double>(column[i]));
  }

  // The same for first <= i < last.
  template <class Body>
  static SPARSESVM_INLINE void visit_part(Column column, index first, index last, const Body& body) {
    for (index i = first; i < last; ++i) body(i, static_cast<double>(column[i]));
  }

  // Entries of `count` columns.
  static double entries(const Column*, index count, index length) { return static_cast<double>(count) * static_cast<double>(length); }

 private:
  const Task<T>* task_ = nullptr;
  const T* first_ = nullptr;
  index stride_ = 0;
  T *opened_, *selected_;
  const T** row_;
  double *coefficients_, *square_;
};

SPARSESVM_END
