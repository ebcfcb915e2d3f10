// One task of a batch as the solver sees it: the samples that are present, their classes and weights, and the two penalties.
#pragma once

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/prox.h"
#include "core/svm/problem.h"

SPARSESVM_BEGIN

template <typename T>
struct Task {
  index n;                // samples with positive weight
  index m, k, group_size, n_groups;
  double lambda1, lambda2;
  Thresholds threshold;   // lambda1 of each group
  double smoothing;       // dual_reg / lambda2
  double total_weight;    // objective at W = 0
  const T** rows;         // (n) feature rows
  index* sample;          // (n) position in the batch's task
  index* label;           // (n)
  double* weight;         // (n)

  static Task take(Arena& arena, const Batch<T>& batch) {
    Task task{};
    task.rows = arena.template take<const T*>(batch.n_samples);
    task.sample = arena.template take<index>(batch.n_samples);
    task.label = arena.template take<index>(batch.n_samples);
    task.weight = arena.template take<double>(batch.n_samples);
    return task;
  }

  void bind(const Batch<T>& batch, index number) {
    n = 0;
    m = batch.n_features;
    k = batch.way(number);
    group_size = batch.group_size;
    n_groups = m / group_size;
    lambda1 = batch.lambda1[number];
    lambda2 = batch.lambda2[number];
    threshold = {lambda1, batch.group_weight};
    if (threshold.group_weight != nullptr) threshold.group_weight += number * batch.group_weight_stride;
    smoothing = batch.dual_reg > 0 ? batch.dual_reg / lambda2 : 0.0;
    total_weight = 0;
    for (index i = 0; i < batch.n_samples; ++i) {
      const double c = batch.sample_weight[number * batch.n_samples + i];
      if (!(c > 0)) continue;
      rows[n] = batch.features + number * batch.task_stride + i * batch.row_stride;
      sample[n] = i;
      label[n] = batch.labels[number * batch.n_samples + i];
      weight[n] = c;
      total_weight += c;
      ++n;
    }
  }
};

template <typename T>
double largest_squared_row(const Task<T>& task) {
  double largest = 0;
  for (index i = 0; i < task.n; ++i) {
    double squared = 0;
    for (index j = 0; j < task.m; ++j) squared += static_cast<double>(task.rows[i][j]) * static_cast<double>(task.rows[i][j]);
    largest = squared > largest ? squared : largest;
  }
  return largest;
}

SPARSESVM_END
