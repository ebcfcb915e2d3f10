// Newton steps of a quadratic model on the face of the simplices that holds the current point.
//
// On the face each sample's largest entry is eliminated, and the reduced Hessian of the others is factored once. A step ends at the
// first entry that vanishes; it leaves the face, and its row the factor once there are many of them.
#pragma once

#include <cmath>

#include "core/linear_algebra/cholesky.h"
#include "core/macros.h"
#include "core/svm/face_steps.h"

SPARSESVM_BEGIN

template <class Passes, class Hessian>
class Face : FaceSteps<Hessian> {
 public:
  using FaceSteps<Hessian>::FaceSteps;

  // Minimises the model on the face of the entries now positive, or until its gap is at most `target`. Entries whose rows depend on
  // the others are frozen at first: along such a direction the model is linear, and once the rest is minimal the point slides
  // downhill on it. False when there is nothing to gain.
  bool minimise(double target) {
    slack_ = 0.1 * target / static_cast<double>(c_.n_samples);
    if (!factor()) return false;
    for (index a = 0; a < c_.count(); ++a) s_.travelled[a] = 0;
    read_slope();
    bool moved = false, solved = false;
    n_bound_ = 0;
    // Every pass removes an entry from the face or ends; the bound guards against rounding that undoes this.
    const index passes = 4 * (r_ + n_frozen_) + 4;
    for (index pass = 0; pass < passes; ++pass) {
      bool full = true;
      if (r_ > 0) {
        if (!solved) {
          for (index f = 0; f < r_; ++f) s_.rhs[f] = -s_.slope[f];
          solve_cholesky<Passes>(s_.reduced, r_, stride_, s_.rhs);
        }
        solved = false;
        double decrease = 0;
        for (index f = 0; f < r_; ++f) decrease -= s_.slope[f] * s_.rhs[f];
        if (decrease > 0) {
          expand(s_.rhs);
          index blocking = -1;
          const double length = longest_step(1.0, blocking);
          full = blocking < 0;
          if (!full && pass == 0) {
            if (accept_projection(decrease * length * (1 - 0.5 * length))) return true;
            expand(s_.rhs);  // the trial overwrote it
          }
          move(length, blocking);
          moved = moved || length > 0;
          // The step solves the reduced system, so that its gradient shrinks evenly.
          for (index f = 0; f < r_; ++f) {
            s_.slope[f] *= 1 - length;
            s_.rhs[f] *= 1 - length;
          }
          if (!full) {
            solved = bind(blocking);
            if (!solved) {
              leave_bound();
              leave(blocking);
            }
          }
        }
      }
      if (full || pass % 16 == 15) {
        settle();
        if (c_.gap(x_, q_) <= target) return moved;
      }
      if (full) {
        if (n_frozen_ == 0) return moved;
        leave_bound();
        if (!slide()) return moved;
        moved = true;
      }
    }
    settle();
    return moved;
  }

 private:
  using Base = FaceSteps<Hessian>;
  using Base::accept_projection, Base::apply, Base::longest_step, Base::product;
  using Base::c_, Base::h_, Base::q_, Base::s_, Base::totals_, Base::x_;

  // Factors the reduced Hessian of the face, freezing entries whose rows depend on those before.
  bool factor() {
    if (!collect() || r_ == 0) return false;
    double largest = 0;
    for (index f = 0; f < r_; ++f) {
      fill_row(f);
      const double diagonal = s_.reduced[f * stride_ + f];
      largest = diagonal > largest ? diagonal : largest;
    }
    floor_ = 1e-13 * largest;
    n_frozen_ = 0;
    for (index f = 0; (f = factor_cholesky<Passes>(s_.reduced, r_, stride_, floor_, f)) < r_;) freeze(f);
    return true;
  }

  // Lists the face; false when it is too large for the scratch.
  bool collect() {
    r_ = 0;
    for (index i = 0; i < c_.n_samples; ++i) {
      index base = c_.start[i];
      for (index a = base + 1; a < c_.start[i + 1]; ++a) base = x_[a] > x_[base] ? a : base;
      s_.base[i] = base;
      for (index a = c_.start[i]; a < c_.start[i + 1]; ++a) {
        if (a == base || x_[a] <= 0) continue;
        if (r_ == s_.max_free) return false;
        s_.free[r_] = a;
        s_.free_sample[r_] = i;
        ++r_;
      }
    }
    stride_ = r_;
    return true;
  }

  double reduced_entry(index a, index i, index a2, index i2) const {
    return h_.difference(c_, i, a, s_.base[i], i2, a2, s_.base[i2]);
  }

  void fill_row(index f) {
    for (index g = 0; g <= f; ++g) {
      s_.reduced[f * stride_ + g] = reduced_entry(s_.free[f], s_.free_sample[f], s_.free[g], s_.free_sample[g]);
    }
  }

