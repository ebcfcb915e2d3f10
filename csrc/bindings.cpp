// The Python module `sparsesvm._core`: addresses, sizes and strides in, nothing of torch or numpy inside.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>

#include "cpu/driver.h"
#include "regression_bindings.h"

namespace py = pybind11;

namespace {

using sparsesvm::Batch;
using sparsesvm::index;
using sparsesvm::JvpArguments;
using sparsesvm::SolveArguments;
using sparsesvm::VjpArguments;
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
  address labels, sample_weight, lambda1, lambda2;
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
    b.dual_reg = dual_reg;
    return b;
  }
};

#define PROBLEM_PARAMETERS                                                                                                      \
  index n_tasks, index n_samples, index n_features, index n_way, index group_size, address features, index task_stride,       \
      index row_stride, address labels, address sample_weight, address lambda1, address lambda2, double dual_reg
#define PROBLEM                                                                                                              \
  Problem {                                                                                                                  \
    n_tasks, n_samples, n_features, n_way, group_size, features, task_stride, row_stride, labels, sample_weight, lambda1,    \
        lambda2, dual_reg                                                                                                    \
  }

// Whether all values are what the solver takes. The caller, who has the names, explains where they are not.
bool acceptable(index n_tasks, index n_samples, index n_way, address labels, address sample_weight, address lambda1, address lambda2) {
  constexpr double largest = std::numeric_limits<double>::max();
  bool fine = true;
  for (index i = 0; i < n_tasks * n_samples; ++i) {
    const std::int64_t label = at<const std::int64_t>(labels)[i];
    const double weight = at<const double>(sample_weight)[i];
    fine = fine && label >= 0 && label < n_way && weight >= 0 && weight <= largest;
  }
  for (index task = 0; task < n_tasks; ++task) {
    const double group = at<const double>(lambda1)[task], square = at<const double>(lambda2)[task];
    fine = fine && group >= 0 && group <= largest && square > 0 && square <= largest;
  }
  return fine;
}

template <typename T>
void solve_typed(const Problem& problem, double tol, index max_iter, address init_dual, address weights, address dual, address gap,
                 address objective, address n_iter, address status, address active, address workspace, index bytes, int n_threads) {
  const SolveArguments<T> arguments{problem.batch<T>(), tol,           max_iter,           at<const double>(init_dual),
                                    at<T>(weights),     at<T>(dual),   at<double>(gap),    at<double>(objective),
                                    at<std::int64_t>(n_iter), at<std::int8_t>(status), at<std::uint8_t>(active)};
  sparsesvm::cpu::solve(arguments, at<void>(workspace), bytes, n_threads);
}

void solve(bool is_double, PROBLEM_PARAMETERS, double tol, index max_iter, address init_dual, address weights, address dual,
           address gap, address objective, address n_iter, address status, address active, address workspace, index workspace_bytes,
           int n_threads) {
  (is_double ? solve_typed<double> : solve_typed<float>)(PROBLEM, tol, max_iter, init_dual, weights, dual, gap, objective, n_iter,
                                                         status, active, workspace, workspace_bytes, n_threads);
}

template <typename T>
void vjp_typed(const Problem& problem, address weights, address dual, address grad_weights, address grad_features, address grad_lambda1,
               address grad_lambda2, address grad_sample_weight, address workspace, index bytes, int n_threads) {
  const VjpArguments<T> arguments{problem.batch<T>(),    {at<const T>(weights), at<const T>(dual)}, at<const T>(grad_weights),
                                  at<T>(grad_features),  at<double>(grad_lambda1),                 at<double>(grad_lambda2),
                                  at<double>(grad_sample_weight)};
  sparsesvm::cpu::vjp(arguments, at<void>(workspace), bytes, n_threads);
}

void vjp(bool is_double, PROBLEM_PARAMETERS, address weights, address dual, address grad_weights, address grad_features,
         address grad_lambda1, address grad_lambda2, address grad_sample_weight, address workspace, index workspace_bytes,
         int n_threads) {
  (is_double ? vjp_typed<double> : vjp_typed<float>)(PROBLEM, weights, dual, grad_weights, grad_features, grad_lambda1, grad_lambda2,
                                                     grad_sample_weight, workspace, workspace_bytes, n_threads);
}

template <typename T>
void jvp_typed(const Problem& problem, address weights, address dual, address tangent_features, address tangent_lambda1,
               address tangent_lambda2, address tangent_sample_weight, address tangent_weights, address workspace, index bytes,
               int n_threads) {
  const JvpArguments<T> arguments{problem.batch<T>(),
                                  {at<const T>(weights), at<const T>(dual)},
                                  at<const T>(tangent_features),
                                  at<const double>(tangent_lambda1),
                                  at<const double>(tangent_lambda2),
                                  at<const double>(tangent_sample_weight),
                                  at<T>(tangent_weights)};
  sparsesvm::cpu::jvp(arguments, at<void>(workspace), bytes, n_threads);
}

void jvp(bool is_double, PROBLEM_PARAMETERS, address weights, address dual, address tangent_features, address tangent_lambda1,
         address tangent_lambda2, address tangent_sample_weight, address tangent_weights, address workspace, index workspace_bytes,
         int n_threads) {
  (is_double ? jvp_typed<double> : jvp_typed<float>)(PROBLEM, weights, dual, tangent_features, tangent_lambda1, tangent_lambda2,
                                                     tangent_sample_weight, tangent_weights, workspace, workspace_bytes, n_threads);
}

index solve_workspace(bool is_double, index n_tasks, index n_samples, index n_features, index n_way, index group_size, int n_threads) {
  return is_double ? sparsesvm::cpu::solve_workspace(sizes<double>(n_tasks, n_samples, n_features, n_way, group_size), n_threads)
                   : sparsesvm::cpu::solve_workspace(sizes<float>(n_tasks, n_samples, n_features, n_way, group_size), n_threads);
}

index diff_workspace(bool is_double, index n_tasks, index n_samples, index n_features, index n_way, index group_size, int n_threads) {
  return is_double ? sparsesvm::cpu::diff_workspace(sizes<double>(n_tasks, n_samples, n_features, n_way, group_size), n_threads)
                   : sparsesvm::cpu::diff_workspace(sizes<float>(n_tasks, n_samples, n_features, n_way, group_size), n_threads);
}

py::dict backends() {
  py::dict cpu, cuda, all;
  cpu["simd"] = sparsesvm::cpu::simd_level();
  cpu["built"] = sparsesvm::cpu::simd_levels();
  cuda["built"] = false;
  cuda["usable"] = false;
  cuda["reason"] = "this version has no CUDA backend";
  all["cpu"] = cpu;
  all["cuda"] = cuda;
  return all;
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  using release = py::call_guard<py::gil_scoped_release>;
  module.def("acceptable", &acceptable);
  module.def("solve", &solve, release());
  module.def("vjp", &vjp, release());
  module.def("jvp", &jvp, release());
  module.def("solve_workspace", &solve_workspace);
  module.def("diff_workspace", &diff_workspace);
  module.def("backends", &backends);
  bind_regression(module);
}
