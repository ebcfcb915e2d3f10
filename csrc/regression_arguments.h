// What the compiled modules share: the arguments of csrc/core/regression/problem.h from addresses, sizes and strides.
#pragma once

#include "binding_arguments.h"
#include "core/regression/problem.h"

namespace sparsesvm::binding {

template <typename T>
RegressionBatch<T> regression_sizes(index n_tasks, index n_samples, index n_features, index n_outputs, index max_active) {
  RegressionBatch<T> batch{};
  batch.n_tasks = n_tasks;
  batch.n_samples = n_samples;
  batch.n_features = n_features;
  batch.n_outputs = n_outputs;
  batch.max_active = max_active;
  return batch;
}

// The arguments that every entry point begins with, in their order.
struct Regression {
  index n_tasks, n_samples, n_features, n_outputs, max_active;
  address features;
  index task_stride, row_stride;
  address targets, lambda1, lambda2;

  template <typename T>
  RegressionBatch<T> batch() const {
    RegressionBatch<T> b = regression_sizes<T>(n_tasks, n_samples, n_features, n_outputs, max_active);
    b.features = at<const T>(features);
    b.task_stride = task_stride;
    b.row_stride = row_stride;
    b.targets = at<const T>(targets);
    b.lambda1 = at<const double>(lambda1);
    b.lambda2 = at<const double>(lambda2);
    return b;
  }
};

#define REGRESSION_PARAMETERS                                                                                              \
  index n_tasks, index n_samples, index n_features, index n_outputs, index max_active, address features, index task_stride, \
      index row_stride, address targets, address lambda1, address lambda2
#define REGRESSION \
  Regression { n_tasks, n_samples, n_features, n_outputs, max_active, features, task_stride, row_stride, targets, lambda1, lambda2 }

template <typename T>
RegressionSolveArguments<T> regression_solve_arguments(const Regression& problem, double tol, index max_iter, address weights,
                                                       address gap, address objective, address n_iter, address status,
                                                       address active) {
  return {problem.batch<T>(),    tol,
          max_iter,              at<T>(weights),
          at<double>(gap),       at<double>(objective),
          at<std::int64_t>(n_iter), at<std::int8_t>(status),
          at<std::uint8_t>(active)};
}

template <typename T>
RegressionVjpArguments<T> regression_vjp_arguments(const Regression& problem, address weights, address grad_weights,
                                                   address grad_features, address grad_targets, address grad_lambda1,
                                                   address grad_lambda2) {
  return {problem.batch<T>(),   at<const T>(weights),     at<const T>(grad_weights), at<T>(grad_features),
          at<T>(grad_targets), at<double>(grad_lambda1), at<double>(grad_lambda2)};
}

}  // namespace sparsesvm::binding
