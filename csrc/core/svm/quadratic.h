// The quadratic model of the dual: minimise <q, d> + d'Hd / 2 with x + d in a product of scaled simplices.
//
// Sweeps over samples move mass inside one simplex at a time and find the face; Newton steps on the face then solve the model there
// (face.h, conjugate_face.h). docs/method.md, 4.
#pragma once

#include "core/macros.h"
#include "core/prox.h"
#include "core/svm/candidates.h"
#include "core/svm/conjugate_face.h"
#include "core/svm/face.h"

SPARSESVM_BEGIN

template <class Passes, class Hessian>
class QuadraticModel {
 public:
  // x, q: a feasible point and the model's gradient there; both move. totals: (n) the sum of each sample's entries.
  QuadraticModel(const Hessian& hessian, const Candidates& candidates, const double* totals, double* x, double* q, FaceScratch& scratch)
      : h_(hessian), c_(candidates), totals_(totals), x_(x), q_(q), s_(scratch), face_(hessian, candidates, totals, x, q, scratch), conjugate_face_(hessian, candidates, totals, x, q, scratch) {}

  // Descends until the model's gap is at most `target` or `rounds` are spent; returns the gap reached.
  double minimise(double target, index rounds) {
    double value = gap();
    for (index round = 0; round < rounds && value > target; ++round) {
      value = sweep_while_useful(value, target);
      if (value <= target) break;
      if (h_.is_linear(face_size())) continue;
      if (Hessian::factor_pays(c_, face_size()) ? face_.minimise(target) : conjugate_face_.minimise() > 0) value = gap();
    }
    return value;
  }

  double gap() const { return c_.gap(x_, q_); }

 private:
  // Entries that are free once each sample's sum is kept.
  index face_size() const {
    index positive = 0;
    for (index a = 0; a < c_.count(); ++a) positive += x_[a] > 0;
    return positive - c_.n_samples;
  }

  // A sweep costs N^2, a face step r^3 / 3 and more: the larger the model, the longer sweeps are worth their while.
  double sweep_while_useful(double value, double target) {
    const index pairs = 1 + c_.count() / 128;
    for (index pair = 0; pair < pairs && value > target; ++pair) {
      const double before = value;
      sweep(0.01 * before);
      sweep(0.01 * before);
      value = gap();
      if (value > 0.85 * before) break;
    }
    return value;
  }

  // One pass of exact block minimisation over the samples whose own gap matters.
  void sweep(double slack) {
    const double row_slack = slack / static_cast<double>(c_.n_samples);
    for (index i = 0; i < c_.n_samples; ++i) {
      const index first = c_.start[i];
      const index size = c_.start[i + 1] - first;
      if (size < 2 || c_.sample_gap(i, x_, q_) <= row_slack) continue;
      for (index a = 0; a < size; ++a) {
        for (index b = 0; b < size; ++b) {
          s_.block[a * size + b] = h_.entry(first + a, i, c_.label[first + a], first + b, i, c_.label[first + b]);
        }
        s_.delta[a] = -x_[first + a];
        s_.local[a] = q_[first + a];
      }
      descend_simplex(s_.block, size, x_ + first, s_.local, size, 0.1 * row_slack / totals_[i]);
      for (index a = 0; a < size; ++a) s_.delta[a] += x_[first + a];
      h_.add_columns(c_, i, s_.delta, q_);
      Passes::pause(size * c_.count());
    }
  }

  const Hessian& h_;
  const Candidates& c_;
  const double* totals_;
  double* x_;
  double* q_;
  FaceScratch& s_;
  Face<Passes, Hessian> face_;
  ConjugateFace<Passes, Hessian> conjugate_face_;
};

SPARSESVM_END
