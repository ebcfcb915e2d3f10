// The samples on which the smoothed hinge bends, side by side: those whose probabilities have two or more positive entries.
//
// Per sample the Hessian of the loss with respect to its scores is w_i S_i, w_i = c_i / rho, S_i = diag(s) - s s' / |s| with s the
// support of its probabilities: the centring of its free classes. Samples of equal support stand next to each other, so that what
// depends on the support alone is done once for each.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/basics.h"
#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/class_basis.h"

SPARSESVM_BEGIN

class FreeSamples {
 public:
  FreeSamples(index n, index k, Arena& arena)
      : sample(arena.take<index>(n)), weight(arena.take<double>(n)), mask(arena.take<double>(n * k)), inverse(arena.take<double>(n)),
        run(arena.take<index>(n + 1)), k_(k), key_(arena.take<std::uint64_t>(n)), scratch_(arena.take<double>(2 * k)) {}

  // `probabilities` (n, k), `weights` (n) the c_i.
  void collect(const double* probabilities, const double* weights, index n, double rho) {
    count = coordinates = 0;
    for (index i = 0; i < n; ++i) {
      const double* p = probabilities + i * k_;
      index support = 0;
      std::uint64_t bits = 0;
      for (index l = 0; l < k_; ++l) {
        if (!(p[l] > 0)) continue;
        ++support;
        bits |= std::uint64_t{1} << (l % 64);
      }
      key_[i] = bits;
      if (support < 2) continue;
      sample[count++] = i;
      coordinates += support - 1;
    }
    std::sort(sample, sample + count, [this](index a, index b) { return key_[a] != key_[b] ? key_[a] < key_[b] : a < b; });
    for (index f = 0; f < count; ++f) {
      const double* p = probabilities + sample[f] * k_;
      double support = 0;
      for (index l = 0; l < k_; ++l) {
        mask[l * count + f] = p[l] > 0 ? 1.0 : 0.0;
        support += mask[l * count + f];
      }
      inverse[f] = 1 / support;
      weight[f] = weights[sample[f]] / rho;
    }
    find_runs();
  }

  // image (k - 1, count) = w S z for z (k - 1, count), in the coordinates of the basis.
  void bend(const ClassBasis& basis, const double* z, double* image) const {
    if (k_ == 2) {
      for (index f = 0; f < count; ++f) image[f] = weight[f] * z[f];
      return;
    }
    double* x = scratch_;
    for (index f = 0; f < count; ++f) {
      basis.expand(z + f, x, count);
      centre(f, x);
      basis.reduce(x, image + f, count);
    }
  }

  // S of sample f in the coordinates of the basis: out (k - 1, k - 1).
  void block(const ClassBasis& basis, index f, double* out) const {
    const index q = k_ - 1;
    double *unit = scratch_, *x = scratch_ + k_;
    for (index c = 0; c < q; ++c) {
      for (index e = 0; e < q; ++e) unit[e] = e == c;
      basis.expand(unit, x);
      double total = 0;
      for (index l = 0; l < k_; ++l) total += mask[l * count + f] * x[l];
      for (index l = 0; l < k_; ++l) x[l] = mask[l * count + f] * (x[l] - inverse[f] * total);
      basis.reduce(x, out + c * q);
    }
  }

  // The free classes of free sample f, folded to 64 bits.
  std::uint64_t key(index f) const { return key_[sample[f]]; }

  index count = 0;        // free samples
  index coordinates = 0;  // their free dual entries, one less per sample than classes
  index n_runs = 0;
  index* sample;    // (count) position among the task's samples
  double* weight;   // (count) c_i / rho
  double* mask;     // (k, count) one where the class is free
  double* inverse;  // (count) one over the number of free classes
  index* run;       // (n_runs + 1) first sample of each run of equal supports

 private:
  void centre(index f, double* x) const {
    double total = 0;
    for (index l = 0; l < k_; ++l) total += mask[l * count + f] * x[l];
    const double mean = inverse[f] * total;
    for (index l = 0; l < k_; ++l) x[l] = weight[f] * mask[l * count + f] * (x[l] - mean);
  }

  void find_runs() {
    n_runs = 0;
    for (index f = 0; f < count; ++f) {
      bool same = f > 0;
      for (index l = 0; l < k_ && same; ++l) same = mask[l * count + f] == mask[l * count + f - 1];
      if (!same) run[n_runs++] = f;
    }
    run[n_runs] = count;
  }

  index k_;
  std::uint64_t* key_;
  double* scratch_;  // (2 k)
};

SPARSESVM_END
