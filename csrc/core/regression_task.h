// One sparse regression in double precision, its features stored column by column, and the pieces that the solver and the
// derivative share: residual, optimality system on the features in use.
#pragma once

#include <cmath>

#include "core/arena.h"
#include "core/cholesky.h"
#include "core/macros.h"
#include "core/regression.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
struct RegressionTask {
  index n, m, q;
  index stride;  // of a column: n rounded up, the rest zeros, so that no pass has a tail
  double inverse_n, lambda1, lambda2;
  double* columns;        // (m, stride)
  const double** column;  // (m) where they start
  double* squared_norm;   // (m) ||f_j||^2 / n
  double* targets;        // (q, stride)
  double* residual;       // (q, stride) Y - F W'
  double* weights;        // (m, q)

  static RegressionTask take(Arena& arena, const RegressionBatch<T>& batch) {
    RegressionTask task{};
    task.n = batch.n_samples;
    task.m = batch.n_features;
    task.q = batch.n_outputs;
    task.stride = (task.n + 7) / 8 * 8;
    task.inverse_n = 1.0 / static_cast<double>(task.n);
    task.columns = arena.template take<double>(task.m * task.stride);
    task.column = arena.template take<const double*>(task.m);
    task.squared_norm = arena.template take<double>(task.m);
    task.targets = arena.template take<double>(task.q * task.stride);
    task.residual = arena.template take<double>(task.q * task.stride);
    task.weights = arena.template take<double>(task.m * task.q);
    return task;
  }

  void bind(const RegressionBatch<T>& batch, index number) {
    lambda1 = batch.lambda1[number];
    lambda2 = batch.lambda2[number];
    const T* features = batch.features + number * batch.task_stride;
    for (index j = 0; j < m; ++j) {
      column[j] = columns + j * stride;
      for (index i = n; i < stride; ++i) columns[j * stride + i] = 0;
    }
    for (index top = 0; top < n; top += 8) {  // eight rows at a time: whole cache lines are written
      const index bottom = top + 8 < n ? top + 8 : n;
      for (index j = 0; j < m; ++j) {
        for (index i = top; i < bottom; ++i) columns[j * stride + i] = static_cast<double>(features[i * batch.row_stride + j]);
      }
    }
    for (index j = 0; j < m; ++j) {
      squared_norm[j] = 0;
      Passes::add_products(column + j, 1, column[j], 0, 1, stride, inverse_n, squared_norm + j, 1);
    }
    const T* given = batch.targets + number * n * q;
    for (index o = 0; o < q; ++o) {
      for (index i = 0; i < n; ++i) targets[o * stride + i] = static_cast<double>(given[i * q + o]);
      for (index i = n; i < stride; ++i) targets[o * stride + i] = 0;
    }
  }

  // Of the listed features; all others have weight zero.
  void compute_residual(const index* list, index count) {
    for (index i = 0; i < q * stride; ++i) residual[i] = targets[i];
    for (index a = 0; a < count; ++a) {
      for (index o = 0; o < q; ++o) add_column(residual + o * stride, list[a], -weights[list[a] * q + o]);
    }
  }

  void add_column(double* target, index j, double scale) const {
    const double* f = column[j];
    for (index i = 0; i < stride; ++i) target[i] += scale * f[i];
  }

  bool is_active(index j) const {
    for (index o = 0; o < q; ++o) {
      if (weights[j * q + o] != 0) return true;
    }
    return false;
  }

  double norm(index j) const {
    double largest = 0;
    for (index o = 0; o < q; ++o) largest = std::fmax(largest, std::fabs(weights[j * q + o]));
    if (q == 1 || largest == 0) return largest;
    double total = 0;  // of shares of the largest: the squares of small weights leave the range of numbers
    for (index o = 0; o < q; ++o) total += weights[j * q + o] / largest * (weights[j * q + o] / largest);
    return largest * std::sqrt(total);
  }
};

// The derivative of the optimality conditions of the features in use with respect to their weights,
//   H = (G_AA + lambda2 I) (x) I_q + diag_j lambda1 / ||w_j|| (I - u_j u_j'),   G = F'F / n,  u_j = w_j / ||w_j||,
// scaled to a unit diagonal and factored. A variable that depends on those before it stays where it is.
template <class Passes>
class ActiveSystem {
 public:
  ActiveSystem(Arena& arena, index limit) : limit_(limit) {
    matrix_ = arena.template take<double>(limit * limit);
    scale_ = arena.template take<double>(limit);
    list_columns_ = arena.template take<const double*>(limit);
  }

