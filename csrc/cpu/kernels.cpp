// The core for one instruction set: compiled once per level with SPARSESVM_VARIANT naming it.
#include "cpu/kernels.h"

#include "core/svm/dual_solver.h"
#include "core/svm/implicit_diff.h"
#include "core/svm/sparse_solver.h"
#include "cpu/passes.h"

namespace sparsesvm {
namespace {

template <typename T>
index solve_workspace(const Batch<T>& batch) {
  Arena arena(nullptr, 0);
  DualSolver<Passes, T> solver(batch, arena);
  return arena.used();
}

template <typename T>
void solve(const SolveArguments<T>& arguments, index task, void* workspace, index bytes) {
  Arena arena(workspace, bytes);
  DualSolver<Passes, T> solver(sizes_of_task(arguments.batch, task), arena);
  solver.solve(arguments, task);
  fill_absent_classes(arguments.batch, task, arguments.weights, arguments.dual, 0, 1);
}

template <typename T>
index sparse_solve_workspace(const Batch<T>& batch) {
  Arena arena(nullptr, 0);
  SparseSolver<Passes, T> solver(batch, arena);
  return arena.used();
}

template <typename T>
void sparse_solve(const SolveArguments<T>& arguments, index task, void* workspace, index bytes) {
  Arena arena(workspace, bytes);
  SparseSolver<Passes, T> solver(arguments.batch, arena);
  solver.solve(arguments, task);
}

template <typename T>
index diff_workspace(const Batch<T>& batch) {
  Arena arena(nullptr, 0);
  ImplicitDiff<Passes, T> diff(batch, arena);
  return arena.used();
}

template <typename T>
void vjp(const VjpArguments<T>& arguments, index task, void* workspace, index bytes) {
  Arena arena(workspace, bytes);
  ImplicitDiff<Passes, T> diff(sizes_of_task(arguments.batch, task), arena);
  diff.vjp(arguments, task);
}

template <typename T>
void jvp(const JvpArguments<T>& arguments, index task, void* workspace, index bytes) {
  Arena arena(workspace, bytes);
  ImplicitDiff<Passes, T> diff(sizes_of_task(arguments.batch, task), arena);
  diff.jvp(arguments, task);
  fill_absent_classes<T>(arguments.batch, task, arguments.tangent_weights, nullptr, 0, 1);
}

template <typename T>
constexpr Kernels<T> table{solve_workspace<T>, solve<T>, sparse_solve_workspace<T>, sparse_solve<T>, diff_workspace<T>, vjp<T>, jvp<T>};

}  // namespace

#define SPARSESVM_JOIN_(a, b) a##b
#define SPARSESVM_JOIN(a, b) SPARSESVM_JOIN_(a, b)

KernelSet SPARSESVM_JOIN(kernels_, SPARSESVM_VARIANT)() { return {table<float>, table<double>}; }

}  // namespace sparsesvm
