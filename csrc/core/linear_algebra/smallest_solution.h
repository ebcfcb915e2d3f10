// Solves H x = b for a dense symmetric positive semidefinite H; where H is singular, for the x of smallest norm.
//
// H is scaled to a unit diagonal and factored, leaving out each row that depends on those before it. Such a row gives a direction z,
// one there and zero at the other rows left out, whose curvature z'Hz is the least there is. Where that is no more than rounding makes
// (`flat` times z'z), the direction is flat, and right-hand sides and solutions are projected off it; otherwise the row comes back.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/linear_algebra/cholesky.h"
#include "core/macros.h"

SPARSESVM_BEGIN

// The largest pivot, of a matrix of unit diagonal, that makes a row a candidate.
SPARSESVM_HD inline double loose_pivot(double flat, index size) {
  const double loose = flat * static_cast<double>(size);
  return loose > 1e-8 ? loose : 1e-8;
}

template <class Passes>
class SmallestSolution {
 public:
  SmallestSolution(index largest, Arena& arena) {
    matrix = arena.take<double>(largest * largest);
    slopes_ = arena.take<double>(largest * largest);
    scale_ = arena.take<double>(largest);
    diagonal_ = arena.take<double>(largest);
    step_ = arena.take<double>(largest);
    residual_ = arena.take<double>(largest);
    solution_ = arena.take<double>(largest);
    free_ = arena.take<index>(largest);
    tied_ = arena.take<index>(largest);
  }

  double* matrix;  // (size, size) before `factor` its upper triangle and diagonal are H

  void factor(index size, double flat) {
    size_ = size;
    n_tied_ = 0;
    scale();
    select(loose_pivot(flat, size));
    if (n_tied_ == 0) return;
    if (!keep_flat(flat)) select(flat);
    gram_ = slopes_ + n_tied_ * n_free_;
    for (index d = 0; d < n_tied_; ++d) {
      double* slope = slopes_ + d * n_free_;
      find_direction(tied_[d], slope);
      for (index c = 0; c < n_free_; ++c) slope[c] *= scale_[free_[c]] / scale_[tied_[d]];
      for (index e = 0; e < n_tied_; ++e) gram_[d * n_tied_ + e] = d == e;
    }
    Passes::add_rank_update(slopes_, n_tied_, n_free_, n_free_, 1.0, gram_, n_tied_);
    factor_cholesky<Passes>(gram_, n_tied_, n_tied_, 0.0);
  }

  void solve(const double* right, double* x) {
    for (index a = 0; a < size_; ++a) x[a] = right[a];
    project(x);
    for (index c = 0; c < n_free_; ++c) {
      solution_[c] = 0;
      step_[c] = residual_[c] = scale_[free_[c]] * x[free_[c]];
    }
    for (int refinement = 0; refinement < 2; ++refinement) {
      solve_cholesky<Passes>(matrix, n_free_, size_, step_);
      for (index c = 0; c < n_free_; ++c) solution_[c] += step_[c];
      if (refinement == 0) find_residual();
    }
    for (index a = 0; a < size_; ++a) x[a] = 0;
    for (index c = 0; c < n_free_; ++c) x[free_[c]] = scale_[free_[c]] * solution_[c];
    project(x);
  }

  // x less its part along the flat directions, which are the rows of [slopes, identity].
  void project(double* x) {
    if (n_tied_ == 0) return;
    for (index d = 0; d < n_tied_; ++d) {
      const double* slope = slopes_ + d * n_free_;
      double along = x[tied_[d]];
      for (index c = 0; c < n_free_; ++c) along += slope[c] * x[free_[c]];
      residual_[d] = along;
    }
    solve_cholesky<Passes>(gram_, n_tied_, n_tied_, residual_);
    for (index d = 0; d < n_tied_; ++d) {
      const double *slope = slopes_ + d * n_free_, along = residual_[d];
      x[tied_[d]] -= along;
      for (index c = 0; c < n_free_; ++c) x[free_[c]] -= along * slope[c];
    }
  }

