// Sparse regression in the module `sparsesvm._core`: addresses, sizes and strides in.
#include "regression_bindings.h"

#include "cpu/regression_driver.h"
#include "regression_arguments.h"
#include "unlocked.h"

namespace py = pybind11;

namespace {

using namespace sparsesvm::binding;
using sparsesvm::index;

void solve(bool is_double, REGRESSION_PARAMETERS, double tol, index max_iter, address weights, address gap, address objective,
           address n_iter, address status, address active, address workspace, index bytes, int n_threads) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    sparsesvm::cpu::solve(
        regression_solve_arguments<T>(REGRESSION, tol, max_iter, weights, gap, objective, n_iter, status, active),
        at<void>(workspace), bytes, n_threads);
  };
  is_double ? run(double{}) : run(float{});
}

void vjp(bool is_double, REGRESSION_PARAMETERS, address weights, address grad_weights, address grad_features, address grad_targets,
         address grad_lambda1, address grad_lambda2, address workspace, index bytes, int n_threads) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    sparsesvm::cpu::vjp(
        regression_vjp_arguments<T>(REGRESSION, weights, grad_weights, grad_features, grad_targets, grad_lambda1, grad_lambda2),
        at<void>(workspace), bytes, n_threads);
  };
  is_double ? run(double{}) : run(float{});
}

index solve_workspace(bool is_double, index n_tasks, index n_samples, index n_features, index n_outputs, index max_active,
                      int n_threads) {
  const auto measure = [&](auto type) {
    return sparsesvm::cpu::solve_workspace(
        regression_sizes<decltype(type)>(n_tasks, n_samples, n_features, n_outputs, max_active), n_threads);
  };
  return is_double ? measure(double{}) : measure(float{});
}

index vjp_workspace(bool is_double, index n_tasks, index n_samples, index n_features, index n_outputs, index max_active,
                    int n_threads) {
  const auto measure = [&](auto type) {
    return sparsesvm::cpu::vjp_workspace(
        regression_sizes<decltype(type)>(n_tasks, n_samples, n_features, n_outputs, max_active), n_threads);
  };
  return is_double ? measure(double{}) : measure(float{});
}

}  // namespace

void bind_regression(py::module_& module) {
  using release = py::call_guard<Unlocked>;
  module.def("solve_regression", &solve, release());
  module.def("regression_vjp", &vjp, release());
  module.def("solve_regression_workspace", &solve_workspace);
  module.def("regression_vjp_workspace", &vjp_workspace);
}
