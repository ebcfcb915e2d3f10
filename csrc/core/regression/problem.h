// A batch of sparse regressions as plain data: addresses, sizes and strides, shared by every instruction set.
#pragma once

#include "core/basics.h"


namespace sparsesvm {

// minimise over W (n_outputs x n_features):
//   1 / (2 n) ||Y - F W'||^2 + lambda1 sum_j ||W_:j|| + lambda2 / 2 ||W||^2
template <typename T>
struct RegressionBatch {
  index n_tasks, n_samples, n_features, n_outputs;
  index max_active;   // features in use up to which the derivative keeps a matrix; with more it iterates
  const T* features;  // (n_tasks, n_samples, n_features), strides in elements, last axis contiguous
  index task_stride, row_stride;
  const T* targets;       // (n_tasks, n_samples, n_outputs)
  const double* lambda1;  // (n_tasks,), >= 0
  const double* lambda2;  // (n_tasks,), >= 0, positive where lambda1 is zero
};

template <typename T>
struct RegressionSolveArguments {
  RegressionBatch<T> batch;
  double tol;            // converged when gap <= tol * ||Y||^2 / (2 n), the objective at W = 0
  index max_iter;        // working sets
  T* weights;            // out (n_tasks, n_outputs, n_features)
  double* gap;           // out (n_tasks,)
  double* objective;     // out (n_tasks,)
  std::int64_t* n_iter;  // out (n_tasks,)
  std::int8_t* status;   // out (n_tasks,)
  std::uint8_t* active;  // out (n_tasks, n_features)
};

template <typename T>
struct RegressionVjpArguments {
  RegressionBatch<T> batch;
  const T* weights;       // (n_tasks, n_outputs, n_features), the solution
  const T* grad_weights;  // (n_tasks, n_outputs, n_features)
  T* grad_features;       // out (n_tasks, n_samples, n_features)
  T* grad_targets;        // out (n_tasks, n_samples, n_outputs)
  double* grad_lambda1;   // out (n_tasks,)
  double* grad_lambda2;   // out (n_tasks,)
};

}  // namespace sparsesvm
