// One sparse regression in double precision, its features stored column by column, and the pieces that the solver and the
// derivative share: residual, optimality system on the features in use.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/regression/problem.h"
#include "core/team.h"

SPARSESVM_BEGIN

template <typename T>
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

  SPARSESVM_HD void take(Arena& arena, const RegressionBatch<T>& batch) {
    n = batch.n_samples;
    m = batch.n_features;
    q = batch.n_outputs;
    stride = (n + 7) / 8 * 8;
    inverse_n = 1.0 / static_cast<double>(n);
    columns = arena.template take<double>(m * stride);
    column = arena.template take<const double*>(m);
    squared_norm = arena.template take<double>(m);
    targets = arena.template take<double>(q * stride);
    residual = arena.template take<double>(q * stride);
    weights = arena.template take<double>(m * q);
  }

  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE void bind(Team team, const RegressionBatch<T>& batch, index number) {
    team.sync();  // the last task is done with
    if (team.rank() == 0) {
      lambda1 = batch.lambda1[number];
      lambda2 = batch.lambda2[number];
    }
    const T* features = batch.features + number * batch.task_stride;
    for (index j = team.rank(); j < m; j += team.size()) {
      column[j] = columns + j * stride;
      for (index i = n; i < stride; ++i) columns[j * stride + i] = 0;
      listen(team, 100);
    }
    for (index top = 0; top < n; top += 8) {  // eight rows at a time: whole cache lines are written
      const index bottom = top + 8 < n ? top + 8 : n;
      for (index j = team.rank(); j < m; j += team.size()) {
        for (index i = top; i < bottom; ++i) columns[j * stride + i] = static_cast<double>(features[i * batch.row_stride + j]);
      }
      listen(team, 100 * m);  // most of it is memory that was never touched before
    }
    const T* given = batch.targets + number * n * q;
    for (index o = 0; o < q; ++o) {
      for (index i = team.rank(); i < stride; i += team.size()) {
        targets[o * stride + i] = i < n ? static_cast<double>(given[i * q + o]) : 0.0;
      }
    }
    team.sync();
    team.squares(column, m, stride, inverse_n, squared_norm);
  }

  // Of the listed features; all others have weight zero.
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE void compute_residual(Team team, const index* list, index count) {
    for (index o = 0; o < q; ++o) {  // every thread keeps to its samples: no barrier before the end
      for (index i = team.rank(); i < stride; i += team.size()) residual[o * stride + i] = targets[o * stride + i];
    }
    for (index a = 0; a < count; ++a) {
      for (index o = 0; o < q; ++o) add_column(team, residual + o * stride, list[a], -weights[list[a] * q + o]);
      listen(team, q * stride);
    }
    team.sync();
  }

  // Every thread its own samples; no barrier.
  template <class Team>
  SPARSESVM_HD void add_column(Team team, double* target, index j, double scale) const {
    const double* f = column[j];
    for (index i = team.rank(); i < stride; i += team.size()) target[i] += scale * f[i];
  }

  SPARSESVM_HD bool is_active(index j) const {
    for (index o = 0; o < q; ++o) {
      if (weights[j * q + o] != 0) return true;
    }
    return false;
  }

  SPARSESVM_HD double norm(index j) const {
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
struct ActiveSystem {
  index limit;             // of variables
  double* matrix;          // (limit + 1, limit + 1)
  double* scale;           // (limit)
  double* gram;            // (limit) a row of G_AA
  const double** columns;  // (limit) of the features in use

  SPARSESVM_HD void take(Arena& arena, index variables) {
    limit = variables;
    matrix = arena.take<double>((limit + 1) * (limit + 1));
    scale = arena.take<double>(limit);
    gram = arena.take<double>(limit);
    columns = arena.take<const double*>(limit);
  }

  // The last variable that was left out, or -1.
  template <typename T, class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE index factor(Team team, const RegressionTask<T>& task, const index* list, index count) {
    const index q = task.q, size = count * q, width = size + Team::padding;
    for (index a = team.rank(); a < count; a += team.size()) columns[a] = task.column[list[a]];
    team.sync();
    for (index a = 0; a < count; ++a) {
      team.products(columns, a + 1, columns[a], 0, 1, task.stride, task.inverse_n, gram, 1);
      for (index o = 0; o < q; ++o) {
        double* row = matrix + (a * q + o) * width;
        for (index b = team.rank(); b <= a; b += team.size()) {
          for (index p = 0; p < q; ++p) row[b * q + p] = p == o ? gram[b] : 0;
          if (b == a) add_curvature(task, list[a], o, row + a * q);
        }
      }
      team.sync();
    }
    for (index i = team.rank(); i < size; i += team.size()) {
      const double diagonal = matrix[i * width + i];
      scale[i] = diagonal > 0 ? 1 / std::sqrt(diagonal) : 0;
    }
    team.sync();
    for (index i = 0; i < size; ++i) {
      double* row = matrix + i * width;
      for (index c = team.rank(); c < i; c += team.size()) {
        row[c] *= scale[i] * scale[c];
        matrix[c * width + i] = row[c];
      }
      if (team.rank() == 0) row[i] = 1;
    }
    team.sync();
    return team.factor(matrix, size, 1e-14 * static_cast<double>(size), scale);
  }

  // x := H^-1 x
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE void solve(Team team, double* x, index size) const {
    for (index i = team.rank(); i < size; i += team.size()) x[i] *= scale[i];
    team.sync();
    team.solve(matrix, size, x);
    for (index i = team.rank(); i < size; i += team.size()) x[i] *= scale[i];
    team.sync();
  }

  // What the penalties add to row `o` of feature j's own block.
  template <typename T>
  SPARSESVM_HD static void add_curvature(const RegressionTask<T>& task, index j, index o, double* row) {
    row[o] += task.lambda2;
    if (task.q == 1) return;  // where it is zero, also for weights whose inverse leaves the range of numbers
    const double* w = task.weights + j * task.q;
    const double norm = task.norm(j);
    for (index p = 0; p < task.q; ++p) row[p] += task.lambda1 / norm * ((p == o ? 1.0 : 0.0) - w[o] / norm * (w[p] / norm));
  }
};

SPARSESVM_END
