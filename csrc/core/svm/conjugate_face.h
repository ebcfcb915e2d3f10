// A Newton step on the face by conjugate gradients: for models whose Hessian is cheap to multiply with but large to factor.
#pragma once

#include "core/linear_algebra/conjugate_gradients.h"
#include "core/macros.h"
#include "core/svm/face_steps.h"
#include "core/team.h"

SPARSESVM_BEGIN

template <class Passes, class Hessian>
class ConjugateFace : FaceSteps<Hessian> {
 public:
  using FaceSteps<Hessian>::FaceSteps;

  // Takes one step towards the minimiser on the face of the entries now positive, which conjugate gradients find up to `accuracy` of
  // the residual; many entries may vanish. Returns the share of the step that was possible, zero where there is nothing to gain.
  double minimise(double accuracy = 1e-5) {
    solve(accuracy * accuracy);
    const double slope = product(q_, s_.step);
    if (!(slope < 0)) return 0;
    index blocking = -1;
    const double length = longest_step(1.0, blocking);
    if (blocking >= 0) {
      for (index a = 0; a < c_.count(); ++a) s_.conjugate[a] = s_.step[a];  // a projection overwrites the step
      for (double share = 1; share > length && share > shortest; share *= 0.5) {
        for (index a = 0; a < c_.count(); ++a) s_.step[a] = share * s_.conjugate[a];
        const double at_boundary = -slope * length * (1 - 0.5 * length), enough = -0.1 * slope * share;
        if (accept_projection(enough > at_boundary ? enough : at_boundary)) return share;
      }
      for (index a = 0; a < c_.count(); ++a) s_.step[a] = s_.conjugate[a];
    }
    apply(s_.step, s_.image);
    for (index a = 0; a < c_.count(); ++a) {
      const double moved = x_[a] + length * s_.step[a];
      x_[a] = moved > 0 && a != blocking ? moved : 0.0;
      q_[a] += length * s_.image[a];
    }
    return length;
  }

 private:
  using Base = FaceSteps<Hessian>;
  using Base::accept_projection, Base::apply, Base::longest_step, Base::product;
  using Base::c_, Base::q_, Base::s_, Base::x_;

  static constexpr int max_iterations = 200;
  static constexpr double shortest = 0.02;   // share of a step that is projected
  static constexpr double rounding = 1e-28;  // of squares

  // step = minimiser of <q, d> + d'Hd / 2 over the d that keep the face, up to a share `accuracy` of the squared residual.
  void solve(double accuracy) {
    double* residual = s_.travelled;
    for (index a = 0; a < c_.count(); ++a) {
      s_.step[a] = 0;
      residual[a] = -q_[a];
    }
    project(residual);
    // Below what rounding leaves of q the residual is no direction of the face, and steps along it would grow without bound.
    const double wanted = accuracy * product(residual, residual), noise = rounding * product(q_, q_);
    conjugate_gradients(
        OneThread{}, c_.count(), wanted > noise ? wanted : noise, 0.0, max_iterations,
        [this] {
          Passes::pause(c_.count() * c_.count());
          apply(s_.conjugate, s_.image);
        },
        [this](double* d) { project(d); }, s_.step,
        {residual, s_.conjugate, s_.image});
  }

  // Onto the directions that keep the face: zero off it, and of sum zero for each sample.
  void project(double* d) const {
    for (index i = 0; i < c_.n_samples; ++i) {
      double total = 0;
      index support = 0;
      for (index a = c_.start[i]; a < c_.start[i + 1]; ++a) {
        if (x_[a] > 0) {
          total += d[a];
          ++support;
        }
      }
      const double mean = total / static_cast<double>(support);
      for (index a = c_.start[i]; a < c_.start[i + 1]; ++a) d[a] = x_[a] > 0 ? d[a] - mean : 0.0;
    }
  }
};

SPARSESVM_END
