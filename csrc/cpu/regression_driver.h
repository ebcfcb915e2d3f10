// Batches of sparse regressions on the CPU; threads, workspace and instruction set as in driver.h.
#pragma once

#include "core/regression/problem.h"

namespace sparsesvm::cpu {

template <typename T>
index solve_workspace(const RegressionBatch<T>& batch, int n_threads);
template <typename T>
void solve(const RegressionSolveArguments<T>& arguments, void* workspace, index bytes, int n_threads);
template <typename T>
index vjp_workspace(const RegressionBatch<T>& batch, int n_threads);
template <typename T>
void vjp(const RegressionVjpArguments<T>& arguments, void* workspace, index bytes, int n_threads);

}  // namespace sparsesvm::cpu
