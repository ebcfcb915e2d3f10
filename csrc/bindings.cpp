// The Python module `sparsesvm._core`: addresses, sizes and strides in, nothing of torch or numpy inside.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>

#include "binding_arguments.h"
#include "cpu/driver.h"
#include "cpu/full_passes.h"
#include "regression_bindings.h"
#include "unlocked.h"

namespace py = pybind11;

namespace {

using namespace sparsesvm::binding;
using sparsesvm::Batch;
using sparsesvm::index;

// Whether all values are what the solver takes. The caller, who has the names, explains where they are not.
bool acceptable(index n_tasks, index n_samples, index n_way, address labels, address sample_weight, address lambda1, address lambda2,
                address task_way, double dual_reg) {
  constexpr double largest = std::numeric_limits<double>::max();
  bool fine = true;
  for (index i = 0; i < n_tasks * n_samples; ++i) {
    const std::int64_t label = at<const std::int64_t>(labels)[i];
    const std::int64_t classes = task_way != 0 ? at<const std::int64_t>(task_way)[i / n_samples] : n_way;
    const double weight = at<const double>(sample_weight)[i];
    fine = fine && label >= 0 && label < classes && weight >= 0 && weight <= largest;
  }
  for (index task = 0; task < n_tasks; ++task) {
    const double group = at<const double>(lambda1)[task], square = at<const double>(lambda2)[task];
    fine = fine && group >= 0 && group <= largest && square >= 0 && square <= largest;
    fine = fine && (square > 0 || (group > 0 && dual_reg == 0));
  }
  return fine;
}

template <typename T>
void solve_typed(const Problem& problem, double tol, index max_iter, bool identify, address init_dual, address init_weights, address weights,
                 address dual, address gap, address objective, address n_iter, address status, address active, address workspace,
                 index bytes, int n_threads) {
  const auto arguments = solve_arguments<T>(problem, tol, max_iter, identify, init_dual, init_weights, weights, dual, gap, objective,
                                            n_iter, status, active);
  sparsesvm::cpu::solve(arguments, at<void>(workspace), bytes, n_threads);
}

void solve(bool is_double, PROBLEM_PARAMETERS, double tol, index max_iter, bool identify, address init_dual, address init_weights,
           address weights, address dual, address gap, address objective, address n_iter, address status, address active,
           address workspace, index workspace_bytes, int n_threads) {
  (is_double ? solve_typed<double> : solve_typed<float>)(PROBLEM, tol, max_iter, identify, init_dual, init_weights, weights, dual, gap,
                                                         objective, n_iter, status, active, workspace, workspace_bytes, n_threads);
}

template <typename T>
Batch<T> sparse_sizes(index n_samples, index n_features, index n_way, index group_size, index n_entries) {
  Batch<T> batch = sizes<T>(1, n_samples, n_features, n_way, group_size);
  batch.sparse = true;
  batch.n_entries = n_entries;
  return batch;
}

template <typename T>
void sparse_solve_typed(const Problem& problem, index n_entries, address row_start, address column, double tol, index max_iter,
                        address init_dual, address init_weights, address weights, address dual, address gap, address objective,
                        address n_iter, address status, address active, address workspace, index bytes, int n_threads) {
  auto arguments = solve_arguments<T>(problem, tol, max_iter, false, init_dual, init_weights, weights, dual, gap, objective, n_iter,
                                      status, active);
  arguments.batch.sparse = true;
  arguments.batch.n_entries = n_entries;
  arguments.batch.row_start = at<const std::int64_t>(row_start);
  arguments.batch.column = at<const std::int64_t>(column);
  sparsesvm::cpu::solve(arguments, at<void>(workspace), bytes, n_threads);
}

// One task whose features are compressed sparse rows.
void sparse_solve(bool is_double, index n_samples, index n_features, index n_way, index group_size, index n_entries, address values,
                  address row_start, address column, address labels, address sample_weight, address lambda1, address lambda2,
                  address group_weight, double dual_reg, double tol, index max_iter, address init_dual, address init_weights,
                  address weights, address dual, address gap, address objective, address n_iter, address status, address active, address workspace, index workspace_bytes,
                  int n_threads) {
  const Problem problem{1, n_samples, n_features, n_way, group_size, values,       0, 0,
                        labels, sample_weight, lambda1, lambda2, group_weight, 0, 0, dual_reg};
  (is_double ? sparse_solve_typed<double> : sparse_solve_typed<float>)(problem, n_entries, row_start, column, tol, max_iter, init_dual,
                                                                       init_weights, weights, dual, gap, objective, n_iter, status,
                                                                       active, workspace, workspace_bytes, n_threads);
}

index sparse_solve_workspace(bool is_double, index n_samples, index n_features, index n_way, index group_size, index n_entries,
                             int n_threads) {
  return is_double
             ? sparsesvm::cpu::solve_workspace(sparse_sizes<double>(n_samples, n_features, n_way, group_size, n_entries), n_threads)
             : sparsesvm::cpu::solve_workspace(sparse_sizes<float>(n_samples, n_features, n_way, group_size, n_entries), n_threads);
}

template <typename T>
void vjp_typed(const Problem& problem, address weights, address dual, address grad_weights, address grad_features, address grad_lambda1,
               address grad_lambda2, address grad_sample_weight, address workspace, index bytes, int n_threads) {
  const auto arguments =
      vjp_arguments<T>(problem, weights, dual, grad_weights, grad_features, grad_lambda1, grad_lambda2, grad_sample_weight);
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
  const auto arguments = jvp_arguments<T>(problem, weights, dual, tangent_features, tangent_lambda1, tangent_lambda2,
                                          tangent_sample_weight, tangent_weights);
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

py::dict simd() {
  py::dict cpu;
  cpu["simd"] = sparsesvm::cpu::simd_level();
  cpu["built"] = sparsesvm::cpu::simd_levels();
  return cpu;
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  using release = py::call_guard<Unlocked>;
  pass_interruptions_on();
  module.def("acceptable", &acceptable);
  module.def("solve", &solve, release());
  module.def("sparse_solve", &sparse_solve, release());
  module.def("vjp", &vjp, release());
  module.def("jvp", &jvp, release());
  module.def("solve_workspace", &solve_workspace);
  module.def("sparse_solve_workspace", &sparse_solve_workspace);
  module.def("diff_workspace", &diff_workspace);
  module.def("simd", &simd);
  module.def("full_passes", [] { return sparsesvm::full_passes.load(); });
  bind_regression(module);
}
