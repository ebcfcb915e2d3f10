// Coordinates of the free dual entries: sample i has one less than free classes, along an orthonormal basis C_i of the vectors on its free
// classes that sum to zero, so that F' S F = B B' with the columns sqrt(w_i) f_i C_i of B.
//
// Remembers those in which a matrix was factored last. The factor serves as preconditioner in others near to them: an entry of a
// sample whose free classes are what they were has a place in it, any other has none.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/class_basis.h"
#include "core/svm/free_samples.h"

SPARSESVM_BEGIN

class FreeCoordinates {
 public:
  // For at most `largest` coordinates of n samples in k classes.
  FreeCoordinates(index n, index k, index largest, const ClassBasis& basis, const FreeSamples& free, Arena& arena)
      : first(arena.take<index>(n + 1)), sample(arena.take<index>(largest)), row(arena.take<double>(largest * (k - 1))), n_(n), k_(k),
        q_(k - 1), basis_(basis), free_(free), place_(arena.take<index>(largest)), kept_first_(arena.take<index>(n)),
        kept_key_(arena.take<std::uint64_t>(n)), x_(arena.take<double>(k)) {}

  // Of all free samples.
  void list() {
    size = 0;
    for (index i = 0; i < free_.count; ++i) {
      first[i] = size;
      list_sample(i);
    }
    first[free_.count] = size;
  }

  // y (size) = diag(sqrt(w)) C' z for z (k - 1, free samples)
  void gather(const double* z, double* y) const {
    const index f = free_.count;
    for (index a = 0; a < size; ++a) {
      double total = 0;
      for (index c = 0; c < q_; ++c) total += row[a * q_ + c] * z[c * f + sample[a]];
      y[a] = std::sqrt(free_.weight[sample[a]]) * total;
    }
  }

  // z (k - 1, free samples) = C diag(sqrt(w)) y
  void scatter(const double* y, double* z) const {
    const index f = free_.count;
    for (index e = 0; e < q_ * f; ++e) z[e] = 0;
    for (index a = 0; a < size; ++a) {
      const double scaled = std::sqrt(free_.weight[sample[a]]) * y[a];
      for (index c = 0; c < q_; ++c) z[c * f + sample[a]] += scaled * row[a * q_ + c];
    }
  }

  // These are the coordinates of a factor from now on, until `drop_kept`.
  void keep() {
    for (index i = 0; i < n_; ++i) kept_first_[i] = -1;
    for (index i = 0; i < free_.count; ++i) {
      kept_first_[free_.sample[i]] = first[i];
      kept_key_[free_.sample[i]] = free_.key(i);
    }
    kept = size;
  }

  void drop_kept() { kept = 0; }

  // Finds the places in the factor; returns how many coordinates came or went since.
  index match() {
    index found = 0;
    for (index i = 0; i < free_.count; ++i) {
      const index begin = kept_first_[free_.sample[i]];
      const bool same = begin >= 0 && kept_key_[free_.sample[i]] == free_.key(i);
      for (index a = first[i]; a < first[i + 1]; ++a) place_[a] = same ? begin + a - first[i] : -1;
      found += same ? first[i + 1] - first[i] : 0;
    }
    return size + kept - 2 * found;
  }

  // out (size) = E' M^-1 E x with E the places of the entries and M^-1 = solve, in place on `wide` (kept); for the others x / typical.
  // Positive definite whatever came or went.
  template <class Solve>
  void divide(const double* x, double typical, double* wide, const Solve& solve, double* out) const {
    for (index a = 0; a < kept; ++a) wide[a] = 0;
    for (index a = 0; a < size; ++a) {
      if (place_[a] >= 0) wide[place_[a]] = x[a];
    }
    solve(wide);
    for (index a = 0; a < size; ++a) out[a] = place_[a] >= 0 ? wide[place_[a]] : x[a] / typical;
  }

  index size = 0, kept = 0;
  index* first;   // (free samples + 1) first coordinate of each
  index* sample;  // (size) free sample of each
  double* row;    // (size, k - 1) its vector in the coordinates of the basis

 private:
  // The Helmert vectors on the free classes of sample i.
  void list_sample(index i) {
    const index f = free_.count;
    index seen = 0;
    for (index l = 0; l < k_; ++l) {
      if (free_.mask[l * f + i] == 0) continue;
      if (seen > 0) {
        const double s = static_cast<double>(seen), scale = 1 / std::sqrt(s * (s + 1));
        for (index e = 0; e < k_; ++e) x_[e] = e < l ? scale * free_.mask[e * f + i] : 0.0;
        x_[l] = -s * scale;
        basis_.reduce(x_, row + size * q_);
        sample[size++] = i;
      }
      ++seen;
    }
  }

  index n_, k_, q_;
  const ClassBasis& basis_;
  const FreeSamples& free_;
  index *place_, *kept_first_;
  std::uint64_t* kept_key_;  // free classes of each sample, folded to 64 bits: two sets of one key only make a worse preconditioner
  double* x_;
};

SPARSESVM_END
