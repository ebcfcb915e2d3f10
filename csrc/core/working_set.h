// A compact copy of the feature columns that matter now: groups whose norm is near or above lambda1.
//
// Sweeps over samples and the Newton system read these columns many times, so they are gathered once, in double.
#pragma once

#include <cmath>

#include "core/arena.h"
#include "core/macros.h"
#include "core/prox.h"
#include "core/task.h"

SPARSESVM_BEGIN

template <typename T>
struct WorkingSet {
  index n_groups, width;  // groups held, and columns = groups * group_size
  index* group;           // (n_groups)
  double* features;       // (n, width)
  double* v;              // (k, width)
  double* factor;         // (n_groups) soft-threshold factor
  double* norm;           // (n_groups)

  static WorkingSet take(Arena& arena, index n, index m, index k, index groups) {
    WorkingSet s{};
    s.group = arena.take<index>(groups);
    s.features = arena.take<double>(n * m);
    s.v = arena.take<double>(k * m);
    s.factor = arena.take<double>(groups);
    s.norm = arena.take<double>(groups);
    return s;
  }

  // Gathers the groups with norm > share * lambda1.
  void gather(const Task<T>& task, const double* group_norm, double share) {
    n_groups = 0;
    const double threshold = share * task.lambda1;
    for (index b = 0; b < task.n_groups; ++b) {
      if (group_norm[b] > threshold) group[n_groups++] = b;
    }
    const index g = task.group_size;
    width = n_groups * g;
    for (index i = 0; i < task.n; ++i) {
      const T* from = task.rows[i];
      double* to = features + i * width;
      if (g == 1) {
        for (index p = 0; p < n_groups; ++p) to[p] = static_cast<double>(from[group[p]]);
      } else {
        for (index p = 0; p < n_groups; ++p) {
          for (index j = 0; j < g; ++j) to[p * g + j] = static_cast<double>(from[group[p] * g + j]);
        }
      }
    }
  }

  // V on these columns, from the full V.
  void load_v(const Task<T>& task, const double* full) {
    const index g = task.group_size;
    for (index l = 0; l < task.k; ++l) {
      for (index p = 0; p < n_groups; ++p) {
        for (index j = 0; j < g; ++j) v[l * width + p * g + j] = full[l * task.m + group[p] * g + j];
      }
    }
  }

  void update_norms(const Task<T>& task) {
    const index g = task.group_size;
    for (index p = 0; p < n_groups; ++p) {
      double total = 0;
      for (index l = 0; l < task.k; ++l) {
        for (index j = p * g; j < (p + 1) * g; ++j) total += v[l * width + j] * v[l * width + j];
      }
      norm[p] = std::sqrt(total);
      factor[p] = soft_threshold_factor(norm[p], task.lambda1);
    }
  }
};

SPARSESVM_END
