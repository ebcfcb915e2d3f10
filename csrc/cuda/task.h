// One task of a batch as a team sees it. Every block holds a copy; the lists lie in the team's workspace.
#pragma once

#include "core/linear_algebra/arena.h"
#include "core/prox.h"
#include "core/svm/problem.h"
#include "cuda/team.h"

SPARSESVM_BEGIN
namespace gpu {

// Rows of features: row i of the task is at `base + sample[i] * stride`.
template <typename T>
struct Rows {
  const T* base;
  index stride;
  const int* sample;
  SPARSESVM_HD const T* operator[](int i) const { return base + sample[i] * stride; }
};

template <typename T>
struct Task {
  int n, n_samples, m, k, g, n_groups;  // n: samples with positive weight; g: features per group
  int chunk_groups, n_chunks;           // features are summed over in chunks, whose sums are added in order
  double lambda1, lambda2;
  Thresholds threshold;  // lambda1 of each group
  int n_way;             // of the batch, for which weights and duals lie in memory; the task has the first k
  double smoothing;     // dual_reg / lambda2, zero without lambda2
  double total_weight;  // objective at W = 0; NaN where labels, weights or penalties are out of range
  Rows<T> rows;         // present samples first, then the absent ones
  int* sample;          // (n_samples) position in the batch's task
  int* label;           // (n_samples)
  double* weight;       // (n_samples)
  char* flag;           // (n_samples) scratch
  int* counts;          // (max_threads) scratch

  static constexpr int chunk_columns = 256;

  SPARSESVM_HD void set_sizes(const Batch<T>& batch) {
    n_samples = static_cast<int>(batch.n_samples);
    m = static_cast<int>(batch.n_features);
    k = static_cast<int>(batch.n_way);
    g = static_cast<int>(batch.group_size);
    n_groups = m / g;
    chunk_groups = chunk_columns > g ? chunk_columns / g : 1;
    n_chunks = (n_groups + chunk_groups - 1) / chunk_groups;
  }

  SPARSESVM_HD void take(Arena& arena) {
    sample = arena.take<int>(n_samples);
    label = arena.take<int>(n_samples);
    weight = arena.take<double>(n_samples);
    flag = arena.take<char>(n_samples);
    counts = arena.take<int>(max_threads);
  }

  // The groups and columns of chunk c, and those of a block.
  SPARSESVM_HD Range groups_of_chunks(Range chunks) const {
    const int end = chunks.end * chunk_groups;
    return {chunks.begin * chunk_groups, end < n_groups ? end : n_groups};
  }
  template <class Team>
  SPARSESVM_HD Range own_chunks(Team team) const {
    return share(n_chunks, team.part(), team.parts());
  }
  template <class Team>
  SPARSESVM_HD Range own_groups(Team team) const {
    return groups_of_chunks(own_chunks(team));
  }
  SPARSESVM_HD Range columns(Range groups) const { return {groups.begin * g, groups.end * g}; }

  SPARSESVM_HD double one_hot(int i, int l) const { return label[i] == l ? 1.0 : 0.0; }
};

// Reads task `number`. Call with sizes set and lists taken; `task` is this block's copy.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void bind(Team team, Task<T>& task, const Batch<T>& batch, index number) {
  const int all = task.n_samples;
  const double* given = batch.sample_weight + number * all;
  const std::int64_t* labels = batch.labels + number * all;
  team.sync_team();  // the last task is done with
  if (team.part() == 0) {
    for (int i = team.rank(); i < all; i += team.size()) task.flag[i] = given[i] > 0;
    team.sync();
    const int present = list_flagged(team, task.flag, 1, all, task.sample, task.counts);
    list_flagged(team, task.flag, 0, all, task.sample + present, task.counts);
    for (int i = team.rank(); i < all; i += team.size()) {
      const std::int64_t y = labels[task.sample[i]];
      task.label[i] = y >= 0 && y < task.k ? static_cast<int>(y) : 0;
      task.weight[i] = given[task.sample[i]];
    }
  }
  double total = 0, count = 0, bad = 0;
  for (int i = team.rank(); i < all; i += team.size()) {
    const double c = given[i];
    total += c > 0 ? c : 0.0;
    count += c > 0 ? 1 : 0;
    const bool fine = c >= 0 && c <= 1e300 && labels[i] >= 0 && labels[i] < task.k;
    bad += fine ? 0 : 1;
  }
  const double* group_weight = batch.group_weight;
  if (group_weight != nullptr) group_weight += number * batch.group_weight_stride;
  for (int b = team.rank(); b < task.n_groups && group_weight != nullptr; b += team.size()) {
    bad += group_weight[b] > 0 && group_weight[b] <= 1e300 ? 0 : 1;
  }
  total = team.sum(total);
  count = team.sum(count);
  bad = team.sum(bad);
  const double lambda1 = batch.lambda1[number], lambda2 = batch.lambda2[number];
  const bool fine = !(bad > 0) && lambda1 >= 0 && lambda1 <= 1e300 && lambda2 >= 0 && lambda2 <= 1e300 &&
                    (lambda2 > 0 || (lambda1 > 0 && !(batch.dual_reg > 0)));
  if (team.rank() == 0) {
    task.n = static_cast<int>(count);
    task.n_way = static_cast<int>(batch.n_way);
    task.lambda1 = lambda1;
    task.threshold = {lambda1, group_weight};
    task.lambda2 = lambda2;
    task.smoothing = batch.dual_reg > 0 ? batch.dual_reg / lambda2 : 0.0;
    task.total_weight = fine ? total : __builtin_nan("");
    task.rows = {batch.features + number * batch.task_stride, batch.row_stride, task.sample};
  }
  team.sync();
  team.sync_team();
}

}  // namespace gpu
SPARSESVM_END
