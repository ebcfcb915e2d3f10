// Dense Cholesky factor U'U of a symmetric positive semidefinite matrix by one block of threads, row-major in the upper triangle.
#pragma once

#include <cmath>

#include "cuda/passes.h"

SPARSESVM_BEGIN
namespace gpu {

constexpr int factor_rows = 16;  // rows that are finished together

// Overwrites the matrix; `ones` holds factor_rows times -1. A pivot not above `floor` belongs to a row that depends on those
// before: its row of U becomes zero, which the solves below read as "leave this unknown at zero".
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void factor_cholesky(Team block, double* matrix, int n, int stride, double floor, double* weight) {
  for (int e = block.rank(); e < factor_rows; e += block.size()) weight[e] = -1;
  for (int top = 0; top < n; top += factor_rows) {
    const int bottom = top + factor_rows < n ? top + factor_rows : n;
    block.sync();
    // The rows' mutual elimination: each thread owns columns; row `r` stays unscaled until all have been served.
    for (int r = top; r < bottom; ++r) {
      const double* row = matrix + static_cast<index>(r) * stride;
      const double pivot = row[r], inverse = pivot > floor ? 1 / pivot : 0.0;
      for (int column = r + 1 + block.rank(); column < n; column += block.size()) {
        const double value = row[column] * inverse;
        for (int below = r + 1; below < bottom && below <= column; ++below)
          matrix[static_cast<index>(below) * stride + column] -= row[below] * value;
      }
      block.sync();
    }
    for (int e = block.rank(); e < (bottom - top) * (n - top); e += block.size()) {
      const int r = top + e / (n - top), column = top + e % (n - top);
      if (column <= r) continue;
      const double pivot = matrix[static_cast<index>(r) * stride + r];
      matrix[static_cast<index>(r) * stride + column] *= pivot > floor ? 1 / sqrt(pivot) : 0.0;
    }
    block.sync();
    for (int r = top + block.rank(); r < bottom; r += block.size()) {
      const double pivot = matrix[static_cast<index>(r) * stride + r];
      matrix[static_cast<index>(r) * stride + r] = pivot > floor ? sqrt(pivot) : 0.0;
    }
    add_rank_update(block.rank(), block.size(), matrix + static_cast<index>(top) * stride + bottom, stride, weight, bottom - top,
                    n - bottom, matrix + static_cast<index>(bottom) * stride + bottom, stride);
  }
  block.sync();
}

// Solves U'U x = x in place; unknowns without a pivot come out as zero. By one block.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void solve_cholesky(Team block, const double* factor, int n, int stride, double* x) {
  for (int r = 0; r < n; ++r) {
    const double* row = factor + static_cast<index>(r) * stride;
    const double pivot = row[r], value = pivot > 0 ? x[r] / pivot : 0.0;
    block.sync();
    for (int c = r + 1 + block.rank(); c < n; c += block.size()) x[c] -= row[c] * value;
    if (block.rank() == 0) x[r] = value;
    block.sync();
  }
  if (block.warp() == 0) {
    for (int r = n - 1; r >= 0; --r) {
      const double* row = factor + static_cast<index>(r) * stride;
      double total = 0;
      for (int c = r + 1 + block.lane(); c < n; c += lanes) total += row[c] * x[c];
      total = block.warp_sum(total);
      if (block.lane() == 0) x[r] = row[r] > 0 ? (x[r] - total) / row[r] : 0.0;
      block.warp_sync();
    }
  }
  block.sync();
}

}  // namespace gpu
SPARSESVM_END
