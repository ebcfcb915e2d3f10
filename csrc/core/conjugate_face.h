// A Newton step on the face by conjugate gradients: for models whose Hessian is cheap to multiply with but large to factor.
#pragma once

#include "core/face_steps.h"
#include "core/macros.h"

SPARSESVM_BEGIN

template <class Hessian>
class ConjugateFace : FaceSteps<Hessian> {
 public:
  using FaceSteps<Hessian>::FaceSteps;

  // Takes one step towards the minimiser on the face of the entries now positive; many entries may vanish. False when there is
  // nothing to gain.
  bool minimise() {
    solve();
    const double slope = product(q_, s_.step);
    if (!(slope < 0)) return false;
    index blocking = -1;
    const double length = longest_step(1.0, blocking);
    // The projection overwrites the step, so what its rival would need is kept.
    if (blocking >= 0) {
      for (index a = 0; a < c_.count(); ++a) s_.conjugate[a] = s_.step[a];
      if (accept_projection(-slope * length * (1 - 0.5 * length))) return true;
      for (index a = 0; a < c_.count(); ++a) s_.step[a] = s_.conjugate[a];
    }
    apply(s_.step, s_.image);
    for (index a = 0; a < c_.count(); ++a) {
      const double moved = x_[a] + length * s_.step[a];
      x_[a] = moved > 0 && a != blocking ? moved : 0.0;
      q_[a] += length * s_.image[a];
    }
    return length > 0;
  }

 private:
  using Base = FaceSteps<Hessian>;
  using Base::accept_projection, Base::apply, Base::longest_step, Base::product;
  using Base::c_, Base::q_, Base::s_, Base::x_;

  static constexpr int max_iterations = 200;
  static constexpr double accuracy = 1e-10;  // of the squared residual; the next round removes the rest

  // step = minimiser of <q, d> + d'Hd / 2 over the d that keep the face.
  void solve() {
    const index count = c_.count();
    double* residual = s_.travelled;
    for (index a = 0; a < count; ++a) {
      s_.step[a] = 0;
      residual[a] = -q_[a];
    }
    project(residual);
    for (index a = 0; a < count; ++a) s_.conjugate[a] = residual[a];
    double squared = product(residual, residual);
    const double enough = accuracy * squared;
    for (int iteration = 0; iteration < max_iterations && squared > enough; ++iteration) {
      apply(s_.conjugate, s_.image);
      project(s_.image);
      const double curvature = product(s_.conjugate, s_.image);
      if (!(curvature > 0)) return;
      const double length = squared / curvature;
      for (index a = 0; a < count; ++a) {
        s_.step[a] += length * s_.conjugate[a];
        residual[a] -= length * s_.image[a];
      }
      const double before = squared;
      squared = product(residual, residual);
      for (index a = 0; a < count; ++a) s_.conjugate[a] = residual[a] + squared / before * s_.conjugate[a];
      // Off the face H is not seen, so that rounding in those directions would grow unchecked.
      project(s_.conjugate);
    }
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
