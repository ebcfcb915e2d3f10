// The quadratic model of the dual: minimise <q, d> + d'Hd / 2 with x + d in a product of scaled simplices.
//
// Variables are candidates (sample, class), grouped by sample. Sweeps over samples move mass inside one simplex at a time and find
// the face; a Newton step on the face (each row's largest entry eliminated) then solves the model there. mathematics.md, section 3.
#pragma once

#include <cmath>

#include "core/arena.h"
#include "core/cholesky.h"
#include "core/macros.h"
#include "core/problem.h"
#include "core/prox.h"

SPARSESVM_BEGIN

// Which (sample, class) pairs take part: those of sample i are start[i] .. start[i + 1] - 1.
struct Candidates {
  index n_samples;
  const index* start;
  const index* label;
  index count() const { return start[n_samples]; }
};

// H stored as a full symmetric matrix over the candidates.
struct DenseHessian {
  const double* matrix;
  index stride;

  double entry(index a, index /*sample_a*/, index /*label_a*/, index b, index /*sample_b*/, index /*label_b*/) const {
    return matrix[a * stride + b];
  }
  // q += H[:, first .. first + count] delta
  void add_columns(const Candidates& candidates, index sample, const double* delta, double* q) const {
    const index n = candidates.count();
    for (index a = candidates.start[sample]; a < candidates.start[sample + 1]; ++a) {
      const double scale = delta[a - candidates.start[sample]];
      if (scale == 0) continue;
      const double* row = matrix + a * stride;
      for (index b = 0; b < n; ++b) q[b] += scale * row[b];
    }
  }
};

// H = K (x) identity over the classes: lambda1 = 0, where all classes share the Gram matrix K of the samples.
struct GramHessian {
  const double* gram;
  index stride;

  double entry(index /*a*/, index sample_a, index label_a, index /*b*/, index sample_b, index label_b) const {
    return label_a == label_b ? gram[sample_a * stride + sample_b] : 0.0;
  }
  void add_columns(const Candidates& candidates, index sample, const double* delta, double* q) const {
    const index k = candidates.start[1];
    const double* row = gram + sample * stride;
    for (index i = 0; i < candidates.n_samples; ++i) {
      const double scale = row[i];
      double* target = q + i * k;
      for (index l = 0; l < k; ++l) target[l] += scale * delta[l];
    }
  }
};

struct QuadraticScratch {
  double* step;       // (N) direction of the face step
  double* image;      // (N) H times that direction
  double* block;      // (k, k) Hessian block of one sample
  double* delta;      // (k) change of one sample
  index* base;        // (n) eliminated candidate of each sample
  index* free;        // (max_free) the other candidates on the face
  index* free_sample; // (max_free)
  double* reduced;    // (max_free, max_free)
  double* rhs;        // (max_free)
  index max_free;

  static QuadraticScratch take(Arena& arena, index n, index k, index max_candidates, index max_free) {
    QuadraticScratch s;
    s.step = arena.take<double>(max_candidates);
    s.image = arena.take<double>(max_candidates);
    s.block = arena.take<double>(k * k);
    s.delta = arena.take<double>(k);
    s.base = arena.take<index>(n);
    s.free = arena.take<index>(max_free);
    s.free_sample = arena.take<index>(max_free);
    s.reduced = arena.take<double>(max_free * max_free);
    s.rhs = arena.take<double>(max_free);
    s.max_free = max_free;
    return s;
  }
};

template <class Passes, class Hessian>
class QuadraticModel {
 public:
  QuadraticModel(const Hessian& hessian, const Candidates& candidates, const double* totals, double* x, double* q, QuadraticScratch& scratch)
      : h_(hessian), c_(candidates), totals_(totals), x_(x), q_(q), s_(scratch) {}

  // Descends until the model's gap is at most `target` or `rounds` are spent; returns the gap reached.
  double minimise(double target, index rounds) {
    double gap = model_gap();
    for (index round = 0; round < rounds && gap > target; ++round) {
      sweep(0.01 * gap);
      sweep(0.01 * gap);
      gap = model_gap();
      if (gap <= target) break;
      if (!face_step()) continue;
      gap = model_gap();
    }
    return gap;
  }

  // sum_i <x_i, q_i - min q_i>: zero exactly at the minimiser.
  double model_gap() const {
    double gap = 0;
    for (index i = 0; i < c_.n_samples; ++i) gap += row_gap(i);
    return gap;
  }

 private:
  double row_gap(index i) const {
    double low = q_[c_.start[i]];
    for (index a = c_.start[i] + 1; a < c_.start[i + 1]; ++a) low = q_[a] < low ? q_[a] : low;
    double gap = 0;
    for (index a = c_.start[i]; a < c_.start[i + 1]; ++a) gap += x_[a] * (q_[a] - low);
    return gap;
  }

  // One pass of exact block minimisation over the samples whose own gap matters.
  void sweep(double slack) {
    const double row_slack = slack / static_cast<double>(c_.n_samples);
    for (index i = 0; i < c_.n_samples; ++i) {
      const index first = c_.start[i];
      const index size = c_.start[i + 1] - first;
      if (size < 2 || row_gap(i) <= row_slack) continue;
      for (index a = 0; a < size; ++a) {
        for (index b = 0; b < size; ++b) {
          s_.block[a * size + b] = h_.entry(first + a, i, c_.label[first + a], first + b, i, c_.label[first + b]);
        }
        s_.delta[a] = -x_[first + a];
      }
      double* local = s_.image;  // gradient of this sample, consistent with its own block only
      for (index a = 0; a < size; ++a) local[a] = q_[first + a];
      descend_simplex(s_.block, size, x_ + first, local, size, 0.1 * row_slack / totals_[i], 4 * size);
      for (index a = 0; a < size; ++a) s_.delta[a] += x_[first + a];
      h_.add_columns(c_, i, s_.delta, q_);
    }
  }

