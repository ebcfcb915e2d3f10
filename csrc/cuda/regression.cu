// Sparse regression on a device, for both types of features.
#include "cuda/regression.h"

#include "cuda/launch.cuh"

namespace sparsesvm::cuda {
namespace {

// Most collective calls wait for a few warps' work; small blocks leave room for more tasks. Chosen, not measured.
template <class Core>
constexpr int threads<gpu::RegressionWorkspace<Core>> = 128;

template <typename T>
void check_regression(const RegressionBatch<T>& batch) {
  constexpr index limit = std::numeric_limits<int>::max();
  if (batch.n_features > limit / (2 * batch.n_outputs) || batch.n_samples > limit / (2 * batch.n_outputs)) {
    throw std::invalid_argument(
        "a regression on a CUDA device must have n_samples * n_outputs and n_features * n_outputs below 2**30; got " +
        std::to_string(batch.n_samples) + " samples of " + std::to_string(batch.n_features) + " features and " +
        std::to_string(batch.n_outputs) + " outputs. Solve it on the CPU.");
  }
}

template <typename T>
using SolveWorkspace = gpu::RegressionWorkspace<RegressionSolver<T>>;
template <typename T>
using DiffWorkspace = gpu::RegressionWorkspace<RegressionDiff<T>>;

}  // namespace

template <typename T>
Grid solve_grid(const RegressionBatch<T>& batch, int device) {
  check_regression(batch);
  return make_grid<SolveWorkspace<T>, RegressionSolveArguments<T>>(batch, 1, device);
}
template <typename T>
Grid vjp_grid(const RegressionBatch<T>& batch, int device) {
  check_regression(batch);
  return make_grid<DiffWorkspace<T>, RegressionVjpArguments<T>>(batch, 1, device);
}
template <typename T>
void solve(const RegressionSolveArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream) {
  launch<SolveWorkspace<T>>(arguments, grid, workspace, device, stream);
}
template <typename T>
void vjp(const RegressionVjpArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream) {
  launch<DiffWorkspace<T>>(arguments, grid, workspace, device, stream);
}

#define SPARSESVM_INSTANTIATE_REGRESSION(T)                                                            \
  template Grid solve_grid<T>(const RegressionBatch<T>&, int);                                         \
  template Grid vjp_grid<T>(const RegressionBatch<T>&, int);                                           \
  template void solve<T>(const RegressionSolveArguments<T>&, const Grid&, void*, int, std::uintptr_t); \
  template void vjp<T>(const RegressionVjpArguments<T>&, const Grid&, void*, int, std::uintptr_t);
SPARSESVM_INSTANTIATE_REGRESSION(float)
SPARSESVM_INSTANTIATE_REGRESSION(double)

}  // namespace sparsesvm::cuda
