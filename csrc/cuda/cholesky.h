// Dense Cholesky factor U'U of a symmetric positive semidefinite matrix by one block of threads, row-major in the upper triangle.
#pragma once

#include <cmath>

#include "cuda/passes.h"

SPARSESVM_BEGIN
namespace gpu {

constexpr int factor_rows = 16;  // rows that are finished together

// Overwrites the matrix of n rows; a further column, at position n, becomes U'^-1 times what it held, its mirror image being the
// row after the last. `weight` is scratch for factor_rows numbers. A pivot not above `floor` belongs to a row that depends on those
// before: its row of U becomes zero, which the solve below reads as "leave this unknown at zero".
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void factor_cholesky(Team block, double* matrix, int n, int stride, double floor, double* weight) {
  const int width = n + 1;
  for (int e = block.rank(); e < factor_rows; e += block.size()) weight[e] = -1;
  for (int top = 0; top < n; top += factor_rows) {
    const int bottom = top + factor_rows < n ? top + factor_rows : n;
    block.sync();
    // The rows' mutual elimination: each thread owns columns; row `r` stays unscaled until all have been served.
    for (int r = top; r < bottom; ++r) {
      const double* row = matrix + static_cast<index>(r) * stride;
      const double pivot = row[r], inverse = pivot > floor ? 1 / pivot : 0.0;
      for (int column = r + 1 + block.rank(); column < width; column += block.size()) {
        const double value = row[column] * inverse;
        for (int below = r + 1; below < bottom && below <= column; ++below)
          matrix[static_cast<index>(below) * stride + column] -= row[below] * value;
      }
      block.sync();
    }
    for (int e = block.rank(); e < (bottom - top) * (width - top); e += block.size()) {
      const int r = top + e / (width - top), column = top + e % (width - top);
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
                    width - bottom, matrix + static_cast<index>(bottom) * stride + bottom, stride);
  }
  block.sync();
}

// Puts `right` beside a matrix of n rows and stride n + 1, as the further column and row of the factorisation.
template <class Team>
SPARSESVM_HD void append_column(Team block, double* matrix, int n, const double* right) {
  const int stride = n + 1;
  for (int r = block.rank(); r < n; r += block.size()) {
    matrix[static_cast<index>(r) * stride + n] = matrix[static_cast<index>(n) * stride + r] = right[r];
  }
  if (block.rank() == 0) matrix[static_cast<index>(n) * stride + n] = 0;
}

// The further column becomes U'^-1 x, for an x that came too late for the factorisation; x is lost. By one block.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void solve_lower(Team block, double* factor, int n, int stride, double* x) {
  for (int top = 0; top < n; top += factor_rows) {
    const int bottom = top + factor_rows < n ? top + factor_rows : n;
    if (block.warp() == 0) {
      const int own = top + block.lane();
      double value = own < bottom ? x[own] : 0.0;
      for (int r = top; r < bottom; ++r) {
        const double* row = factor + static_cast<index>(r) * stride;
        const double solved = block.warp_broadcast(own == r && row[r] > 0 ? value / row[r] : 0.0, r - top);
        value = own == r ? solved : value - (own > r && own < bottom ? row[own] * solved : 0.0);
      }
      if (own < bottom) factor[static_cast<index>(own) * stride + n] = value;
    }
    block.sync();
    for (int c = bottom + block.rank(); c < n; c += block.size()) {
      double total = 0;
      for (int r = top; r < bottom; ++r)
        total += factor[static_cast<index>(r) * stride + c] * factor[static_cast<index>(r) * stride + n];
      x[c] -= total;
    }
    block.sync();
  }
}

// x = U^-1 times the further column; unknowns without a pivot come out as zero. By one block: all warps subtract what is known from
// a tile of rows, one warp solves the tile.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void solve_upper(Team block, const double* factor, int n, int stride, double* x) {
  for (int bottom = n; bottom > 0;) {
    const int top = bottom > factor_rows ? bottom - factor_rows : 0;
    for (int r = top + block.warp(); r < bottom; r += block.warps()) {
      const double* row = factor + static_cast<index>(r) * stride;
      double total = 0;
      for (int c = bottom + block.lane(); c < n; c += lanes) total += row[c] * x[c];
      total = block.warp_sum(total);
      if (block.lane() == 0) x[r] = row[n] - total;
    }
    block.sync();
    if (block.warp() == 0) {
      const int own = top + block.lane();
      const double* row = factor + static_cast<index>(own < bottom ? own : top) * stride;
      double value = own < bottom ? x[own] : 0.0;
      for (int r = bottom - 1; r >= top; --r) {
        const double pivot = row[own < bottom ? own : top];
        const double mine = own == r && pivot > 0 ? value / pivot : 0.0;
        const double solved = block.warp_broadcast(mine, r - top);
        value = own == r ? solved : value - (own < r ? row[r] * solved : 0.0);
      }
      if (own < bottom) x[own] = value;
    }
    block.sync();
    bottom = top;
  }
}

}  // namespace gpu
SPARSESVM_END
