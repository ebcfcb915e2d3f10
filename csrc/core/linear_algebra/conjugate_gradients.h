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

// Solves H x = residual from x = 0 until <residual, M^-1 residual> came down to a share accuracy^2; `apply` sets image = H direction,
// `precondition` sets conditioned = M^-1 residual. False when that took more than `limit` steps.
template <class Apply, class Precondition>
bool preconditioned_gradients(index size, double accuracy, index limit, const Apply& apply, const Precondition& precondition, double* x,
                              const double* conditioned, const ConjugateScratch& s) {
  precondition();
  double squared = 0;
  for (index e = 0; e < size; ++e) {
    x[e] = 0;
    s.direction[e] = conditioned[e];
    squared += s.residual[e] * conditioned[e];
  }
  const double enough = accuracy * accuracy * squared;
  for (index step = 0; step < limit && squared > enough; ++step) {
    apply();
    double curvature = 0;
    for (index e = 0; e < size; ++e) curvature += s.direction[e] * s.image[e];
    if (!(curvature > 0)) return false;
    const double length = squared / curvature, before = squared;
    for (index e = 0; e < size; ++e) {
      x[e] += length * s.direction[e];
      s.residual[e] -= length * s.image[e];
    }
    precondition();
    squared = 0;
    for (index e = 0; e < size; ++e) squared += s.residual[e] * conditioned[e];
    for (index e = 0; e < size; ++e) s.direction[e] = conditioned[e] + squared / before * s.direction[e];
  }
  return squared <= enough;
}

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
