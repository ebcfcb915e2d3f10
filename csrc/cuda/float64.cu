#include "cuda/launch.cuh"

namespace sparsesvm::cuda {
SPARSESVM_INSTANTIATE(double)
}  // namespace sparsesvm::cuda