  index collect_face() {
    index r = 0;
    for (index i = 0; i < c_.n_samples; ++i) {
      index base = c_.start[i];
      for (index a = base + 1; a < c_.start[i + 1]; ++a) base = x_[a] > x_[base] ? a : base;
      s_.base[i] = base;
      for (index a = c_.start[i]; a < c_.start[i + 1]; ++a) {
        if (a == base || x_[a] <= 0) continue;
        if (r == s_.max_free) return -1;
        s_.free[r] = a;
        s_.free_sample[r] = i;
        ++r;
      }
    }
    return r;
  }

  // Newton step on the face {entries now positive}. Where it leaves the simplices, the better of two shortened steps is taken: the
  // projected point with exact line search, or the step up to the first entry that vanishes. False when nothing was gained.
  bool face_step() {
    const index r = collect_face();
    if (r <= 0) return false;
    const index n = c_.count();
    double mean = 0;
    for (index f = 0; f < r; ++f) {
      const index a = s_.free[f], i = s_.free_sample[f], b = s_.base[i];
      s_.rhs[f] = q_[b] - q_[a];
      double* row = s_.reduced + f * r;
      for (index g = 0; g <= f; ++g) {
        const index a2 = s_.free[g], i2 = s_.free_sample[g], b2 = s_.base[i2];
        row[g] = h_.entry(a, i, c_.label[a], a2, i2, c_.label[a2]) - h_.entry(a, i, c_.label[a], b2, i2, c_.label[b2]) -
                 h_.entry(b, i, c_.label[b], a2, i2, c_.label[a2]) + h_.entry(b, i, c_.label[b], b2, i2, c_.label[b2]);
      }
      mean += row[f];
    }
    mean /= static_cast<double>(r);
    const double ridge = 1e-12 * mean;
    for (index f = 0; f < r; ++f) s_.reduced[f * r + f] += ridge;
    factor_cholesky<Passes>(s_.reduced, r, r, 0.1 * ridge);
    solve_cholesky<Passes>(s_.reduced, r, r, s_.rhs);

    for (index a = 0; a < n; ++a) s_.step[a] = 0;
    for (index f = 0; f < r; ++f) {
      s_.step[s_.free[f]] += s_.rhs[f];
      s_.step[s_.base[s_.free_sample[f]]] -= s_.rhs[f];
    }
    double longest = 1;  // largest multiple of the step that stays feasible
    index blocking = -1;
    for (index a = 0; a < n; ++a) {
      if (s_.step[a] < 0 && x_[a] + longest * s_.step[a] < 0) {
        longest = x_[a] / -s_.step[a];
        blocking = a;
      }
    }
    double slope = 0;
    for (index a = 0; a < n; ++a) slope += q_[a] * s_.step[a];
    if (!(slope < 0)) return false;
    if (blocking < 0) {
      move(1.0, -1);
      return true;
    }
    // The step solves the face problem, so its curvature is -slope (up to the ridge).
    const double gain_to_boundary = -slope * longest * (1 - 0.5 * longest);
    for (index i = 0; i < c_.n_samples; ++i) project_row(i);
    apply(s_.step, s_.image);
    double projected_slope = 0, curvature = 0;
    for (index a = 0; a < n; ++a) {
      projected_slope += q_[a] * s_.step[a];
      curvature += s_.image[a] * s_.step[a];
    }
    if (projected_slope < 0) {
      const double t = curvature > -projected_slope ? -projected_slope / curvature : 1.0;
      if (-projected_slope * t - 0.5 * curvature * t * t >= gain_to_boundary) {
        for (index a = 0; a < n; ++a) {
          const double moved = x_[a] + t * s_.step[a];
          x_[a] = moved > 0 ? moved : 0.0;
          q_[a] += t * s_.image[a];
        }
        return true;
      }
    }
    for (index a = 0; a < n; ++a) s_.step[a] = 0;
    for (index f = 0; f < r; ++f) {
      s_.step[s_.free[f]] += s_.rhs[f];
      s_.step[s_.base[s_.free_sample[f]]] -= s_.rhs[f];
    }
    move(longest, blocking);
    return longest > 0;
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

  void move(double length, index vanishing) {
    apply(s_.step, s_.image);
    for (index a = 0; a < c_.count(); ++a) {
      const double moved = x_[a] + length * s_.step[a];
      x_[a] = moved > 0 && a != vanishing ? moved : 0.0;
      q_[a] += length * s_.image[a];
    }
  }

  void apply(const double* step, double* image) {
    for (index a = 0; a < c_.count(); ++a) image[a] = 0;
    for (index i = 0; i < c_.n_samples; ++i) h_.add_columns(c_, i, step + c_.start[i], image);
  }

  const Hessian& h_;
  const Candidates& c_;
  const double* totals_;
  double* x_;
  double* q_;
  QuadraticScratch& s_;
};

SPARSESVM_END
