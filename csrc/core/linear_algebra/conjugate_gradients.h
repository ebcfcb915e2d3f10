// Conjugate gradients inside a linear subspace, for a symmetric positive semidefinite operator that is only multiplied with.
#pragma once

#include "core/basics.h"
#include "core/macros.h"

SPARSESVM_BEGIN

struct ConjugateScratch {
  double* residual;   // (size) on entry the right-hand side, in the subspace
  double* direction;  // (size)
  double* image;      // (size)
};

// Adds to `x` the solution of P H P x = residual from zero. `apply` sets image = H direction, `project` applies P in place. Started
// from zero the iterates stay in the range of P H P: where it is singular, theirs is the solution of smallest norm. True when the
// squared residual came down to `enough`.
template <class Apply, class Project>
bool conjugate_gradients(index size, double enough, index max_iterations, const Apply& apply, const Project& project, double* x,
                         const ConjugateScratch& s) {
  double squared = 0;
  for (index e = 0; e < size; ++e) {
    s.direction[e] = s.residual[e];
    squared += s.residual[e] * s.residual[e];
  }
  for (index iteration = 0; iteration < max_iterations && squared > enough; ++iteration) {
    apply();
    project(s.image);
    double curvature = 0;
    for (index e = 0; e < size; ++e) curvature += s.direction[e] * s.image[e];
    if (!(curvature > 0)) return false;
    const double length = squared / curvature, before = squared;
    squared = 0;
    for (index e = 0; e < size; ++e) {
      x[e] += length * s.direction[e];
      s.residual[e] -= length * s.image[e];
      squared += s.residual[e] * s.residual[e];
    }
    for (index e = 0; e < size; ++e) s.direction[e] = s.residual[e] + squared / before * s.direction[e];
    // Outside the subspace H is not seen, so that rounding in those directions would grow unchecked.
    project(s.direction);
  }
  return squared <= enough;
}

SPARSESVM_END
