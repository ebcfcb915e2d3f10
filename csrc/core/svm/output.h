// What both solvers write besides the weights.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/svm/objective.h"
#include "core/svm/problem.h"

SPARSESVM_BEGIN

// Samples of weight zero take the probabilities they would have if their weight grew. Their features may be anything. `weights` (k, m)
// are those of task `number`, `scratch` (2 k).
template <class Passes, typename T>
void write_absent(const Batch<T>& batch, index number, double smoothing, const double* weights, double* scratch, T* dual) {
  const index k = batch.n_way, m = batch.n_features;
  double *scores = scratch, *best = scratch + k;
  for (index i = 0; i < batch.n_samples; ++i) {
    if (batch.sample_weight[number * batch.n_samples + i] > 0) continue;
    const T* row = batch.features + number * batch.task_stride + i * batch.row_stride;
    const index label = batch.labels[number * batch.n_samples + i];
    for (index l = 0; l < k; ++l) scores[l] = 0;
    Passes::add_products(&row, 1, weights, m, k, m, 1.0, scores, k);
    for (index l = 0; l < k; ++l) {
      if (!(std::fabs(scores[l]) <= 1e300)) scores[l] = 0;
    }
    best_response(scores, label, k, smoothing, best);
    for (index l = 0; l < k; ++l) dual[i * k + l] = static_cast<T>(best[l]);
  }
}

SPARSESVM_END
