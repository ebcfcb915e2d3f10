// The core for one instruction set: compiled once per level with SPARSESVM_VARIANT naming it.
#include "cpu/kernels.h"

#include "core/svm/dual_solver.h"
#include "core/svm/implicit_diff.h"
#include "core/svm/sparse_solver.h"
#include "cpu/passes.h"

namespace sparsesvm {
namespace {

template <class Worker, typename T>
index workspace(const Batch<T>& batch) {
  Arena arena(nullptr, 0);
  const Worker worker(batch, arena);
  return arena.used();
}

template <class Solver, typename T>
void solve(const SolveArguments<T>& arguments, index task, void* memory, index bytes) {
  Arena arena(memory, bytes);
  Solver solver(sizes_of_task(arguments.batch, task), arena);
  solver.solve(arguments, task);
  fill_absent_classes(arguments.batch, task, arguments.weights, arguments.dual, 0, 1);
}

template <typename T>
void vjp(const VjpArguments<T>& arguments, index task, void* memory, index bytes) {
  Arena arena(memory, bytes);
  ImplicitDiff<Passes, T> diff(sizes_of_task(arguments.batch, task), arena);
  diff.vjp(arguments, task);
}

template <typename T>
void jvp(const JvpArguments<T>& arguments, index task, void* memory, index bytes) {
  Arena arena(memory, bytes);
  ImplicitDiff<Passes, T> diff(sizes_of_task(arguments.batch, task), arena);
  diff.jvp(arguments, task);
  fill_absent_classes<T>(arguments.batch, task, arguments.tangent_weights, nullptr, 0, 1);
}

template <typename T>
using Dense = DualSolver<Passes, T>;
template <typename T>
using Sparse = SparseSolver<Passes, T>;

template <typename T>
constexpr Kernels<T> table{workspace<Dense<T>, T>, solve<Dense<T>, T>, workspace<Sparse<T>, T>, solve<Sparse<T>, T>,
                           workspace<ImplicitDiff<Passes, T>, T>, vjp<T>, jvp<T>};

}  // namespace

#define SPARSESVM_JOIN_(a, b) a##b
#define SPARSESVM_JOIN(a, b) SPARSESVM_JOIN_(a, b)

KernelSet SPARSESVM_JOIN(kernels_, SPARSESVM_VARIANT)() { return {table<float>, table<double>}; }

}  // namespace sparsesvm
