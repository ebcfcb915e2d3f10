// Projections and small problems on a scaled simplex {x >= 0, sum x = total}, and block soft-thresholding.
#pragma once

#include "core/basics.h"
#include "core/macros.h"

SPARSESVM_BEGIN

// Factor of block soft-thresholding: BST(v, lambda1) = factor * v for a block of norm r. Safe at r = 0.
SPARSESVM_HD SPARSESVM_INLINE double soft_threshold_factor(double norm, double lambda1) {
  return norm > lambda1 ? (lambda1 > 0 ? 1 - lambda1 / norm : 1.0) : 0.0;
}

// What block soft-thresholding takes from the norm of each group: lambda1 times the weight of the group, or one without weights.
struct Thresholds {
  double lambda1;
  const double* group_weight;  // (groups), or null

  SPARSESVM_HD SPARSESVM_INLINE double weight(index group) const { return group_weight != nullptr ? group_weight[group] : 1.0; }
  SPARSESVM_HD SPARSESVM_INLINE double operator()(index group) const {
    return group_weight != nullptr ? lambda1 * group_weight[group] : lambda1;
  }
};

// One threshold for all columns, to be read like the array of a working set.
template <typename S>
struct SameThreshold {
  S value;
  SPARSESVM_INLINE S operator[](index) const { return value; }
  SPARSESVM_INLINE SameThreshold operator+(index) const { return *this; }
};

// Euclidean projection of x on the simplex of the given total, in place, by discarding entries below the running threshold.
// Entries leave the support for good, so at most k passes are made; entries outside come out as exact zeros. NaN stays NaN: as a
// zero it would leave a row outside the simplex, which no certificate sees.
SPARSESVM_HD inline void project_simplex(double* x, index k, double total) {
  double top = x[0];
  for (index l = 1; l < k; ++l) top = x[l] > top ? x[l] : top;
  // Shifted by the largest entry, the threshold lies in [-total, 0): large inputs lose no digits, and whatever is below -total is out.
  double threshold = -total;
  index kept = -1;
  for (;;) {
    double sum = 0;
    index support = 0;
    for (index l = 0; l < k; ++l) {
      if (x[l] - top > threshold) {
        sum += x[l] - top;
        ++support;
      }
    }
    if (support == 0 || (kept >= 0 && support >= kept)) break;  // ">=": rounding may readmit an entry, for ever
    kept = support;
    threshold = (sum - total) / static_cast<double>(support);
  }
  for (index l = 0; l < k; ++l) {
    const double value = x[l] - top - threshold;
    x[l] = value <= 0 ? 0.0 : value;
  }
}

// Lowers <q, d> + d'Hd / 2 over x + d in the simplex, moving mass between the most violating pair of entries (k x k matrix H, row
// stride `stride`). Updates x and q = gradient at the new point. Exact line search per pair, so every step descends. Ends when no
// violation q_l - min q with x_l > 0 exceeds `tolerance` or a tenth of the largest at the start: the rest of the problem will have
// moved before this block's turn comes again, so more would be wasted. Returns by how much it lowered the model.
inline double descend_simplex(const double* hessian, index stride, double* x, double* q, index k, double tolerance) {
  const index max_steps = 4 * k;
  double gain = 0;
  for (index step = 0; step < max_steps; ++step) {
    index low = 0;
    for (index l = 1; l < k; ++l) low = q[l] < q[low] ? l : low;
    if (step == 0) {
      double worst = 0;
      for (index l = 0; l < k; ++l) worst = x[l] > 0 && q[l] - q[low] > worst ? q[l] - q[low] : worst;
      tolerance = 0.1 * worst > tolerance ? 0.1 * worst : tolerance;
    }
    index high = -1;
    double best = 0, best_shift = 0;
    for (index l = 0; l < k; ++l) {  // second-order choice: the donor whose exact step gains most
      const double slope = q[l] - q[low];
      if (x[l] <= 0 || !(slope > tolerance)) continue;
      const double curvature = hessian[l * stride + l] + hessian[low * stride + low] - 2 * hessian[l * stride + low];
      const double shift = slope < curvature * x[l] ? slope / curvature : x[l];
      const double decrease = shift * (slope - 0.5 * curvature * shift);
      if (decrease > best) {
        best = decrease;
        best_shift = shift;
        high = l;
      }
    }
    if (high < 0) break;
    gain += best;
    x[low] += best_shift;
    x[high] = best_shift < x[high] ? x[high] - best_shift : 0.0;
    for (index l = 0; l < k; ++l) q[l] += best_shift * (hessian[l * stride + low] - hessian[l * stride + high]);
  }
  return gain;
}

SPARSESVM_END