  void read_slope() {
    for (index f = 0; f < r_; ++f) s_.slope[f] = q_[s_.free[f]] - q_[s_.base[s_.free_sample[f]]];
  }

  void freeze(index f) {
    s_.frozen[n_frozen_] = s_.free[f];
    s_.frozen_sample[n_frozen_++] = s_.free_sample[f];
    for (index g = f + 1; g < r_; ++g) {
      const double* from = s_.reduced + g * stride_;
      double* to = s_.reduced + (g - 1) * stride_;
      for (index c = 0; c < f; ++c) to[c] = from[c];
      for (index c = f + 1; c <= g; ++c) to[c - 1] = from[c];
    }
    remove_free(f);
    for (index g = f; g < r_ && g < f + 3; ++g) fill_row(g);  // these were overwritten by the stopped factorisation
  }

  void remove_free(index f) {
    for (index g = f + 1; g < r_; ++g) {
      s_.free[g - 1] = s_.free[g];
      s_.free_sample[g - 1] = s_.free_sample[g];
      s_.slope[g - 1] = s_.slope[g];
    }
    --r_;
  }

  void remove_frozen(index f) {
    --n_frozen_;
    s_.frozen[f] = s_.frozen[n_frozen_];
    s_.frozen_sample[f] = s_.frozen_sample[n_frozen_];
  }

  // Moves along the direction without curvature of a frozen entry until an entry vanishes, which leaves the face; the frozen entry
  // then joins it. False when no frozen entry gains. Expects q settled, and leaves it and the slope so.
  bool slide() {
    for (index f = n_frozen_ - 1; f >= 0; --f) {
      const index a = s_.frozen[f], i = s_.frozen_sample[f];
      if (x_[a] <= 0) {
        remove_frozen(f);
        continue;
      }
      const double gradient = q_[a] - q_[s_.base[i]];
      if (!(std::fabs(gradient) * totals_[i] > slack_)) continue;
      for (index g = 0; g < r_; ++g) s_.rhs[g] = -reduced_entry(a, i, s_.free[g], s_.free_sample[g]);
      solve_cholesky<Passes>(s_.reduced, r_, stride_, s_.rhs);
      expand(s_.rhs);
      s_.step[a] += 1;
      s_.step[s_.base[i]] -= 1;
      if (gradient > 0) {
        for (index c = 0; c < c_.count(); ++c) s_.step[c] = -s_.step[c];
      }
      if (!(product(q_, s_.step) < 0)) continue;
      index blocking = -1;
      const double length = longest_step(1e300, blocking);
      if (blocking < 0) continue;
      move(length, blocking);
      if (blocking != a) leave(blocking);  // which may make the entry the eliminated one of its sample
      index g = 0;
      while (g < n_frozen_ && s_.frozen[g] != a) ++g;
      if (g < n_frozen_) {
        remove_frozen(g);
        if (blocking != a) join(a, i);
      }
      settle();
      read_slope();
      return true;
    }
    return false;
  }

  // Appends an entry to the face and its row to the factor; back to the frozen ones if it still depends on the rest.
  void join(index a, index i) {
    s_.free[r_] = a;
    s_.free_sample[r_] = i;
    fill_row(r_);
    if (factor_cholesky<Passes>(s_.reduced, r_ + 1, stride_, floor_, r_) > r_) {
      ++r_;
    } else {
      s_.frozen[n_frozen_] = a;
      s_.frozen_sample[n_frozen_++] = i;
    }
  }

  // Keeps an entry that vanished at zero while its row stays in the factor: with <a, step> what a step adds to the entry, the solution
  // s_.rhs and all that come stay orthogonal to H^-1 a in the inner product of H, <., H^-1 a>_H = <., a>. Half the time of taking the row
  // out of the factor and solving again. False, and nothing is kept, where there is no room, or where a depends on those before, so that
  // what is left of H^-1 a beside them is rounding.
  bool bind(index entry) {
    if (n_bound_ == FaceScratch::max_bound || (stride_ + n_bound_ + 1) * stride_ > s_.max_free * s_.max_free) return false;
    index i = 0;
    while (entry >= c_.start[i + 1]) ++i;
    const bool is_base = s_.base[i] == entry;
    const auto in_a = [&](index f) { return s_.free[f] == entry || (is_base && s_.free_sample[f] == i); };
    index first = 0, last = r_;
    while (first < r_ && !in_a(first)) ++first;
    while (last > first && !in_a(last - 1)) --last;
    const auto along = [&](const double* direction) {
      double total = 0;
      for (index f = first; f < last; ++f) total += in_a(f) ? direction[f] : 0.0;
      return total;
    };
    double* inverse = bound(n_bound_);
    for (index f = 0; f < r_; ++f) inverse[f] = in_a(f);
    solve_cholesky<Passes>(s_.reduced, r_, stride_, inverse, first);
    const double whole = along(inverse);
    for (index p = 0; p < n_bound_; ++p) {
      const double* before = bound(p);
      const double share = along(before);
      for (index f = 0; f < r_; ++f) inverse[f] -= share * before[f];
    }
    const double square = along(inverse);
    if (!(square > dependent_share * whole)) return false;
    const double scale = 1 / std::sqrt(square);
    for (index f = 0; f < r_; ++f) inverse[f] *= scale;
    const double share = along(s_.rhs);
    for (index f = 0; f < r_; ++f) s_.rhs[f] -= share * scale * inverse[f];
    s_.vanished[n_bound_++] = entry;
    return true;
  }

