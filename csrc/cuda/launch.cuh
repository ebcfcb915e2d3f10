// Kernels and their launches. float32.cu and float64.cu compile those of the support vector machine, for one type of features each;
// regression.cu adds those of sparse regression.
#pragma once

#include "cuda/driver.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "cuda/bodies.h"
#include "cuda/device_team.cuh"

namespace sparsesvm::cuda {
namespace {

template <class Workspace>
constexpr int threads = 256;                  // of a block
constexpr index barrier_bytes = 64;           // one counter per team, each on a line of its own
constexpr index most_bytes = index{4} << 30;  // of workspace; with less, fewer teams take more tasks each
constexpr index least_work = 1 << 15;         // feature values per block below which a second block costs more than it brings

struct Placement {
  char* workspace;  // barriers of all teams, then their shares
  index team_bytes;
  int parts, teams;
};

// One block per multiprocessor is enough to ask for: with registers held back for a second one, kernels spill.
template <class Workspace, class Arguments>
__global__ void __launch_bounds__(threads<Workspace>, 1)
    kernel(const __grid_constant__ Arguments arguments, const __grid_constant__ Placement place) {
  using Team = gpu::DeviceTeam<threads<Workspace>>;
  __shared__ Workspace shared;
  __shared__ typename Team::Block block;
  const int number = static_cast<int>(blockIdx.x) / place.parts;
  auto* arrivals = reinterpret_cast<unsigned*>(place.workspace + number * barrier_bytes);
  const Team team(block, place.parts, arrivals);
  char* memory = place.workspace + place.teams * barrier_bytes + number * place.team_bytes;
  gpu::run(team, shared, arguments, gpu::Assignment{memory, place.team_bytes, number, place.teams});
}

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// Kernels count what lies in one array of a task with 32 bits.
template <typename T>
void check_sizes(const Batch<T>& batch) {
  constexpr index limit = std::numeric_limits<int>::max();
  const index widest = 2 * batch.n_way + batch.group_size + gpu::panel_groups;
  if (batch.n_samples > limit / widest || batch.n_features > limit / (2 * batch.n_way)) {
    throw std::invalid_argument(
        "a task on a CUDA device must have n_support * (2 * n_way + group_size + 128) and 2 * n_features * n_way below 2**31; got " +
        std::to_string(batch.n_samples) + " samples of " + std::to_string(batch.n_features) + " features in groups of " +
        std::to_string(batch.group_size) + " and " + std::to_string(batch.n_way) + " classes. Solve it on the CPU.");
  }
}

template <typename T>
index most_parts(const Batch<T>& batch) {
  return std::max<index>(1, batch.n_samples * batch.n_features / least_work);
}

// One block per multiprocessor as far as tasks are few, as more would share its caches; at most `most_parts` per task.
template <class Workspace, class Arguments, class Batch>
Grid make_grid(const Batch& batch, index most_parts, int device) {
  if (batch.n_tasks == 0) return {1, 0, 0, 0};
  check(cudaSetDevice(device), "cudaSetDevice");
  int processors = 0, per_processor = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel<Workspace, Arguments>, threads<Workspace>, 0),
        "the kernels do not run on this device, SPARSESVM_CUDA_ARCHS=native pip install ... compiles them for it");
  const index resident = index{processors} * per_processor;
  Grid grid{};
  grid.parts = static_cast<int>(std::clamp<index>(processors / batch.n_tasks, 1, most_parts));
  grid.team_bytes = gpu::workspace_bytes<Workspace>(batch);
  const index affordable = std::max<index>(1, most_bytes / (grid.team_bytes + barrier_bytes));
  grid.teams = static_cast<int>(std::min({batch.n_tasks, resident / grid.parts, affordable}));
  grid.bytes = grid.teams * (grid.team_bytes + barrier_bytes);
  return grid;
}

template <class Workspace, class Arguments>
void launch(const Arguments& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream_address) {
  if (grid.teams == 0) return;
  check(cudaSetDevice(device), "cudaSetDevice");
  const auto stream = reinterpret_cast<cudaStream_t>(stream_address);
  check(cudaMemsetAsync(workspace, 0, static_cast<std::size_t>(grid.teams * barrier_bytes), stream), "clearing the barriers");
  const Placement place{static_cast<char*>(workspace), grid.team_bytes, grid.parts, grid.teams};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid.teams * grid.parts));
  config.blockDim = dim3(threads<Workspace>);
  config.stream = stream;
  cudaLaunchAttribute cooperative{};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  config.attrs = &cooperative;
  config.numAttrs = grid.parts > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel<Workspace, Arguments>, arguments, place), "launching the kernel");
}

}  // namespace

template <typename T>
Grid solve_grid(const Batch<T>& batch, int device) {
  check_sizes(batch);
  return make_grid<gpu::SolveWorkspace<T>, SolveArguments<T>>(batch, most_parts(batch), device);
}

template <typename T>
Grid diff_grid(const Batch<T>& batch, int device) {
  check_sizes(batch);
  const Grid vjp = make_grid<gpu::DiffWorkspace<T>, VjpArguments<T>>(batch, most_parts(batch), device),
             jvp = make_grid<gpu::DiffWorkspace<T>, JvpArguments<T>>(batch, most_parts(batch), device);
  return vjp.teams <= jvp.teams ? vjp : jvp;
}

template <typename T>
void solve(const SolveArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream) {
  launch<gpu::SolveWorkspace<T>>(arguments, grid, workspace, device, stream);
}
template <typename T>
void vjp(const VjpArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream) {
  launch<gpu::DiffWorkspace<T>>(arguments, grid, workspace, device, stream);
}
template <typename T>
void jvp(const JvpArguments<T>& arguments, const Grid& grid, void* workspace, int device, std::uintptr_t stream) {
  launch<gpu::DiffWorkspace<T>>(arguments, grid, workspace, device, stream);
}

#define SPARSESVM_INSTANTIATE(T)                                                             \
  template Grid solve_grid<T>(const Batch<T>&, int);                                         \
  template Grid diff_grid<T>(const Batch<T>&, int);                                          \
  template void solve<T>(const SolveArguments<T>&, const Grid&, void*, int, std::uintptr_t); \
  template void vjp<T>(const VjpArguments<T>&, const Grid&, void*, int, std::uintptr_t);     \
  template void jvp<T>(const JvpArguments<T>&, const Grid&, void*, int, std::uintptr_t);

}  // namespace sparsesvm::cuda
