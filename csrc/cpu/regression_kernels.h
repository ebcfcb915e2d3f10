// Entry points of sparse regression, one table per instruction set, as in kernels.h.
#pragma once

#include "core/regression/problem.h"

namespace sparsesvm {

template <typename T>
struct RegressionKernels {
  index (*solve_workspace)(const RegressionBatch<T>&);  // bytes for one task
  void (*solve)(const RegressionSolveArguments<T>&, index task, void* workspace, index bytes);
  index (*vjp_workspace)(const RegressionBatch<T>&);
  void (*vjp)(const RegressionVjpArguments<T>&, index task, void* workspace, index bytes);
};

struct RegressionKernelSet {
  RegressionKernels<float> single;
  RegressionKernels<double> twice;
};

RegressionKernelSet regression_kernels_base();
RegressionKernelSet regression_kernels_v3();
RegressionKernelSet regression_kernels_v4();

}  // namespace sparsesvm
