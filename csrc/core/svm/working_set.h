// A compact copy of the feature columns that matter now: groups whose norm is near or above their threshold. Sweeps over samples read these
// columns many times.
//
// Features and V are held in units in which the largest norm is one, so that single precision serves any units of the features.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

// Memory for a working set of either precision.
struct WorkingSetMemory {
  index* group;      // (groups)
  double* features;  // (n, padded m)
  double* v;         // (k, padded m)
  double* threshold; // (padded groups)

  static constexpr index lanes = 16;  // rows are padded with zeros to whole vectors
  static index padded(index width) { return (width + lanes - 1) / lanes * lanes; }

  static WorkingSetMemory take(Arena& arena, index n, index m, index k, index groups) {
    return {arena.take<index>(groups), arena.take<double>(n * padded(m)), arena.take<double>(k * padded(m)),
            arena.take<double>(padded(groups))};
  }
};

template <typename S>
struct WorkingSet {
  index n_groups = 0, width = 0, stride = 0;  // groups held; columns = groups * group_size; columns with padding
  index* group;                               // (n_groups)
  S* features;                                // (n, stride)
  S* v;                                       // (k, stride)
  S* threshold;                               // (n_groups) of V here, and zeros as padding
  double scale = 1;                           // of features and V here, over those of the task
  double largest_row_sum = 0;                 // of absolute feature values, in these units

  explicit WorkingSet(const WorkingSetMemory& memory)
      : group(memory.group), features(reinterpret_cast<S*>(memory.features)), v(reinterpret_cast<S*>(memory.v)),
        threshold(reinterpret_cast<S*>(memory.threshold)) {}

  // Copies the groups with norm > share * threshold.
  template <typename T>
  void gather(const Task<T>& task, const double* full_v, const double* group_norm, double share) {
    const index g = task.group_size;
    const Thresholds thresholds = task.threshold;
    double largest = 0;
    n_groups = 0;
    for (index b = 0; b < task.n_groups; ++b) {
      if (!(group_norm[b] > share * thresholds(b))) continue;
      group[n_groups++] = b;
      const double own = group_norm[b] > thresholds(b) ? group_norm[b] : thresholds(b);
      largest = own > largest ? own : largest;
    }
    width = n_groups * g;
    stride = WorkingSetMemory::padded(width);
    scale = 1 / (largest > 0 ? largest : task.lambda1);
    for (index p = 0; p < n_groups; ++p) threshold[p] = static_cast<S>(scale * thresholds(group[p]));
    for (index p = n_groups; p < WorkingSetMemory::padded(n_groups); ++p) threshold[p] = 0;
    largest_row_sum = 0;
    for (index i = 0; i < task.n; ++i) {
      const double total = copy_row(task.rows[i], g, features + i * stride);
      largest_row_sum = total > largest_row_sum ? total : largest_row_sum;
    }
    for (index l = 0; l < task.k; ++l) copy_row(full_v + l * task.m, g, v + l * stride);
  }

 private:
  // Returns the sum of absolute values.
  template <typename From>
  double copy_row(const From* from, index g, S* to) const {
    if (g == 1) {
      for (index p = 0; p < n_groups; ++p) to[p] = static_cast<S>(scale * static_cast<double>(from[group[p]]));
    } else {
      for (index p = 0; p < n_groups; ++p) {
        for (index j = 0; j < g; ++j) to[p * g + j] = static_cast<S>(scale * static_cast<double>(from[group[p] * g + j]));
      }
    }
    for (index j = width; j < stride; ++j) to[j] = 0;
    S total = 0;
#pragma omp simd reduction(+ : total)
    for (index j = 0; j < width; ++j) total += std::fabs(to[j]);
    return static_cast<double>(total);
  }
};

SPARSESVM_END