 private:
  void scale() {
    const index r = size_;
    for (index a = 0; a < r; ++a) {
      const double value = matrix[a * r + a];
      scale_[a] = value > 0 ? 1 / std::sqrt(value) : 1.0;
      diagonal_[a] = value > 0 ? 1.0 : 0.0;
    }
    for (index a = 0; a < r; ++a) {
      for (index b = a + 1; b < r; ++b) matrix[a * r + b] *= scale_[a] * scale_[b];
    }
  }

  // Lists the free rows in order and factors them: all but the tied ones, to which those with a pivot of at most `floor` are added.
  void select(double floor) {
    const index known = n_tied_;
    n_free_ = 0;
    for (index next = 0; next < size_;) {
      index count = 0;
      for (; next + count < size_ && count < 4; ++count) fill_row(n_free_ + count, next + count, known);
      const index after = factor_cholesky<Passes>(matrix, n_free_ + count, size_, floor, n_free_);
      const index done = after - n_free_;
      n_free_ = after;
      if (done < count && !is_known(next + done, known)) tied_[n_tied_++] = next + done;
      next += done < count ? done + 1 : count;
    }
  }

  bool is_known(index a, index known) const {
    for (index d = 0; d < known; ++d) {
      if (tied_[d] == a) return true;
    }
    return false;
  }

  // Row c of the lower triangle: row a of H at the free columns. That of a tied row has no pivot.
  void fill_row(index c, index a, index known) {
    free_[c] = a;
    for (index b = 0; b < c; ++b) matrix[c * size_ + b] = entry(free_[b], a);
    matrix[c * size_ + c] = is_known(a, known) ? -infinite : diagonal_[a];
  }

  // Keeps only the tied rows whose direction is flat; whether all are.
  bool keep_flat(double flat) {
    index kept = 0;
    const index before = n_tied_;
    for (index d = 0; d < before; ++d) {
      const double curvature = find_direction(tied_[d], step_);
      double squared = 1;
      for (index c = 0; c < n_free_; ++c) squared += step_[c] * step_[c];
      if (curvature <= flat * squared) tied_[kept++] = tied_[d];
    }
    n_tied_ = kept;
    return kept == before;
  }

  // The direction of tied row `a` at the free rows, scaled; returns its curvature.
  double find_direction(index a, double* z) {
    for (index c = 0; c < n_free_; ++c) z[c] = -entry(free_[c], a);
    solve_cholesky<Passes>(matrix, n_free_, size_, z);
    double curvature = diagonal_[a];
    for (index c = 0; c < n_free_; ++c) curvature += entry(free_[c], a) * z[c];
    return curvature;
  }

  double entry(index a, index b) const { return matrix[a < b ? a * size_ + b : b * size_ + a]; }

  // step = residual - H solution
  void find_residual() {
    for (index c = 0; c < n_free_; ++c) step_[c] = residual_[c] - diagonal_[free_[c]] * solution_[c];
    for (index c = 0; c < n_free_; ++c) {
      const double *row = matrix + free_[c] * size_, x = solution_[c];
      double total = 0;
      for (index b = c + 1; b < n_free_; ++b) {
        const double value = row[free_[b]];
        total += value * solution_[b];
        step_[b] -= value * x;
      }
      step_[c] -= total;
    }
  }

  static constexpr double infinite = 1e300;

  index size_ = 0, n_free_ = 0, n_tied_ = 0;
  index *free_, *tied_;
  double* slopes_;    // (n_tied, n_free) the flat directions at the free rows
  double* gram_ = nullptr;  // (n_tied, n_tied) factor of their products
  double* scale_;     // (size)
  double* diagonal_;  // (size) of H scaled: one, or zero
  double *step_, *residual_, *solution_;
};

SPARSESVM_END
