// What the proximal method reads of a task's features, here as compressed sparse rows; see dense_features.h. A copy by columns serves
// the passes over all of them, so that nothing is ever made dense.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class SparseFeatures {
 public:
  struct Column {
    const std::int32_t* sample;  // increasing
    const T* value;
    index count;
  };
  static constexpr bool sparse = true;

  SparseFeatures(const Batch<T>& batch, Arena& arena) : position_(arena.take<index>(batch.n_features)) {
    const index n = batch.n_samples, m = batch.n_features, entries = batch.n_entries;
    start_ = arena.take<index>(m + 1);
    sample_ = arena.take<std::int32_t>(entries);
    value_ = arena.take<T>(entries);
    selected_start_ = arena.take<index>(m + 1);
    selected_sample_ = arena.take<std::int32_t>(entries);
    selected_value_ = arena.take<T>(entries);
    turned_ = arena.take<double>(n * batch.n_way);
    feature_ = arena.take<index>(m);
    for (index j = 0; position_ != nullptr && j < m; ++j) position_[j] = absent;
  }

  // Copies the present samples by columns.
  void bind(const Batch<T>& batch, index, const Task<T>& task) {
    batch_ = &batch;
    task_ = &task;
    for (index j = 0; j <= task.m; ++j) start_[j] = 0;
    for (index i = 0; i < task.n; ++i) {
      for (index e = first(i); e < last(i); ++e) ++start_[batch.column[e] + 1];
    }
    for (index j = 0; j < task.m; ++j) start_[j + 1] += start_[j];
    for (index i = 0; i < task.n; ++i) {
      for (index e = first(i); e < last(i); ++e) {
        const index to = start_[batch.column[e]]++;
        sample_[to] = static_cast<std::int32_t>(i);
        value_[to] = batch.features[e];
      }
    }
    for (index j = task.m; j > 0; --j) start_[j] = start_[j - 1];
    start_[0] = 0;
  }

  void measure(double* out) const {
    Passes::count_full_pass();
    for (index j = 0; j < task_->m; ++j) {
      double total = 0;
      visit(whole(j), task_->n, [&](index i, double x) { total += task_->weight[i] * x * x; });
      out[j] = total;
    }
  }

  void pull_all(const double* a, index q, double* out) {
    Passes::count_full_pass();
    const index m = task_->m;
    turn(a, q, task_->n);
    Passes::over_parts((m + part - 1) / part, start_[m] * q, [=](index number) {
      const index end = std::min((number + 1) * part, m);
      for (index j = number * part; j < end; ++j) add_turned(whole(j), q, out + j, m);
    });
  }

  void score_all(const double* w, double* out) const {
    const index m = task_->m, k = task_->k;
    for (index e = 0; e < task_->n * k; ++e) out[e] = 0;
    for (index j = 0; j < m; ++j) {
      bool any = false;
      for (index l = 0; l < k; ++l) any = any || w[l * m + j] != 0;
      if (!any) continue;
      visit(whole(j), task_->n, [&](index i, double x) {
        for (index l = 0; l < k; ++l) out[i * k + l] += x * w[l * m + j];
      });
    }
  }

  void score(index i, const double* w, double* out) const {
    for (index l = 0; l < task_->k; ++l) out[l] = 0;
    for (index e = batch_->row_start[i]; e < batch_->row_start[i + 1]; ++e) {
      const double x = static_cast<double>(batch_->features[e]);
      for (index l = 0; l < task_->k; ++l) out[l] += x * w[l * task_->m + batch_->column[e]];
    }
  }

  void open(const index* groups, index n_groups, Column* out) {
    const index g = task_->group_size;
    for (index j = 0; j < n_groups * g; ++j) {
      feature_[j] = groups[j / g] * g + j % g;
      out[j] = whole(feature_[j]);
    }
  }

  // Walks the rows of the samples, so that the columns come out in their order.
  void select(const Column*, index count, const index* samples, index length, Column* out) {
    selected_start_[0] = 0;
    for (index j = 0; j < count; ++j) {
      position_[feature_[j]] = j;
      selected_start_[j + 1] = selected_start_[j] + whole(feature_[j]).count;
      out[j] = {selected_sample_ + selected_start_[j], selected_value_ + selected_start_[j], 0};
    }
    for (index i = 0; i < length; ++i) {
      for (index e = first(samples[i]); e < last(samples[i]); ++e) {
        const index j = position_[batch_->column[e]];
        if (j == absent) continue;
        const index to = selected_start_[j] + out[j].count++;
        selected_sample_[to] = static_cast<std::int32_t>(i);
        selected_value_[to] = batch_->features[e];
      }
    }
    for (index j = 0; j < count; ++j) position_[feature_[j]] = absent;
  }

  void combine(const Column* column, index count, index length, const double* x, index q, double* out) {
    double* turned = turned_;
    for (index e = 0; e < length * q; ++e) turned[e] = 0;
    for (index j = 0; j < count; ++j) {
      const double* row = x + j * q;
      visit(column[j], length, [=](index i, double f) {
#pragma omp simd
        for (index c = 0; c < q; ++c) turned[i * q + c] += f * row[c];
      });
    }
    for (index i = 0; i < length; ++i) {
      for (index c = 0; c < q; ++c) out[c * length + i] = turned[i * q + c];
    }
  }

  void pull(const Column* column, index count, index length, const double* s, index q, double* out) {
    turn(s, q, length);
    Passes::over_parts((count + part - 1) / part, static_cast<index>(entries(column, count, length)) * q, [=](index number) {
      const index end = std::min((number + 1) * part, count);
      for (index j = number * part; j < end; ++j) add_turned(column[j], q, out + j * q, 1);
    });
  }

  static index at(index lane, index i, index lanes, index) { return i * lanes + lane; }

  void add_products(Column column, index length, const double* s, index lanes, double* out) const {
    visit(column, length, [=](index i, double x) {
#pragma omp simd
      for (index l = 0; l < lanes; ++l) out[l] += x * s[i * lanes + l];
    });
  }

  void add_square_products(Column column, index length, const double* s, index lanes, double* out) const {
    visit(column, length, [=](index i, double x) {
#pragma omp simd
      for (index l = 0; l < lanes; ++l) out[l] += x * x * s[i * lanes + l];
    });
  }

  template <class Body>
  static SPARSESVM_INLINE void visit(Column column, index, const Body& body) {
    for (index e = 0; e < column.count; ++e) body(column.sample[e], static_cast<double>(column.value[e]));
  }

  template <class Body>
  static SPARSESVM_INLINE void visit_part(Column column, index first, index last, const Body& body) {
    const std::int32_t* begin = std::lower_bound(column.sample, column.sample + column.count, first);
    for (index e = begin - column.sample; e < column.count && column.sample[e] < last; ++e) {
      body(column.sample[e], static_cast<double>(column.value[e]));
    }
  }

  static double entries(const Column* column, index count, index) {
    double total = 0;
    for (index j = 0; j < count; ++j) total += static_cast<double>(column[j].count);
    return total;
  }

 private:
  static constexpr index absent = -1, part = 64;  // columns at once

  index first(index i) const { return batch_->row_start[task_->sample[i]]; }
  index last(index i) const { return batch_->row_start[task_->sample[i] + 1]; }
  Column whole(index j) const { return {sample_ + start_[j], value_ + start_[j], start_[j + 1] - start_[j]}; }

  // turned_ (length, q) = s' for s (q, length): the classes of a sample side by side.
  void turn(const double* s, index q, index length) {
    for (index i = 0; i < length; ++i) {
      for (index c = 0; c < q; ++c) turned_[i * q + c] = s[c * length + i];
    }
  }

  // out (q, stride apart) = x' turned_
  void add_turned(Column column, index q, double* out, index stride) const {
    constexpr index width = 16;
    for (index c = 0; c < q; c += width) {
      double total[width] = {};
      const index count = std::min(width, q - c);
      const double* turned = turned_ + c;
      visit(column, 0, [&](index i, double x) {
        for (index b = 0; b < count; ++b) total[b] += x * turned[i * q + b];
      });
      for (index b = 0; b < count; ++b) out[(c + b) * stride] = total[b];
    }
  }

  const Batch<T>* batch_ = nullptr;
  const Task<T>* task_ = nullptr;
  index *start_, *selected_start_;
  std::int32_t *sample_, *selected_sample_;  // by columns: of the present samples, and of what was selected
  T *value_, *selected_value_;
  index *position_, *feature_;  // of a feature among the opened columns, and back
  double* turned_;
};

SPARSESVM_END
