// The solution of smallest norm of H x = b for a dense symmetric positive semidefinite H
// (core/linear_algebra/smallest_solution.h, by the same rules), by one block of threads.
#pragma once

#include <cmath>

#include "core/linear_algebra/smallest_solution.h"
#include "cuda/cholesky.h"
#include "cuda/workspace.h"

SPARSESVM_BEGIN
namespace gpu {

// Factors H scaled, leaving out the rows tied already and those with a pivot of at most `floor`. Lists both kinds; returns how
// many are left out.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE int select_rows(Team block, const SmallestArrays& s, int size, double floor, int* counts,
                                                double* weight) {
  constexpr double infinite = 1e300;
  const int stride = size + 1;
  for (int e = block.rank(); e < size * size; e += block.size()) {
    const int a = e / size, b = e % size;
    s.factor[static_cast<index>(a) * stride + b] = a == b && s.is_tied[a] ? -infinite : s.matrix[e];
  }
  for (int a = block.rank(); a <= size; a += block.size()) {
    s.factor[static_cast<index>(a) * stride + size] = s.factor[static_cast<index>(size) * stride + a] = 0;
  }
  factor_cholesky(block, s.factor, size, stride, floor, weight);
  for (int a = block.rank(); a < size; a += block.size()) s.is_tied[a] = !(s.factor[static_cast<index>(a) * stride + a] > 0);
  block.sync();
  list_flagged(block, s.is_tied, 0, size, s.free, counts);
  return list_flagged(block, s.is_tied, 1, size, s.tied, counts);
}

// The direction of each tied row at the free rows, scaled, a warp for each; `is_flat` says whether its curvature is none.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void find_directions(Team block, const SmallestArrays& s, int size, int n_tied, double flat) {
  const int stride = size + 1, n_free = size - n_tied;
  for (int d = block.warp(); d < n_tied; d += block.warps()) {
    const int a = s.tied[d];
    const double* row = s.matrix + static_cast<index>(a) * size;
    double* z = s.slope + static_cast<index>(d) * n_free;  // a lane reads and writes its own entries only
    for (int c = block.lane(); c < n_free; c += lanes) z[c] = -row[s.free[c]];
    for (int r = 0; r < n_free; ++r) {
      const double* u = s.factor + static_cast<index>(s.free[r]) * stride;
      const bool own = r % lanes == block.lane();
      const double solved = block.warp_broadcast(own ? z[r] / u[s.free[r]] : 0.0, r % lanes);
      if (own) z[r] = solved;
      for (int c = block.lane(); c < n_free; c += lanes) z[c] -= c > r ? u[s.free[c]] * solved : 0.0;
    }
    for (int r = n_free - 1; r >= 0; --r) {
      const double* u = s.factor + static_cast<index>(s.free[r]) * stride;
      double total = 0;
      for (int c = block.lane(); c < n_free; c += lanes) total += c > r ? u[s.free[c]] * z[c] : 0.0;
      total = block.warp_sum(total);
      if (r % lanes == block.lane()) z[r] = (z[r] - total) / u[s.free[r]];
    }
    double curvature = 0, squared = 0;
    for (int c = block.lane(); c < n_free; c += lanes) {
      curvature += row[s.free[c]] * z[c];
      squared += z[c] * z[c];
    }
    curvature = block.warp_sum(curvature);
    squared = block.warp_sum(squared);
    if (block.lane() == 0) s.is_flat[d] = row[a] + curvature <= flat * (1 + squared);
  }
  block.sync();
}

