// What the face system of the derivatives (docs/method.md, 6) counts with, whoever solves it.
#pragma once

#include <cmath>

#include "core/basics.h"
#include "core/macros.h"

SPARSESVM_BEGIN

// Iterations that conjugate gradients seldom exceed.
constexpr index usual_iterations = 120;

// Curvature, as a share of the diagonal, that rounding can make of a direction without: of the features in their own type, alike
// in all n samples at worst, and of the sums in double precision. The square of four such errors.
template <typename T>
SPARSESVM_HD double flat_curvature(index n, index size) {
  constexpr double rounding = sizeof(T) < sizeof(double) ? 0x1p-24 : 0x1p-53;
  return 16 * (static_cast<double>(n) * rounding * rounding + static_cast<double>(size) * 0x1p-53);
}

// Among the s free entries of a sample M = E'E is one plus the identity, E eliminating its largest entry; M^(-1/2) is the
// identity less this, so that E M^(-1/2) is orthonormal.
SPARSESVM_HD inline double orthonormal_shift(index s) {
  const double count = static_cast<double>(s);
  return s > 0 ? (1 - 1 / std::sqrt(1 + count)) / count : 0.0;
}

SPARSESVM_END
