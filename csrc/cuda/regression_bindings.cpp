// Sparse regression in the module `sparsesvm._cuda`: as in `_core`, for addresses on a CUDA device.
#include "regression_bindings.h"

#include "cuda/bindings.h"
#include "regression_arguments.h"

namespace py = pybind11;

namespace {

using namespace sparsesvm::binding;
using sparsesvm::index;

void solve(bool is_double, REGRESSION_PARAMETERS, double tol, index max_iter, address weights, address gap, address objective,
           address n_iter, address status, address active, LAUNCH_PARAMETERS) {
  const auto launch = [&](auto type) {
    using T = decltype(type);
    sparsesvm::cuda::solve(
        regression_solve_arguments<T>(REGRESSION, tol, max_iter, weights, gap, objective, n_iter, status, active), LAUNCH);
  };
  is_double ? launch(double{}) : launch(float{});
}

void vjp(bool is_double, REGRESSION_PARAMETERS, address weights, address grad_weights, address grad_features, address grad_targets,
         address grad_lambda1, address grad_lambda2, LAUNCH_PARAMETERS) {
  const auto launch = [&](auto type) {
    using T = decltype(type);
    sparsesvm::cuda::vjp(
        regression_vjp_arguments<T>(REGRESSION, weights, grad_weights, grad_features, grad_targets, grad_lambda1, grad_lambda2),
        LAUNCH);
  };
  is_double ? launch(double{}) : launch(float{});
}

Plan solve_plan(bool is_double, index n_tasks, index n_samples, index n_features, index n_outputs, index max_active, int device) {
  const auto measure = [&](auto type) {
    return plan(sparsesvm::cuda::solve_grid(
        regression_sizes<decltype(type)>(n_tasks, n_samples, n_features, n_outputs, max_active), device));
  };
  return is_double ? measure(double{}) : measure(float{});
}

Plan vjp_plan(bool is_double, index n_tasks, index n_samples, index n_features, index n_outputs, index max_active, int device) {
  const auto measure = [&](auto type) {
    return plan(sparsesvm::cuda::vjp_grid(
        regression_sizes<decltype(type)>(n_tasks, n_samples, n_features, n_outputs, max_active), device));
  };
  return is_double ? measure(double{}) : measure(float{});
}

}  // namespace

void bind_regression(py::module_& module) {
  using release = py::call_guard<py::gil_scoped_release>;
  module.def("solve_regression", &solve, release());
  module.def("regression_vjp", &vjp, release());
  module.def("solve_regression_plan", &solve_plan);
  module.def("regression_vjp_plan", &vjp_plan);
}
