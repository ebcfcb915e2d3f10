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

enum class ConjugateEnd { converged, given_up, flat };

// Adds to `x` the solution of P H P x = residual. `apply` sets image = H direction, `project` applies P in place. Started from zero
// the iterates stay in the range of P H P: where it is singular, theirs is the solution of smallest norm. Converged when the squared
// residual came down to `enough`; flat where the direction has no more than a share `flat` of the largest curvature met, as one has
// that rounding put into the residual.
template <class Apply, class Project>
ConjugateEnd conjugate_gradients(index size, double enough, double flat, index max_iterations, const Apply& apply,
                                 const Project& project, double* x, const ConjugateScratch& s) {
  double squared = 0, largest = 0;
  for (index e = 0; e < size; ++e) {
    s.direction[e] = s.residual[e];
    squared += s.residual[e] * s.residual[e];
  }
  for (index iteration = 0; iteration < max_iterations && squared > enough; ++iteration) {
    apply();
    project(s.image);
    double curvature = 0, length_squared = 0;
    for (index e = 0; e < size; ++e) {
      curvature += s.direction[e] * s.image[e];
      length_squared += s.direction[e] * s.direction[e];
    }
    largest = curvature > largest * length_squared ? curvature / length_squared : largest;
    if (curvature <= flat * largest * length_squared) return ConjugateEnd::flat;
    if (!(curvature > 0)) return ConjugateEnd::given_up;
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
  return squared <= enough ? ConjugateEnd::converged : ConjugateEnd::given_up;
}

SPARSESVM_END
