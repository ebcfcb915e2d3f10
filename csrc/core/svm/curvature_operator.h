// The curvature of the dual at the current point as an operator: where there are too many dual entries for a matrix.
//
// H X = F (D (X'F)') / lambda2 + smoothing, with D the derivative of block soft-thresholding on the active groups (docs/method.md, 4
// and 6): two passes over the active columns, held apart in single precision. That is enough for a direction: the line search and the
// certificate see the true dual.
#pragma once

#include "core/macros.h"
#include "core/svm/candidates.h"
#include "core/svm/dual_state.h"
#include "core/svm/task.h"
#include "core/svm/working_set.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class CurvatureOperator {
 public:
  // Overwrites state.w, which is free until the next evaluation, with every product.
  CurvatureOperator(const Task<T>& task, DualState<Passes, T>& state, const WorkingSetMemory& memory, const float** rows)
      : task_(task), state_(state), set_(memory), rows_(rows) {
    set_.gather(task, state.v, state.norm, 1.0);
    for (index i = 0; i < task.n; ++i) rows_[i] = set_.features + i * set_.stride;
  }

  // Too large to factor, whatever the face.
  static bool factor_pays(const Candidates& /*candidates*/, index /*size*/) { return false; }

  // image = H step, both (n, k).
  void apply(const Candidates& /*candidates*/, const double* step, double* image) const {
    const index n = task_.n, k = task_.k, width = set_.width;
    float* x = reinterpret_cast<float*>(state_.w);  // (k, width): rows without padding, which would not fit where m is small
    Passes::combine_rows(rows_, n, step, k, width, x, width);
    bend(x);
    for (index e = 0; e < n * k; ++e) image[e] = 0;
    Passes::add_all_products(rows_, n, x, width, k, width, 1 / (task_.lambda2 * set_.scale * set_.scale), image);
    for (index i = 0; i < n; ++i) {
      for (index l = 0; l < k; ++l) image[i * k + l] += task_.smoothing / task_.weight[i] * step[i * k + l];
    }
  }

 private:
  // x = D x for x (k, width), group by group.
  void bend(float* x) const {
    if (task_.lambda1 == 0) return;
    const index k = task_.k, g = task_.group_size, width = set_.width, stride = set_.stride;
    float *along = reinterpret_cast<float*>(state_.column), *keep = along + set_.n_groups;
    for (index p = 0; p < set_.n_groups; ++p) along[p] = 0;
    for (index l = 0; l < k; ++l) {
      const float *v = set_.v + l * stride, *row = x + l * width;
      for (index p = 0; p < set_.n_groups; ++p) {
        for (index j = p * g; j < (p + 1) * g; ++j) along[p] += v[j] * row[j];
      }
    }
    for (index p = 0; p < set_.n_groups; ++p) {
      const double norm = state_.norm[set_.group[p]], t = task_.threshold(set_.group[p]) / norm, scaled = norm * set_.scale;
      keep[p] = static_cast<float>(1 - t);
      along[p] *= static_cast<float>(t / (scaled * scaled));
    }
    for (index l = 0; l < k; ++l) {
      const float* v = set_.v + l * stride;
      float* row = x + l * width;
      for (index p = 0; p < set_.n_groups; ++p) {
        for (index j = p * g; j < (p + 1) * g; ++j) row[j] = keep[p] * row[j] + along[p] * v[j];
      }
    }
  }

  const Task<T>& task_;
  DualState<Passes, T>& state_;
  WorkingSet<float> set_;
  const float** rows_;  // (n) of the active columns
};

SPARSESVM_END