  index limit() const { return limit_; }

  template <typename T>
  void factor(const RegressionTask<Passes, T>& task, const index* list, index count) {
    const index q = task.q;
    size_ = count * q;
    for (index a = 0; a < count; ++a) list_columns_[a] = task.column[list[a]];
    for (index a = 0; a < count; ++a) {  // the Gram matrix, spread over the outputs below
      double* row = matrix_ + a * size_;
      for (index b = 0; b <= a; ++b) row[b] = 0;
      Passes::add_products(list_columns_, a + 1, list_columns_[a], 0, 1, task.stride, task.inverse_n, row, 1);
    }
    if (q > 1) spread(task, list, count);
    if (q == 1) {
      for (index a = 0; a < count; ++a) matrix_[a * size_ + a] += task.lambda2;
    }
    for (index i = 0; i < size_; ++i) {
      const double diagonal = matrix_[i * size_ + i];
      scale_[i] = diagonal > 0 ? 1 / std::sqrt(diagonal) : 0;
    }
    for (index i = 0; i < size_; ++i) {
      double* row = matrix_ + i * size_;
      for (index c = 0; c < i; ++c) {
        row[c] *= scale_[i] * scale_[c];
        matrix_[c * size_ + i] = row[c];  // the factorisation leaves the upper triangle alone: a copy to start again from
      }
      row[i] = 1;
    }
    dropped_ = -1;
    const double floor = 1e-14 * static_cast<double>(size_);
    for (index stop = factor_cholesky<Passes>(matrix_, size_, size_, floor); stop < size_;
         stop = factor_cholesky<Passes>(matrix_, size_, size_, floor, stop + 1)) {
      drop(stop);
    }
  }

  // The last variable that was taken out, or -1.
  index dropped() const { return dropped_; }

  // x := H^-1 x
  void solve(double* x) const {
    for (index i = 0; i < size_; ++i) x[i] *= scale_[i];
    solve_cholesky<Passes>(matrix_, size_, size_, x);
    for (index i = 0; i < size_; ++i) x[i] *= scale_[i];
  }

 private:
  // From the count x count Gram matrix to the full one, from the last row up, so that no entry is overwritten before it is read.
  template <typename T>
  void spread(const RegressionTask<Passes, T>& task, const index* list, index count) {
    const index q = task.q;
    for (index a = count - 1; a >= 0; --a) {
      const double* w = task.weights + list[a] * q;
      const double norm = task.norm(list[a]);
      for (index o = q - 1; o >= 0; --o) {
        double* row = matrix_ + (a * q + o) * size_;
        const double* gram = matrix_ + a * size_;
        for (index b = a; b >= 0; --b) {
          const double product = gram[b];
          for (index p = q - 1; p >= 0; --p) row[b * q + p] = p == o ? product : 0;
        }
        for (index p = 0; p < q; ++p) {
          const double identity = p == o ? 1.0 : 0.0;
          row[a * q + p] += identity * task.lambda2 + task.lambda1 / norm * (identity - w[o] / norm * (w[p] / norm));
        }
      }
    }
  }

  // Takes a variable out, and restores what the interrupted factorisation overwrote.
  void drop(index gone) {
    dropped_ = gone;
    for (index i = gone + 1; i < size_; ++i) matrix_[gone * size_ + i] = 0;
    for (index i = gone; i < size_ && i < gone + 4; ++i) {
      for (index c = 0; c < i; ++c) matrix_[i * size_ + c] = i == gone || c == gone ? 0 : matrix_[c * size_ + i];
      matrix_[i * size_ + i] = 1;
    }
    for (index i = gone + 4; i < size_; ++i) matrix_[i * size_ + gone] = 0;
    for (index c = 0; c < gone; ++c) matrix_[c * size_ + gone] = 0;
    scale_[gone] = 0;
  }

  index limit_, size_ = 0, dropped_ = -1;
  double* matrix_;
  double* scale_;
  const double** list_columns_;
};

SPARSESVM_END
