// The problem of one batch of tasks, as plain data: addresses, sizes and strides, shared by every instruction set.
#pragma once

#include <cstdint>

#include "core/basics.h"
#include "core/macros.h"

namespace sparsesvm {

// What every entry point needs: one support set per task. Strides count elements; the last axis is contiguous.
template <typename T>
struct Batch {
  index n_tasks, n_samples, n_features, n_way, group_size;
  const T* features;  // (n_tasks, n_samples, n_features), or with `sparse` the entries of one task's compressed sparse rows
  index task_stride, row_stride;
  const std::int64_t* labels;   // (n_tasks, n_samples)
  const double* sample_weight;  // (n_tasks, n_samples), 0 = absent sample
  const double* lambda1;        // (n_tasks,), weighed against the sum of hinge losses
  const double* lambda2;        // (n_tasks,), >= 0; > 0 where lambda1 = 0 or dual_reg > 0
  double dual_reg;              // r >= 0: adds r / (2 lambda2) ||Y - Lambda||^2 to the dual
  bool sparse = false;
  index n_entries = 0;                      // of the sparse rows
  const std::int64_t* row_start = nullptr;  // (n_samples + 1) first entry of each row, and their number
  const std::int64_t* column = nullptr;     // (n_entries) increasing within a row
  const double* group_weight = nullptr;     // (n_tasks, groups) positive factors of lambda1; null for ones
  index group_weight_stride = 0;            // from task to task
  const std::int64_t* task_way = nullptr;   // (n_tasks,) classes of each task, the first of n_way; null for all of them

  SPARSESVM_HD index way(index number) const { return task_way != nullptr ? static_cast<index>(task_way[number]) : n_way; }
};

template <typename T>
struct SolveArguments {
  Batch<T> batch;
  double tol;              // converged when gap <= tol * sum of sample weights
  index max_iter;          // outer iterations
  bool identify;           // go on until the active sets are known, as a derivative needs it
  const double* init_dual; // (n_tasks, n_samples, n_way) or null
  const T* init_weights;   // (n_tasks, n_way, n_features) or null, of a neighbouring problem; only the proximal method starts there
  T* weights;              // out (n_tasks, n_way, n_features)
  T* dual;                 // out (n_tasks, n_samples, n_way), rows are probability vectors
  double* gap;             // out (n_tasks,)
  double* objective;       // out (n_tasks,)
  std::int64_t* n_iter;    // out (n_tasks,)
  std::int8_t* status;     // out (n_tasks,)
  std::uint8_t* active;    // out (n_tasks, n_features / group_size)
};

// How a solve ended of which a solution of this gap is written. That may be better than the last iterate, no weights for instance.
template <typename T, class Task>
SPARSESVM_HD Status status_of_written(const SolveArguments<T>& arguments, const Task& task, double gap, Status end) {
  const bool unfinished = end == Status::max_iter || end == Status::stalled;
  if (!unfinished || !(gap <= arguments.tol * task.total_weight)) return end;
  return arguments.identify && task.lambda2 > 0 ? Status::not_identified : Status::converged;
}

// The solution at which the derivatives are taken.
template <typename T>
struct SolutionView {
  const T* weights;  // (n_tasks, n_way, n_features)
  const T* dual;     // (n_tasks, n_samples, n_way)
};

template <typename T>
struct VjpArguments {
  Batch<T> batch;
  SolutionView<T> solution;
  const T* grad_weights;       // (n_tasks, n_way, n_features)
  T* grad_features;            // out (n_tasks, n_samples, n_features)
  double* grad_lambda1;        // out (n_tasks,)
  double* grad_lambda2;        // out (n_tasks,)
  double* grad_sample_weight;  // out (n_tasks, n_samples)
};

template <typename T>
struct JvpArguments {
  Batch<T> batch;
  SolutionView<T> solution;
  const T* tangent_features;            // (n_tasks, n_samples, n_features)
  const double* tangent_lambda1;        // (n_tasks,)
  const double* tangent_lambda2;        // (n_tasks,)
  const double* tangent_sample_weight;  // (n_tasks, n_samples)
  T* tangent_weights;                   // out (n_tasks, n_way, n_features)
};

// The sizes of one task, for which memory is laid out. What it reads and writes lies as in the batch, for its own classes.
template <typename T>
SPARSESVM_HD Batch<T> sizes_of_task(const Batch<T>& batch, index number) {
  Batch<T> own = batch;
  own.n_way = batch.way(number);
  return own;
}

// Zeros in the weights and the dual of the classes that task `number` lacks, written by member `rank` of `size`.
template <typename T>
SPARSESVM_HD void fill_absent_classes(const Batch<T>& b, index number, T* weights, T* dual, index rank, index size) {
  const index k = b.n_way, m = b.n_features, own = b.way(number);
  if (own == k) return;
  for (index e = own * m + rank; e < k * m; e += size) weights[number * k * m + e] = 0;
  if (dual == nullptr) return;
  for (index e = rank; e < b.n_samples * k; e += size) {
    if (e % k >= own) dual[number * b.n_samples * k + e] = 0;
  }
}

}  // namespace sparsesvm
