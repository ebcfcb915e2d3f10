// Steps of a quadratic model on the face of the simplices that holds the current point: how far they may go.
#pragma once

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/prox.h"
#include "core/svm/candidates.h"

SPARSESVM_BEGIN

struct FaceScratch {
  double* step;      // (N) direction of the face step
  double* image;     // (N) H times a step
  double* travelled; // (N) steps taken that q does not yet hold
  double* conjugate; // (N) search direction of conjugate gradients
  double* block;     // (k, k) Hessian block of one sample
  double* delta;     // (k) change of one sample
  double* local;     // (k) gradient of one sample
  index* base;       // (n) eliminated candidate of each sample
  index* free;       // (max_free) the other candidates on the face
  index* free_sample;
  index* frozen;     // (max_free) dependent candidates
  index* frozen_sample;
  double* reduced;   // (max_free, max_free) factor of the reduced Hessian
  double* slope;     // (max_free) reduced gradient
  double* rhs;       // (max_free)
  double* cosine;    // (max_free) rotations
  double* sine;      // (max_free)
  index* vanished;   // (max_bound) entries at zero whose rows are still in the factor
  index max_free;

  static constexpr index max_bound = 64;

  static FaceScratch take(Arena& arena, index n, index k, index max_candidates, index max_free) {
    FaceScratch s;
    s.step = arena.take<double>(max_candidates);
    s.image = arena.take<double>(max_candidates);
    s.conjugate = arena.take<double>(max_candidates);
    s.travelled = arena.take<double>(max_candidates);
    s.block = arena.take<double>(k * k);
    s.delta = arena.take<double>(k);
    s.local = arena.take<double>(k);
    s.base = arena.take<index>(n);
    s.free = arena.take<index>(max_free);
    s.free_sample = arena.take<index>(max_free);
    s.frozen = arena.take<index>(max_free);
    s.frozen_sample = arena.take<index>(max_free);
    s.reduced = arena.take<double>(max_free * max_free);
    s.slope = arena.take<double>(max_free);
    s.rhs = arena.take<double>(max_free);
    s.cosine = arena.take<double>(max_free);
    s.sine = arena.take<double>(max_free);
    s.vanished = arena.take<index>(max_bound);
    s.max_free = max_free;
    return s;
  }
};

template <class Hessian>
class FaceSteps {
 public:
  // x, q: a feasible point and the model's gradient there; both move. totals: (n) the sum of each sample's entries.
  FaceSteps(const Hessian& hessian, const Candidates& candidates, const double* totals, double* x, double* q, FaceScratch& scratch)
      : h_(hessian), c_(candidates), totals_(totals), x_(x), q_(q), s_(scratch) {}

 protected:
  double product(const double* left, const double* right) const {
    double total = 0;
    for (index a = 0; a < c_.count(); ++a) total += left[a] * right[a];
    return total;
  }

  // Largest feasible multiple of the step, at most `limit`; `blocking` is the entry that vanishes there, or -1.
  double longest_step(double limit, index& blocking) const {
    double longest = limit;
    blocking = -1;
    for (index a = 0; a < c_.count(); ++a) {
      if (s_.step[a] < 0 && x_[a] + longest * s_.step[a] < 0) {
        longest = x_[a] / -s_.step[a];
        blocking = a;
      }
    }
    return longest;
  }

  // Moves to the projection of x + step on the simplices if that gains at least as much as the step to the boundary: many entries
  // vanish at once. Expects q settled, and leaves it so.
  bool accept_projection(double gain_to_boundary) {
    for (index i = 0; i < c_.n_samples; ++i) project_row(i);
    apply(s_.step, s_.image);
    const double gain = -product(q_, s_.step) - 0.5 * product(s_.image, s_.step);
    if (!(gain > gain_to_boundary)) return false;
    for (index a = 0; a < c_.count(); ++a) {
      const double moved = x_[a] + s_.step[a];
      x_[a] = moved > 0 ? moved : 0.0;
      q_[a] += s_.image[a];
    }
    return true;
  }

  // Replaces the step of one sample by (projection of x + step) - x, entries off the face staying at zero.
  void project_row(index i) {
    index size = 0;
    for (index a = c_.start[i]; a < c_.start[i + 1]; ++a) {
      if (x_[a] > 0) s_.delta[size++] = x_[a] + s_.step[a];
    }
    project_simplex(s_.delta, size, totals_[i]);
    size = 0;
    for (index a = c_.start[i]; a < c_.start[i + 1]; ++a) s_.step[a] = x_[a] > 0 ? s_.delta[size++] - x_[a] : 0.0;
  }

  void apply(const double* step, double* image) const { h_.apply(c_, step, image); }

  const Hessian& h_;
  const Candidates& c_;
  const double* totals_;
  double* x_;
  double* q_;
  FaceScratch& s_;
};

SPARSESVM_END
