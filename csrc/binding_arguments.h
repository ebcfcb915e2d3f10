// What the compiled modules share: the arguments of csrc/core/svm/problem.h from addresses, sizes and strides.
#pragma once

#include <cstdint>

#include "core/svm/problem.h"

namespace sparsesvm::binding {

using address = std::uintptr_t;

template <typename T>
T* at(address where) {
  return reinterpret_cast<T*>(where);
}

template <typename T>
Batch<T> sizes(index n_tasks, index n_samples, index n_features, index n_way, index group_size) {
  Batch<T> batch{};
  batch.n_tasks = n_tasks;
  batch.n_samples = n_samples;
  batch.n_features = n_features;
  batch.n_way = n_way;
  batch.group_size = group_size;
  return batch;
}

// The arguments that every entry point begins with, in their order.
struct Problem {
  index n_tasks, n_samples, n_features, n_way, group_size;
  address features;
  index task_stride, row_stride;
  address labels, sample_weight, lambda1, lambda2, group_weight;
  index group_weight_stride;
  address task_way;
  double dual_reg;

  template <typename T>
  Batch<T> batch() const {
    Batch<T> b = sizes<T>(n_tasks, n_samples, n_features, n_way, group_size);
    b.features = at<const T>(features);
    b.task_stride = task_stride;
    b.row_stride = row_stride;
    b.labels = at<const std::int64_t>(labels);
    b.sample_weight = at<const double>(sample_weight);
    b.lambda1 = at<const double>(lambda1);
    b.lambda2 = at<const double>(lambda2);
    b.group_weight = at<const double>(group_weight);
    b.group_weight_stride = group_weight_stride;
    b.task_way = at<const std::int64_t>(task_way);
    b.dual_reg = dual_reg;
    return b;
  }
};

#define PROBLEM_PARAMETERS                                                                                              \
  index n_tasks, index n_samples, index n_features, index n_way, index group_size, address features, index task_stride, \
      index row_stride, address labels, address sample_weight, address lambda1, address lambda2, address group_weight,  \
      index group_weight_stride, address task_way, double dual_reg
#define PROBLEM                                                                                                                    \
  Problem {                                                                                                                        \
    n_tasks, n_samples, n_features, n_way, group_size, features, task_stride, row_stride, labels, sample_weight, lambda1, lambda2, \
        group_weight, group_weight_stride, task_way, dual_reg                                                                      \
  }

template <typename T>
SolveArguments<T> solve_arguments(const Problem& problem, double tol, index max_iter, bool identify, address init_dual, address init_weights,
                                  address weights, address dual, address gap, address objective, address n_iter, address status, address active) {
  return {problem.batch<T>(),
          tol,
          max_iter,
          identify,
          at<const double>(init_dual),
          at<const T>(init_weights),
          at<T>(weights),
          at<T>(dual),
          at<double>(gap),
          at<double>(objective),
          at<std::int64_t>(n_iter),
          at<std::int8_t>(status),
          at<std::uint8_t>(active)};
}

template <typename T>
VjpArguments<T> vjp_arguments(const Problem& problem, address weights, address dual, address grad_weights, address grad_features,
                              address grad_lambda1, address grad_lambda2, address grad_sample_weight) {
  return {problem.batch<T>(),
          {at<const T>(weights), at<const T>(dual)},
          at<const T>(grad_weights),
          at<T>(grad_features),
          at<double>(grad_lambda1),
          at<double>(grad_lambda2),
          at<double>(grad_sample_weight)};
}

template <typename T>
JvpArguments<T> jvp_arguments(const Problem& problem, address weights, address dual, address tangent_features,
                              address tangent_lambda1, address tangent_lambda2, address tangent_sample_weight,
                              address tangent_weights) {
  return {problem.batch<T>(),
          {at<const T>(weights), at<const T>(dual)},
          at<const T>(tangent_features),
          at<const double>(tangent_lambda1),
          at<const double>(tangent_lambda2),
          at<const double>(tangent_sample_weight),
          at<T>(tangent_weights)};
}

}  // namespace sparsesvm::binding
