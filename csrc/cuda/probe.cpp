#include <cuda_runtime_api.h>

#include "cuda/driver.h"

namespace sparsesvm::cuda {

Devices probe() {
  Devices found{};
  cudaRuntimeGetVersion(&found.runtime_version);
  cudaDriverGetVersion(&found.driver_version);
  const cudaError_t error = cudaGetDeviceCount(&found.count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // not to be reported again
    found.count = 0;
    found.reason = cudaGetErrorString(error);
  } else if (found.count == 0) {
    found.reason = "no CUDA device is visible";
  }
  return found;
}

}  // namespace sparsesvm::cuda
