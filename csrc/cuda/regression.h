// Sparse regressions on a device: a block of threads with the interface of core/regression/team.h, its workspace, and the bodies
// of the kernels.
#pragma once

#include "core/regression/diff.h"
#include "core/regression/solver.h"
#include "cuda/bodies.h"
#include "cuda/cholesky.h"

SPARSESVM_BEGIN
namespace gpu {

// <x, y> by one warp, for each of its lanes.
template <class Block>
SPARSESVM_HD double warp_dot(Block block, const double* x, const double* y, index length) {
  double total = 0;
  for (index i = block.lane(); i < length; i += lanes) total += x[i] * y[i];
  return block.warp_sum(total);
}

// Every pair (a, b) by one warp.
template <class Block>
SPARSESVM_HD SPARSESVM_NOINLINE void multiply_pairs(Block block, const double* const* left, int n_left, const double* right,
                                                    index right_stride, int n_right, index length, double scale, double* out,
                                                    index out_stride) {
  for (int pair = block.warp(); pair < n_left * n_right; pair += block.warps()) {
    const int a = pair / n_right, b = pair % n_right;
    const double product = warp_dot(block, left[a], right + b * right_stride, length);
    if (block.lane() == 0) out[a * out_stride + b] = scale * product;
  }
  block.sync();
}

struct RegressionScratch {
  int* counts;     // (max_threads)
  double* weight;  // (factor_rows)
};

template <class Block>
class RegressionTeam {
 public:
  static constexpr index padding = 1;

  SPARSESVM_HD RegressionTeam(Block block, const RegressionScratch& scratch) : block_(block), scratch_(scratch) {}

  SPARSESVM_HD index rank() const { return block_.rank(); }
  SPARSESVM_HD index size() const { return block_.size(); }
  SPARSESVM_HD void sync() const { block_.sync(); }
  SPARSESVM_HD double sum(double x) const { return block_.sum(x); }
  SPARSESVM_HD double max(double x) const { return block_.max(x); }

  SPARSESVM_HD void products(const double* const* left, index n_left, const double* right, index right_stride, index n_right,
                             index length, double scale, double* out, index out_stride) const {
    multiply_pairs(block_, left, static_cast<int>(n_left), right, right_stride, static_cast<int>(n_right), length, scale, out,
                   out_stride);
  }

  SPARSESVM_HD void squares(const double* const* left, index n_left, index length, double scale, double* out) const {
    for (index a = block_.warp(); a < n_left; a += block_.warps()) {
      const double square = warp_dot(block_, left[a], left[a], length);
      if (block_.lane() == 0) out[a] = scale * square;
    }
    block_.sync();
  }

  template <class Wanted>
  SPARSESVM_HD index list(index n, const Wanted& wanted, index* out) const {
    return list_where(block_, static_cast<int>(n), wanted, out, scratch_.counts);
  }

  SPARSESVM_HD index factor(double* matrix, index size, double floor, double* scale) const {
    const int n = static_cast<int>(size), stride = n + 1;
    for (int r = block_.rank(); r <= n; r += block_.size()) {  // the further column
      matrix[static_cast<index>(r) * stride + n] = matrix[static_cast<index>(n) * stride + r] = 0;
    }
    block_.sync();
    factor_cholesky(block_, matrix, n, stride, floor, scratch_.weight);
    int left_out = -1;
    for (int r = block_.rank(); r < n; r += block_.size()) {
      if (matrix[static_cast<index>(r) * stride + r] > 0) continue;
      scale[r] = 0;
      left_out = r;
    }
    return static_cast<index>(block_.max(left_out));
  }

  // The factor's further column is overwritten.
  SPARSESVM_HD void solve(double* factor, index size, double* x) const {
    const int n = static_cast<int>(size), stride = n + 1;
    solve_lower(block_, factor, n, stride, x);
    solve_upper(block_, factor, n, stride, x);
  }

 private:
  Block block_;
  const RegressionScratch& scratch_;
};

// `Core` is RegressionSolver or RegressionDiff; a kernel keeps one per block in shared memory.
template <class Core>
struct RegressionWorkspace {
  Core core;
  RegressionScratch scratch;

  template <class Batch>
  SPARSESVM_HD void take(Arena& arena, const Batch& batch) {
    core.take(arena, batch);
    scratch.counts = arena.take<int>(max_threads);
    scratch.weight = arena.take<double>(factor_rows);
  }
};

// A team is one block.
template <typename T, class Block>
SPARSESVM_HD void run(Block block, RegressionWorkspace<RegressionSolver<T>>& shared, const RegressionSolveArguments<T>& arguments,
                      const Assignment& assignment) {
  lay_out(block, shared, arguments.batch, assignment);
  for (index number = assignment.first; number < arguments.batch.n_tasks; number += assignment.step) {
    shared.core.solve(RegressionTeam<Block>(block, shared.scratch), arguments, number);
  }
}

template <typename T, class Block>
SPARSESVM_HD void run(Block block, RegressionWorkspace<RegressionDiff<T>>& shared, const RegressionVjpArguments<T>& arguments,
                      const Assignment& assignment) {
  lay_out(block, shared, arguments.batch, assignment);
  for (index number = assignment.first; number < arguments.batch.n_tasks; number += assignment.step) {
    shared.core.vjp(RegressionTeam<Block>(block, shared.scratch), arguments, number);
  }
}

}  // namespace gpu
SPARSESVM_END
