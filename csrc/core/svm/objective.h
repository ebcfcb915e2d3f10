// Primal objective and duality gap of one task, written so that nothing large is subtracted from anything large.
//
// With scores S = F W' and dual gradient g = Y - S, and W given by the link, the gap is sum_i <A_i, g_i - min g_i> where A_i = c_i
// Lambda_i: a sum of non-negative terms (docs/method.md, 2).
#pragma once

#include "core/macros.h"
#include "core/prox.h"
#include "core/svm/problem.h"

SPARSESVM_BEGIN

struct SampleValue {
  double loss;  // hinge loss of the sample, per unit of weight
  double gap;   // its share of the duality gap, per unit of weight
};

// The smallest dual gradient of a class, the worst violation.
SPARSESVM_HD inline double smallest_gradient(const double* scores, index label, index k) {
  double low = (label == 0) - scores[0];
  for (index l = 1; l < k; ++l) {
    const double g = (label == l) - scores[l];
    low = g < low ? g : low;
  }
  return low;
}

// The probability vector that maximises a sample's term of the dual at the given scores: the vertex of the worst violation, or with
// smoothing (dual_reg / lambda2) a projection. The sample's own class wins ties.
SPARSESVM_HD inline void best_response(const double* scores, index label, index k, double smoothing, double* out) {
  const double low = smallest_gradient(scores, label, k);
  if (smoothing == 0) {
    index worst = label;
    for (index l = 0; l < k && 1 - scores[label] > low; ++l) worst = (label == l) - scores[l] == low ? l : worst;
    for (index l = 0; l < k; ++l) out[l] = l == worst;
    return;
  }
  // From the smallest, which changes no projection: a quotient that leaves the range of numbers is then that of a class without share.
  for (index l = 0; l < k; ++l) out[l] = (label == l) - ((label == l) - scores[l] - low) / smoothing;
  project_simplex(out, k, 1.0);
}

// `scores` (k), `dual` (k): the probability vector of the sample; `scratch` (k). `smoothing` = dual_reg / lambda2.
SPARSESVM_HD inline SampleValue sample_value(const double* scores, const double* dual, index label, index k, double smoothing,
                                            double* scratch) {
  if (smoothing == 0) {
    const double low = smallest_gradient(scores, label, k);
    double gap = 0;
    for (index l = 0; l < k; ++l) gap += dual[l] * ((label == l) - scores[l] - low);
    return {1 - scores[label] - low, gap};
  }
  // Smoothed hinge: the inner maximum over the simplex is attained at a projection.
  double* best = scratch;
  best_response(scores, label, k, smoothing, best);
  double value = 0, gap = 0;
  for (index l = 0; l < k; ++l) {
    const double y = label == l, g = y - scores[l];
    value -= g * best[l] + 0.5 * smoothing * (best[l] - y) * (best[l] - y);
    gap += (dual[l] - best[l]) * (g + 0.5 * smoothing * (dual[l] + best[l] - 2 * y));
  }
  return {value + 1 - scores[label], gap > 0 ? gap : 0.0};
}

SPARSESVM_END
