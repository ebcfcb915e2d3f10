#include "cpu/regression_driver.h"

#include "cpu/driver.h"
#include "cpu/over_tasks.h"
#include "cpu/regression_kernels.h"

namespace sparsesvm::cpu {
namespace {

RegressionKernelSet choose_kernels() {
#ifdef SPARSESVM_HAVE_X86_LEVELS
  if (simd_level() == "v4") return regression_kernels_v4();
  if (simd_level() == "v3") return regression_kernels_v3();
#endif
  return regression_kernels_base();
}

const RegressionKernelSet& kernel_set() {
  static const RegressionKernelSet chosen = choose_kernels();
  return chosen;
}

const RegressionKernels<float>& kernels(const RegressionBatch<float>&) { return kernel_set().single; }
const RegressionKernels<double>& kernels(const RegressionBatch<double>&) { return kernel_set().twice; }

}  // namespace

template <typename T>
index solve_workspace(const RegressionBatch<T>& batch, int n_threads) {
  return share(kernels(batch).solve_workspace(batch)) * thread_count(batch.n_tasks, n_threads);
}

template <typename T>
void solve(const RegressionSolveArguments<T>& arguments, void* workspace, index bytes, int n_threads) {
  const RegressionKernels<T>& table = kernels(arguments.batch);
  over_tasks(arguments, table.solve, share(table.solve_workspace(arguments.batch)), workspace, bytes, n_threads);
}

template <typename T>
index vjp_workspace(const RegressionBatch<T>& batch, int n_threads) {
  return share(kernels(batch).vjp_workspace(batch)) * thread_count(batch.n_tasks, n_threads);
}

template <typename T>
void vjp(const RegressionVjpArguments<T>& arguments, void* workspace, index bytes, int n_threads) {
  const RegressionKernels<T>& table = kernels(arguments.batch);
  over_tasks(arguments, table.vjp, share(table.vjp_workspace(arguments.batch)), workspace, bytes, n_threads);
}

#define SPARSESVM_INSTANTIATE(T)                                                    \
  template index solve_workspace<T>(const RegressionBatch<T>&, int);                \
  template void solve<T>(const RegressionSolveArguments<T>&, void*, index, int);    \
  template index vjp_workspace<T>(const RegressionBatch<T>&, int);                  \
  template void vjp<T>(const RegressionVjpArguments<T>&, void*, index, int);
SPARSESVM_INSTANTIATE(float)
SPARSESVM_INSTANTIATE(double)

}  // namespace sparsesvm::cpu
