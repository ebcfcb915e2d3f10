// Batches of tasks on a CUDA device: sizes the grid, hands teams their part of the workspace and launches on the caller's stream.
// Nothing here allocates device memory or waits for the device.
#pragma once

#include <cstdint>
#include <string>

#include "core/regression/problem.h"
#include "core/svm/problem.h"

namespace sparsesvm::cuda {

struct Devices {
  int count;  // usable devices
  int runtime_version, driver_version;
  std::string reason;  // why there are none
};
Devices probe();

// How a batch is spread over a device: `teams` teams of `parts` blocks.
struct Grid {
  int parts, teams;
  index team_bytes, bytes;  // workspace of a team, and of all with their barriers
};

// The functions below leave `device` current; the caller, who knows what was, keeps that for its own runtime.
template <typename T>
Grid solve_grid(const Batch<T>& batch, int device);
template <typename T>
Grid diff_grid(const Batch<T>& batch, int device);
template <typename T>
Grid solve_grid(const RegressionBatch<T>& batch, int device);
template <typename T>
Grid vjp_grid(const RegressionBatch<T>& batch, int device);

// Launch on `stream` of `device`. `workspace` holds grid.bytes on the device. Throws std::runtime_error when the launch fails.
template <typename T>
void solve(const SolveArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream);
template <typename T>
void vjp(const VjpArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream);
template <typename T>
void jvp(const JvpArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream);
template <typename T>
void solve(const RegressionSolveArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream);
template <typename T>
void vjp(const RegressionVjpArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream);

}  // namespace sparsesvm::cuda
