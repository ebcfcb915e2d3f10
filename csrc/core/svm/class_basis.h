// Coordinates of vectors over the classes that sum to zero: k - 1 numbers instead of k, of the same norm.
//
// Rows of diag(c) Y - A, and so the columns of V and W, sum to zero over the classes. In the orthonormal (Helmert) basis whose c-th
// vector is (1, ..., 1, -(c + 1), 0, ..., 0) / sqrt((c + 1) (c + 2)) there is nothing left to waste on that, nor a null direction.
#pragma once

#include <cmath>

#include "core/basics.h"
#include "core/linear_algebra/arena.h"
#include "core/macros.h"

SPARSESVM_BEGIN

class ClassBasis {
 public:
  ClassBasis() = default;
  SPARSESVM_HD ClassBasis(index k, Arena& arena) : k_(k), scale_(arena.take<double>(k)) {}

  SPARSESVM_HD void fill() {
    for (index c = 0; c + 1 < k_; ++c) scale_[c] = 1 / std::sqrt(static_cast<double>((c + 1) * (c + 2)));
  }

  // to (k - 1) = coordinates of from (k); what from has along the ones is dropped.
  SPARSESVM_HD void reduce(const double* from, double* to, index stride = 1) const {
    double sum = 0;
    for (index c = 0; c + 1 < k_; ++c) {
      sum += from[c];
      to[c * stride] = scale_[c] * (sum - static_cast<double>(c + 1) * from[c + 1]);
    }
  }

  // to (k) = the vector with coordinates from (k - 1).
  SPARSESVM_HD void expand(const double* from, double* to, index stride = 1) const {
    double sum = 0;
    for (index l = k_ - 1; l > 0; --l) {
      const double x = scale_[l - 1] * from[(l - 1) * stride];
      to[l] = sum - static_cast<double>(l) * x;
      sum += x;
    }
    to[0] = sum;
  }

 private:
  index k_;
  double* scale_;  // (k - 1)
};

SPARSESVM_END
