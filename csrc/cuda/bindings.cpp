// The Python module `sparsesvm._cuda`: as `_core`, for addresses on a CUDA device.
#include "cuda/bindings.h"

#include "regression_bindings.h"

namespace py = pybind11;

namespace {

using namespace sparsesvm::binding;
using sparsesvm::index;

// The kernels start from the dual only.
void solve(bool is_double, PROBLEM_PARAMETERS, double tol, index max_iter, bool identify, address init_dual, address init_weights,
           address weights, address dual, address gap, address objective, address n_iter, address status, address active,
           LAUNCH_PARAMETERS) {
  const auto launch = [&](auto type) {
    using T = decltype(type);
    sparsesvm::cuda::solve(
        solve_arguments<T>(PROBLEM, tol, max_iter, identify, init_dual, init_weights, weights, dual, gap, objective, n_iter, status, active),
        LAUNCH);
  };
  is_double ? launch(double{}) : launch(float{});
}

void vjp(bool is_double, PROBLEM_PARAMETERS, address weights, address dual, address grad_weights, address grad_features,
         address grad_lambda1, address grad_lambda2, address grad_sample_weight, LAUNCH_PARAMETERS) {
  const auto launch = [&](auto type) {
    using T = decltype(type);
    sparsesvm::cuda::vjp(
        vjp_arguments<T>(PROBLEM, weights, dual, grad_weights, grad_features, grad_lambda1, grad_lambda2, grad_sample_weight),
        LAUNCH);
  };
  is_double ? launch(double{}) : launch(float{});
}

void jvp(bool is_double, PROBLEM_PARAMETERS, address weights, address dual, address tangent_features, address tangent_lambda1,
         address tangent_lambda2, address tangent_sample_weight, address tangent_weights, LAUNCH_PARAMETERS) {
  const auto launch = [&](auto type) {
    using T = decltype(type);
    sparsesvm::cuda::jvp(jvp_arguments<T>(PROBLEM, weights, dual, tangent_features, tangent_lambda1, tangent_lambda2,
                                          tangent_sample_weight, tangent_weights),
                         LAUNCH);
  };
  is_double ? launch(double{}) : launch(float{});
}

Plan solve_plan(bool is_double, index n_tasks, index n_samples, index n_features, index n_way, index group_size, int device) {
  return plan(is_double ? sparsesvm::cuda::solve_grid(sizes<double>(n_tasks, n_samples, n_features, n_way, group_size), device)
                        : sparsesvm::cuda::solve_grid(sizes<float>(n_tasks, n_samples, n_features, n_way, group_size), device));
}

Plan diff_plan(bool is_double, index n_tasks, index n_samples, index n_features, index n_way, index group_size, int device) {
  return plan(is_double ? sparsesvm::cuda::diff_grid(sizes<double>(n_tasks, n_samples, n_features, n_way, group_size), device)
                        : sparsesvm::cuda::diff_grid(sizes<float>(n_tasks, n_samples, n_features, n_way, group_size), device));
}

py::dict devices() {
  const sparsesvm::cuda::Devices found = sparsesvm::cuda::probe();
  py::dict result;
  result["count"] = found.count;
  result["runtime"] = found.runtime_version;
  result["driver"] = found.driver_version;
  result["reason"] = found.reason;
  result["architectures"] = SPARSESVM_CUDA_ARCHITECTURES;
  return result;
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
  using release = py::call_guard<py::gil_scoped_release>;
  module.def("solve", &solve, release());
  module.def("vjp", &vjp, release());
  module.def("jvp", &jvp, release());
  module.def("solve_plan", &solve_plan);
  module.def("diff_plan", &diff_plan);
  module.def("devices", &devices);
  bind_regression(module);
}
