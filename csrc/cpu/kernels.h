// Entry points of the core, one table per instruction set. Each call works on one task with the given scratch memory.
#pragma once

#include "core/svm/problem.h"

namespace sparsesvm {

template <typename T>
struct Kernels {
  index (*solve_workspace)(const Batch<T>&);  // bytes for one task
  void (*solve)(const SolveArguments<T>&, index task, void* workspace, index bytes);
  index (*sparse_solve_workspace)(const Batch<T>&);
  void (*sparse_solve)(const SolveArguments<T>&, index task, void* workspace, index bytes);
  index (*diff_workspace)(const Batch<T>&);
  void (*vjp)(const VjpArguments<T>&, index task, void* workspace, index bytes);
  void (*jvp)(const JvpArguments<T>&, index task, void* workspace, index bytes);
};

struct KernelSet {
  Kernels<float> single;
  Kernels<double> twice;
};

KernelSet kernels_base();
KernelSet kernels_v3();
KernelSet kernels_v4();

}  // namespace sparsesvm
