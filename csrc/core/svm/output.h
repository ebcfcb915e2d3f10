// What both solvers write besides the weights.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/svm/objective.h"
#include "core/svm/problem.h"

SPARSESVM_BEGIN

// Samples of weight zero take the probabilities they would have if their weight grew. Their features may be anything. `score_of(i, out)`
// gives the k scores of sample i of task `number`; `scratch` (2 k).
template <typename T, class ScoreOf>
void write_absent(const Batch<T>& batch, index number, double smoothing, double* scratch, T* dual, const ScoreOf& score_of) {
  const index k = batch.way(number);
  double *scores = scratch, *best = scratch + k;
  for (index i = 0; i < batch.n_samples; ++i) {
    if (batch.sample_weight[number * batch.n_samples + i] > 0) continue;
    const index label = batch.labels[number * batch.n_samples + i];
    score_of(i, scores);
    for (index l = 0; l < k; ++l) {
      if (!(std::fabs(scores[l]) <= 1e300)) scores[l] = 0;
    }
    best_response(scores, label, k, smoothing, best);
    for (index l = 0; l < k; ++l) dual[i * batch.n_way + l] = static_cast<T>(best[l]);
  }
}

SPARSESVM_END