  // H^-1 a of a vanished entry, orthogonal to those before and of length one; behind the factor.
  double* bound(index p) const { return s_.reduced + (stride_ + p) * stride_; }

  // Takes the rows of entries that were only kept at zero out of the factor.
  void leave_bound() {
    for (index p = 0; p < n_bound_; ++p) leave(s_.vanished[p]);
    n_bound_ = 0;
  }

  // Takes an entry that vanished off the face and out of the factor.
  void leave(index entry) {
    index f = 0;
    while (f < r_ && s_.free[f] != entry) ++f;
    if (f == r_ && !replace_base(entry, f)) return;
    delete_row(s_.reduced, r_, stride_, f, s_.cosine, s_.sine);
    remove_free(f);
  }

  // When the eliminated entry of a sample vanishes, the sample's first free entry takes its place; `f` is then the row to delete. In
  // the new coordinates each of the sample's rows loses that first row, which leaves the factor triangular. False when the vanished
  // entry had no row: it was frozen, or its sample has no free entry.
  bool replace_base(index entry, index& f) {
    index i = 0;
    while (i < c_.n_samples && s_.base[i] != entry) ++i;
    if (i == c_.n_samples) return false;
    f = 0;
    while (f < r_ && s_.free_sample[f] != i) ++f;
    if (f == r_) {
      for (index g = 0; g < n_frozen_; ++g) {
        if (s_.frozen_sample[g] != i || x_[s_.frozen[g]] <= 0) continue;
        s_.base[i] = s_.frozen[g];
        remove_frozen(g);
        break;
      }
      return false;
    }
    const double* first = s_.reduced + f * stride_;
    for (index g = f + 1; g < r_; ++g) {
      if (s_.free_sample[g] != i) continue;
      for (index c = 0; c <= f; ++c) s_.reduced[g * stride_ + c] -= first[c];
      s_.slope[g] -= s_.slope[f];
    }
    s_.base[i] = s_.free[f];
    return true;
  }

  // From reduced coordinates to a step over the candidates.
  void expand(const double* reduced) {
    for (index a = 0; a < c_.count(); ++a) s_.step[a] = 0;
    for (index f = 0; f < r_; ++f) {
      s_.step[s_.free[f]] += reduced[f];
      s_.step[s_.base[s_.free_sample[f]]] -= reduced[f];
    }
    if (n_bound_ > 0) keep_bound();
  }

  // Entries kept at zero get exactly that, and what rounding had given them the largest entry of the sample that moves: no sum changes,
  // and the last positive entry of a sample stays.
  void keep_bound() {
    for (index p = 0; p < n_bound_; ++p) s_.step[s_.vanished[p]] = 0;
    for (index i = 0; i < c_.n_samples; ++i) {
      index largest = -1;
      double total = 0;
      for (index a = c_.start[i]; a < c_.start[i + 1]; ++a) {
        if (s_.step[a] == 0) continue;
        total += s_.step[a];
        if (largest < 0 || x_[a] > x_[largest]) largest = a;
      }
      if (largest >= 0) s_.step[largest] -= total;
    }
  }

  void move(double length, index vanishing) {
    for (index a = 0; a < c_.count(); ++a) {
      const double moved = x_[a] + length * s_.step[a];
      x_[a] = moved > 0 && a != vanishing ? moved : 0.0;
      s_.travelled[a] += length * s_.step[a];
    }
  }

  // Brings q up to date: H times all steps at once, as each product costs as much as many steps.
  void settle() {
    apply(s_.travelled, s_.image);
    for (index a = 0; a < c_.count(); ++a) {
      q_[a] += s_.image[a];
      s_.travelled[a] = 0;
    }
  }

  // Of the square of H^-1 a, beside entries kept at zero: below, a depends on them. Far above the rounding of a factor whose pivots reach
  // down to floor_.
  static constexpr double dependent_share = 1e-6;

  index r_ = 0;  // free entries on the face
  index n_frozen_ = 0;
  index n_bound_ = 0;  // entries that vanished while their rows are still in the factor
  double floor_ = 0;  // smallest pivot of an independent row
  double slack_ = 0;  // gap per sample not worth a slide
  index stride_ = 0;  // of the reduced matrix
};

SPARSESVM_END
