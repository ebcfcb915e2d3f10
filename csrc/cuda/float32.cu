#include "cuda/launch.cuh"

namespace sparsesvm::cuda {
SPARSESVM_INSTANTIATE(float)
}  // namespace sparsesvm::cuda
