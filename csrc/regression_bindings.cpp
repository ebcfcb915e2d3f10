// Sparse regression in the module `sparsesvm._core`: addresses, sizes and strides in.
#include "regression_bindings.h"

#include <cstdint>

#include "cpu/regression_driver.h"

namespace py = pybind11;

namespace {

using sparsesvm::index;
using sparsesvm::RegressionBatch;
using sparsesvm::RegressionSolveArguments;
using sparsesvm::RegressionVjpArguments;
using address = std::uintptr_t;

template <typename T>
T* at(address where) {
  return reinterpret_cast<T*>(where);
}

// The arguments that every entry point begins with, in their order.
struct Problem {
  index n_tasks, n_samples, n_features, n_outputs;
  address features;
  index task_stride, row_stride;
  address targets, lambda1, lambda2;
  index max_active;

  template <typename T>
  RegressionBatch<T> batch() const {
    return {n_tasks,     n_samples,  n_features,           n_outputs,                at<const T>(features),    task_stride,
            row_stride, at<const T>(targets), at<const double>(lambda1), at<const double>(lambda2), max_active};
  }
};

#define PROBLEM_PARAMETERS                                                                                             \
  index n_tasks, index n_samples, index n_features, index n_outputs, address features, index task_stride,            \
      index row_stride, address targets, address lambda1, address lambda2, index max_active
#define PROBLEM \
  Problem { n_tasks, n_samples, n_features, n_outputs, features, task_stride, row_stride, targets, lambda1, lambda2, max_active }

template <typename T>
void solve_typed(const Problem& problem, double tol, index max_iter, address weights, address gap, address objective, address n_iter,
                 address status, address active, address workspace, index bytes, int n_threads) {
  const RegressionSolveArguments<T> arguments{problem.batch<T>(),       tol,
                                              max_iter,                 at<T>(weights),
                                              at<double>(gap),          at<double>(objective),
                                              at<std::int64_t>(n_iter), at<std::int8_t>(status),
                                              at<std::uint8_t>(active)};
  sparsesvm::cpu::solve(arguments, at<void>(workspace), bytes, n_threads);
}

void solve(bool is_double, PROBLEM_PARAMETERS, double tol, index max_iter, address weights, address gap, address objective,
           address n_iter, address status, address active, address workspace, index workspace_bytes, int n_threads) {
  (is_double ? solve_typed<double> : solve_typed<float>)(PROBLEM, tol, max_iter, weights, gap, objective, n_iter, status, active,
                                                         workspace, workspace_bytes, n_threads);
}

template <typename T>
void vjp_typed(const Problem& problem, address weights, address grad_weights, address grad_features, address grad_targets,
               address grad_lambda1, address grad_lambda2, address workspace, index bytes, int n_threads) {
  const RegressionVjpArguments<T> arguments{problem.batch<T>(),       at<const T>(weights), at<const T>(grad_weights),
                                            at<T>(grad_features),     at<T>(grad_targets),  at<double>(grad_lambda1),
                                            at<double>(grad_lambda2)};
  sparsesvm::cpu::vjp(arguments, at<void>(workspace), bytes, n_threads);
}

void vjp(bool is_double, PROBLEM_PARAMETERS, address weights, address grad_weights, address grad_features, address grad_targets,
         address grad_lambda1, address grad_lambda2, address workspace, index workspace_bytes, int n_threads) {
  (is_double ? vjp_typed<double> : vjp_typed<float>)(PROBLEM, weights, grad_weights, grad_features, grad_targets, grad_lambda1,
                                                     grad_lambda2, workspace, workspace_bytes, n_threads);
}

template <typename T>
RegressionBatch<T> sizes(index n_tasks, index n_samples, index n_features, index n_outputs, index max_active) {
  RegressionBatch<T> batch{};
  batch.n_tasks = n_tasks;
  batch.n_samples = n_samples;
  batch.n_features = n_features;
  batch.n_outputs = n_outputs;
  batch.max_active = max_active;
  return batch;
}

index solve_workspace(bool is_double, index n_tasks, index n_samples, index n_features, index n_outputs, int n_threads) {
  return is_double ? sparsesvm::cpu::solve_workspace(sizes<double>(n_tasks, n_samples, n_features, n_outputs, n_features), n_threads)
                   : sparsesvm::cpu::solve_workspace(sizes<float>(n_tasks, n_samples, n_features, n_outputs, n_features), n_threads);
}

index vjp_workspace(bool is_double, index n_tasks, index n_samples, index n_features, index n_outputs, index max_active,
                    int n_threads) {
  return is_double ? sparsesvm::cpu::vjp_workspace(sizes<double>(n_tasks, n_samples, n_features, n_outputs, max_active), n_threads)
                   : sparsesvm::cpu::vjp_workspace(sizes<float>(n_tasks, n_samples, n_features, n_outputs, max_active), n_threads);
}

}  // namespace

void bind_regression(py::module_& module) {
  using release = py::call_guard<py::gil_scoped_release>;
  module.def("solve_regression", &solve, release());
  module.def("regression_vjp", &vjp, release());
  module.def("regression_solve_workspace", &solve_workspace);
  module.def("regression_vjp_workspace", &vjp_workspace);
}
