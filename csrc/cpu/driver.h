// Batches of tasks on the CPU: picks the instruction set, hands tasks to threads, gives each thread its part of the workspace.
#pragma once

#include <string>
#include <vector>

#include "core/svm/problem.h"

namespace sparsesvm::cpu {

std::string simd_level();                // the level in use
std::vector<std::string> simd_levels();  // the levels compiled in

template <typename T>
index solve_workspace(const Batch<T>& batch, int n_threads);
template <typename T>
void solve(const SolveArguments<T>& arguments, void* workspace, index bytes, int n_threads);
template <typename T>
index diff_workspace(const Batch<T>& batch, int n_threads);
template <typename T>
void vjp(const VjpArguments<T>& arguments, void* workspace, index bytes, int n_threads);
template <typename T>
void jvp(const JvpArguments<T>& arguments, void* workspace, index bytes, int n_threads);

}  // namespace sparsesvm::cpu
