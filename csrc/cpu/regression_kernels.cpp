// Sparse regression for one instruction set: compiled once per level with SPARSESVM_VARIANT naming it.
#include "cpu/regression_kernels.h"

#include "core/regression_diff.h"
#include "core/regression_solver.h"
#include "cpu/passes.h"

namespace sparsesvm {
namespace {

template <typename T>
index solve_workspace(const RegressionBatch<T>& batch) {
  Arena arena(nullptr, 0);
  RegressionSolver<Passes, T> solver(batch, arena);
  return arena.used();
}

template <typename T>
void solve(const RegressionSolveArguments<T>& arguments, index task, void* workspace, index bytes) {
  Arena arena(workspace, bytes);
  RegressionSolver<Passes, T> solver(arguments.batch, arena);
  solver.solve(arguments, task);
}

template <typename T>
index vjp_workspace(const RegressionBatch<T>& batch) {
  Arena arena(nullptr, 0);
  RegressionDiff<Passes, T> diff(batch, arena);
  return arena.used();
}

template <typename T>
void vjp(const RegressionVjpArguments<T>& arguments, index task, void* workspace, index bytes) {
  Arena arena(workspace, bytes);
  RegressionDiff<Passes, T> diff(arguments.batch, arena);
  diff.vjp(arguments, task);
}

template <typename T>
constexpr RegressionKernels<T> table{solve_workspace<T>, solve<T>, vjp_workspace<T>, vjp<T>};

}  // namespace

#define SPARSESVM_JOIN_(a, b) a##b
#define SPARSESVM_JOIN(a, b) SPARSESVM_JOIN_(a, b)

RegressionKernelSet SPARSESVM_JOIN(regression_kernels_, SPARSESVM_VARIANT)() { return {table<float>, table<double>}; }

}  // namespace sparsesvm
