// Conjugate gradients inside a linear subspace, for a symmetric positive semidefinite operator that is only multiplied with.
#pragma once

#include "core/basics.h"
#include "core/macros.h"
#include "core/team.h"

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

// Adds to `x` the solution of P H P x = residual. `apply` sets image = H direction, `project` applies P in place; both are called
// by all of a team, after a barrier, and end with one. Started from zero the iterates stay in the range of P H P: where it is
// singular, theirs is the solution of smallest norm. Converged when the squared residual came down to `enough`; flat where the
// direction has no more than a share `flat` of the largest curvature met, as one has that rounding put into the residual.
template <class Team, class Apply, class Project>
SPARSESVM_HD ConjugateEnd conjugate_gradients(Team team, index size, double enough, double flat, index max_iterations,
                                              const Apply& apply, const Project& project, double* x, const ConjugateScratch& s) {
  double squared = 0, largest = 0;
  team.sync_team();
  for (index e = team_rank(team); e < size; e += team_size(team)) s.direction[e] = s.residual[e];
  for (index e = team.rank(); e < size; e += team.size()) squared += s.residual[e] * s.residual[e];
  squared = team.sum(squared);
  team.sync_team();
  for (index iteration = 0; iteration < max_iterations && squared > enough; ++iteration) {
    apply();
    project(s.image);
    double curvature = 0, length_squared = 0;
    for (index e = team.rank(); e < size; e += team.size()) {
      curvature += s.direction[e] * s.image[e];
      length_squared += s.direction[e] * s.direction[e];
    }
    curvature = team.sum(curvature);
    length_squared = team.sum(length_squared);
    largest = curvature > largest * length_squared ? curvature / length_squared : largest;
    if (curvature <= flat * largest * length_squared) return ConjugateEnd::flat;
    if (!(curvature > 0)) return ConjugateEnd::given_up;
    const double length = squared / curvature, before = squared;
    squared = 0;
    for (index e = team_rank(team); e < size; e += team_size(team)) {
      x[e] += length * s.direction[e];
      s.residual[e] -= length * s.image[e];
    }
    team.sync_team();
    for (index e = team.rank(); e < size; e += team.size()) squared += s.residual[e] * s.residual[e];
    squared = team.sum(squared);
    for (index e = team_rank(team); e < size; e += team_size(team)) {
      s.direction[e] = s.residual[e] + squared / before * s.direction[e];
    }
    team.sync_team();
    // Outside the subspace H is not seen, so that rounding in those directions would grow unchecked.
    project(s.direction);
  }
  return squared <= enough ? ConjugateEnd::converged : ConjugateEnd::given_up;
}

// x less its part along a direction. Between barriers of the team.
template <class Team>
SPARSESVM_HD void remove_along(Team team, index size, const double* direction, double* x) {
  double along = 0, squared = 0;
  for (index e = team.rank(); e < size; e += team.size()) {
    along += direction[e] * x[e];
    squared += direction[e] * direction[e];
  }
  along = team.sum(along);
  squared = team.sum(squared);
  team.sync_team();
  for (index e = team_rank(team); e < size; e += team_size(team)) x[e] -= along / squared * direction[e];
  team.sync_team();
}

// x = the smallest solution of P H P x = P right, also where rounding gave curvature to directions that have none: those of no
// more than a share `flat` of the largest are left out when met. Leaves at most `rounding` of the squared residual, or what its
// own rounding makes; false where that is not reached. `met` (size) is scratch.
template <class Team, class Apply, class Project>
SPARSESVM_HD bool solve_singular(Team team, index size, double rounding, double flat, index max_iterations, const Apply& apply,
                                 const Project& project, const double* right, double* x, const ConjugateScratch& s, double* met) {
  team.sync_team();
  for (index e = team_rank(team); e < size; e += team_size(team)) {
    x[e] = 0;
    s.residual[e] = right[e];
  }
  team.sync_team();
  project(s.residual);
  double squared = 0;
  for (index e = team.rank(); e < size; e += team.size()) squared += s.residual[e] * s.residual[e];
  squared = team.sum(squared);
  const double enough = 1e-25 * squared > rounding ? 1e-25 * squared : rounding;
  constexpr int max_flat = 8;  // one, and what rounding leaves of it
  for (int n_flat = 0; n_flat < max_flat; ++n_flat) {
    const ConjugateEnd end = conjugate_gradients(team, size, enough, flat, max_iterations, apply, project, x, s);
    if (end != ConjugateEnd::flat) return end == ConjugateEnd::converged;
    team.sync_team();
    for (index e = team_rank(team); e < size; e += team_size(team)) met[e] = s.direction[e];
    team.sync_team();
    remove_along(team, size, met, x);
    for (index e = team_rank(team); e < size; e += team_size(team)) s.direction[e] = x[e];
    team.sync_team();
    apply();
    for (index e = team_rank(team); e < size; e += team_size(team)) s.residual[e] = right[e] - s.image[e];
    team.sync_team();
    project(s.residual);
    remove_along(team, size, met, s.residual);
  }
  return false;
}

SPARSESVM_END
