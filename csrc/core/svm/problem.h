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
  index dual_width = 0;                     // of the rows of duals in memory; 0 for n_way

  SPARSESVM_HD index dual_row() const { return dual_width > 0 ? dual_width : n_way; }
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

// The same for one task of a batch whose tasks differ in the number of classes: what it reads and writes for its own classes lies where
// it lay, and those it lacks are left to `fill_absent_classes`.
template <typename T>
SPARSESVM_HD Batch<T> of_task(const Batch<T>& batch, index number) {
  Batch<T> one = batch;
  one.n_tasks = 1;
  one.n_way = static_cast<index>(batch.task_way[number]);
  one.task_way = nullptr;
  one.dual_width = batch.n_way;
  one.features += number * batch.task_stride;
  one.labels += number * batch.n_samples;
  one.sample_weight += number * batch.n_samples;
  one.lambda1 += number;
  one.lambda2 += number;
  if (batch.group_weight != nullptr) one.group_weight += number * batch.group_weight_stride;
  return one;
}

template <typename T>
SPARSESVM_HD SolveArguments<T> of_task(const SolveArguments<T>& all, index number) {
  const Batch<T>& b = all.batch;
  const index dual = number * b.n_samples * b.n_way, weights = number * b.n_way * b.n_features;
  return {of_task(b, number),
          all.tol,
          all.max_iter,
          all.identify,
          all.init_dual != nullptr ? all.init_dual + dual : nullptr,
          all.init_weights != nullptr ? all.init_weights + weights : nullptr,
          all.weights + weights,
          all.dual + dual,
          all.gap + number,
          all.objective + number,
          all.n_iter + number,
          all.status + number,
          all.active + number * (b.n_features / b.group_size)};
}

template <typename T>
SPARSESVM_HD SolutionView<T> of_task(const Batch<T>& b, const SolutionView<T>& all, index number) {
  return {all.weights + number * b.n_way * b.n_features, all.dual + number * b.n_samples * b.n_way};
}

template <typename T>
SPARSESVM_HD VjpArguments<T> of_task(const VjpArguments<T>& all, index number) {
  const Batch<T>& b = all.batch;
  return {of_task(b, number),
          of_task(b, all.solution, number),
          all.grad_weights + number * b.n_way * b.n_features,
          all.grad_features + number * b.n_samples * b.n_features,
          all.grad_lambda1 + number,
          all.grad_lambda2 + number,
          all.grad_sample_weight + number * b.n_samples};
}

template <typename T>
SPARSESVM_HD JvpArguments<T> of_task(const JvpArguments<T>& all, index number) {
  const Batch<T>& b = all.batch;
  return {of_task(b, number),
          of_task(b, all.solution, number),
          all.tangent_features + number * b.n_samples * b.n_features,
          all.tangent_lambda1 + number,
          all.tangent_lambda2 + number,
          all.tangent_sample_weight + number * b.n_samples,
          all.tangent_weights + number * b.n_way * b.n_features};
}

// Zeros in the weights and the dual of the classes that task `number` lacks, written by member `rank` of `size`.
template <typename T>
SPARSESVM_HD void fill_absent_classes(const Batch<T>& b, index number, T* weights, T* dual, index rank, index size) {
  const index k = b.n_way, m = b.n_features, own = static_cast<index>(b.task_way[number]);
  for (index e = own * m + rank; e < k * m; e += size) weights[number * k * m + e] = 0;
  if (dual == nullptr) return;
  for (index e = rank; e < b.n_samples * k; e += size) {
    if (e % k >= own) dual[number * b.n_samples * k + e] = 0;
  }
}

}  // namespace sparsesvm
