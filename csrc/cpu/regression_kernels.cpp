// Sparse regression for one instruction set: compiled once per level with SPARSESVM_VARIANT naming it.
#include "cpu/regression_kernels.h"

#include "core/regression/diff.h"
#include "core/regression/solver.h"
#include "core/regression/team.h"
#include "cpu/passes.h"

namespace sparsesvm {
namespace {

template <class Worker, typename T>
index workspace(const RegressionBatch<T>& batch) {
  Arena arena(nullptr, 0);
  Worker worker;
  worker.take(arena, batch);
  return arena.used();
}

template <typename T>
void solve(const RegressionSolveArguments<T>& arguments, index task, void* memory, index bytes) {
  Arena arena(memory, bytes);
  RegressionSolver<T> solver;
  solver.take(arena, arguments.batch);
  solver.solve(SerialTeam<Passes>(), arguments, task);
}

template <typename T>
void vjp(const RegressionVjpArguments<T>& arguments, index task, void* memory, index bytes) {
  Arena arena(memory, bytes);
  RegressionDiff<T> diff;
  diff.take(arena, arguments.batch);
  diff.vjp(SerialTeam<Passes>(), arguments, task);
}

template <typename T>
constexpr RegressionKernels<T> table{workspace<RegressionSolver<T>, T>, solve<T>, workspace<RegressionDiff<T>, T>, vjp<T>};

}  // namespace

#define SPARSESVM_JOIN_(a, b) a##b
#define SPARSESVM_JOIN(a, b) SPARSESVM_JOIN_(a, b)

RegressionKernelSet SPARSESVM_JOIN(regression_kernels_, SPARSESVM_VARIANT)() { return {table<float>, table<double>}; }

}  // namespace sparsesvm