// Of H = `matrix` (size, size), which becomes H scaled to a unit diagonal. Returns the number of flat directions.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE int factor_smallest(Team block, const SmallestArrays& s, int size, double flat, int* counts,
                                                    double* weight) {
  for (int a = block.rank(); a < size; a += block.size()) {
    const double value = s.matrix[static_cast<index>(a) * size + a];
    s.scale[a] = value > 0 ? 1 / sqrt(value) : 1.0;
    s.is_tied[a] = 0;
  }
  block.sync();
  for (int e = block.rank(); e < size * size; e += block.size()) {
    const int a = e / size, b = e % size;
    s.matrix[e] = a == b ? (s.matrix[e] > 0 ? 1.0 : 0.0) : s.matrix[e] * s.scale[a] * s.scale[b];
  }
  block.sync();
  int n_tied = select_rows(block, s, size, loose_pivot(flat, size), counts, weight);
  if (n_tied == 0) return 0;
  find_directions(block, s, size, n_tied, flat);
  double curved = 0;
  for (int d = block.rank(); d < n_tied; d += block.size()) {
    if (!s.is_flat[d]) curved = 1;
    s.is_tied[s.tied[d]] = s.is_flat[d];
  }
  if (block.max(curved) > 0) {
    n_tied = select_rows(block, s, size, flat, counts, weight);
    find_directions(block, s, size, n_tied, flat);
  }
  const int n_free = size - n_tied, stride = n_tied + 1;
  for (int e = block.rank(); e < n_tied * n_free; e += block.size()) {
    s.slope[e] *= s.scale[s.free[e % n_free]] / s.scale[s.tied[e / n_free]];
  }
  block.sync();
  double* gram = s.slope + static_cast<index>(n_tied) * n_free;  // of the directions, and one row and column more
  for (int e = block.warp(); e < stride * stride; e += block.warps()) {
    const int d = e / stride, other = e % stride;
    double total = 0;
    for (int c = block.lane(); d < n_tied && other < n_tied && c < n_free; c += lanes) {
      total += s.slope[static_cast<index>(d) * n_free + c] * s.slope[static_cast<index>(other) * n_free + c];
    }
    total = block.warp_sum(total);
    if (block.lane() == 0) gram[e] = d < n_tied && other < n_tied ? total + (d == other) : 0.0;
  }
  block.sync();
  factor_cholesky(block, gram, n_tied, stride, 0.0, weight);
  return n_tied;
}

// x less its part along the flat directions.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void project_off_flat(Team block, const SmallestArrays& s, int size, int n_tied, double* x) {
  if (n_tied == 0) return;
  const int n_free = size - n_tied;
  block.sync();
  for (int d = block.warp(); d < n_tied; d += block.warps()) {
    double along = 0;
    for (int c = block.lane(); c < n_free; c += lanes) along += s.slope[static_cast<index>(d) * n_free + c] * x[s.free[c]];
    along = block.warp_sum(along);
    if (block.lane() == 0) s.along[d] = along + x[s.tied[d]];
  }
  block.sync();
  double* gram = s.slope + static_cast<index>(n_tied) * n_free;
  solve_lower(block, gram, n_tied, n_tied + 1, s.along);
  solve_upper(block, gram, n_tied, n_tied + 1, s.along);
  for (int c = block.rank(); c < n_free; c += block.size()) {
    double total = 0;
    for (int d = 0; d < n_tied; ++d) total += s.along[d] * s.slope[static_cast<index>(d) * n_free + c];
    x[s.free[c]] -= total;
  }
  for (int d = block.rank(); d < n_tied; d += block.size()) x[s.tied[d]] -= s.along[d];
  block.sync();
}

// x in place of the right-hand side, after `factor_smallest`.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void solve_smallest(Team block, const SmallestArrays& s, int size, int n_tied, double* x) {
  project_off_flat(block, s, size, n_tied, x);
  block.sync();
  for (int a = block.rank(); a < size; a += block.size()) {
    s.solution[a] = 0;
    s.step[a] = s.right[a] = s.scale[a] * x[a];
  }
  block.sync();
  for (int refinement = 0; refinement < 2; ++refinement) {
    solve_lower(block, s.factor, size, size + 1, s.step);
    solve_upper(block, s.factor, size, size + 1, s.step);  // zero at the tied rows
    for (int a = block.rank(); a < size; a += block.size()) s.solution[a] += s.step[a];
    block.sync();
    for (int a = block.warp(); refinement == 0 && a < size; a += block.warps()) {
      double total = 0;
      for (int b = block.lane(); b < size; b += lanes) total += s.matrix[static_cast<index>(a) * size + b] * s.solution[b];
      total = block.warp_sum(total);
      if (block.lane() == 0) s.step[a] = s.right[a] - total;
    }
    block.sync();
  }
  for (int a = block.rank(); a < size; a += block.size()) x[a] = s.scale[a] * s.solution[a];
  project_off_flat(block, s, size, n_tied, x);
  block.sync();
}

}  // namespace gpu
SPARSESVM_END
