// Runs the bodies of the CUDA kernels on emulated teams. Memory is filled with NaN first, so that nothing counts on what it holds.
#pragma once

#include <cstring>
#include <vector>

#include "cuda/bodies.h"
#include "cuda/regression.h"
#include "tests/host_team.h"

namespace sparsesvm::testing {

template <class Workspace, class Machine, class Arguments>
void emulate(Machine& machine, const Arguments& arguments) {
  const index bytes = gpu::workspace_bytes<Workspace>(arguments.batch);
  std::vector<double> memory(static_cast<std::size_t>(bytes) / sizeof(double) + 64);
  std::memset(memory.data(), 0xff, memory.size() * sizeof(double));
  std::vector<Workspace> shared(machine.shape.parts);
  auto start = reinterpret_cast<std::uintptr_t>(memory.data());
  start = (start + 255) / 256 * 256;
  const gpu::Assignment assignment{reinterpret_cast<void*>(start), bytes, 0, 1};
  machine.run([&](const auto& team) { gpu::run(team, shared[team.part()], arguments, assignment); });
}

}  // namespace sparsesvm::testing
