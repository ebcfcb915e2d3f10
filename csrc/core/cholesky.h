// Dense Cholesky factorisation and solves, row-major lower triangle, blocked by four rows so that all work is row products.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/problem.h"

SPARSESVM_BEGIN

// Factors a symmetric positive semidefinite matrix in place (lower triangle, row stride `stride`; the rest is left alone). A pivot
// not above `floor` is replaced by a huge one, which pins that coordinate of later solves to zero: the matrix is singular there up to
// rounding.
template <class Passes>
void factor_cholesky(double* matrix, index n, index stride, double floor) {
  for (index top = 0; top < n; top += 4) {
    const index rows = n - top < 4 ? n - top : 4;
    const double* left[4];
    for (index a = 0; a < rows; ++a) left[a] = matrix + (top + a) * stride;
    for (index first = 0; first <= top; first += 4) {
      const index columns = n - first < 4 ? n - first : 4;
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
          } else {
            row[first + b] = value > floor ? std::sqrt(value) : 1e150;
          }
        }
      }
    }
  }
}

// Solves L L' x = x in place.
template <class Passes>
void solve_cholesky(const double* factor, index n, index stride, double* x) {
  for (index i = 0; i < n; ++i) {
    double value = 0;
    const double* row[1] = {factor + i * stride};
    Passes::add_products(row, 1, x, 0, 1, i, 1.0, &value, 1);
    x[i] = (x[i] - value) / factor[i * stride + i];
  }
  for (index i = n - 1; i >= 0; --i) {
    x[i] /= factor[i * stride + i];
    const double value = x[i];
    const double* row = factor + i * stride;
    for (index j = 0; j < i; ++j) x[j] -= value * row[j];
  }
}

SPARSESVM_END
