// Dense Cholesky factorisation, solves and row deletion, row-major lower triangle, blocked by four rows so that the work is row
// products.
#pragma once

#include <cmath>

#include "core/basics.h"
#include "core/macros.h"

SPARSESVM_BEGIN

// Factors a symmetric positive semidefinite matrix in place (lower triangle, row stride `stride`; the rest is left alone). Stops at
// the first pivot that is not above `floor` (a row that depends on those before it) and returns its position, or n. Rows before
// `start` are factored already; on return up to three rows after the position may be overwritten.
template <class Passes>
index factor_cholesky(double* matrix, index n, index stride, double floor, index start = 0) {
  for (index top = start; top < n; top += 4) {
    const index rows = n - top < 4 ? n - top : 4;
    const double* left[4];
    for (index a = 0; a < rows; ++a) left[a] = matrix + (top + a) * stride;
    for (index first = 0; first < top + rows; first += 4) {
      const index columns = top + rows - first < 4 ? top + rows - first : 4;
      double done[16] = {};
      Passes::add_products(left, rows, matrix + first * stride, stride, columns, first, 1.0, done, 4);
      for (index a = 0; a < rows; ++a) {
        double* row = matrix + (top + a) * stride;
        for (index b = 0; b < columns && first + b <= top + a; ++b) {
          const double* other = matrix + (first + b) * stride;
          double value = row[first + b] - done[a * 4 + b];
          for (index c = first; c < first + b; ++c) value -= row[c] * other[c];
          if (first + b < top + a) {
            row[first + b] = value / other[first + b];
          } else if (value > floor) {
            row[first + b] = std::sqrt(value);
          } else {
            return top + a;
          }
        }
      }
    }
  }
  return n;
}

// Solves L' x = x in place.
inline void solve_transposed(const double* factor, index n, index stride, double* x) {
  for (index i = n - 1; i >= 0; --i) {
    x[i] /= factor[i * stride + i];
    const double value = x[i];
    const double* row = factor + i * stride;
    for (index j = 0; j < i; ++j) x[j] -= value * row[j];
  }
}

// Solves L L' x = x in place; entries of x before `first` are zero.
template <class Passes>
void solve_cholesky(const double* factor, index n, index stride, double* x, index first = 0) {
  Passes::pause(n * n);
  for (index i = first; i < n; ++i) {
    double value = 0;
    const double* row[1] = {factor + i * stride + first};
    Passes::add_products(row, 1, x + first, 0, 1, i - first, 1.0, &value, 1);
    x[i] = (x[i] - value) / factor[i * stride + i];
  }
  solve_transposed(factor, n, stride, x);
}

// Removes row and column `gone` from a factored matrix of size n: the rows below take up what its column contributed (a rank-one
// update by rotations, stored in `cosine` and `sine`, n each) and move up.
inline void delete_row(double* factor, index n, index stride, index gone, double* cosine, double* sine) {
  for (index i = gone + 1; i < n; ++i) {
    double* row = factor + i * stride;
    double* target = row - stride;
    double carry = row[gone];
    for (index j = 0; j < gone; ++j) target[j] = row[j];
    for (index j = gone + 1; j < i; ++j) {
      const double value = row[j];
      target[j - 1] = cosine[j] * value + sine[j] * carry;
      carry = cosine[j] * carry - sine[j] * value;
    }
    const double diagonal = std::sqrt(row[i] * row[i] + carry * carry);
    cosine[i] = row[i] / diagonal;
    sine[i] = carry / diagonal;
    target[i - 1] = diagonal;
  }
}

SPARSESVM_END
