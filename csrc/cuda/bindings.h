// How the bindings of `sparsesvm._cuda` hand a launch from Python to the driver.
#pragma once

#include <tuple>

#include "binding_arguments.h"
#include "cuda/driver.h"

namespace sparsesvm::binding {

// Bytes of workspace, and how the work is spread: the last arguments of every launch.
using Plan = std::tuple<index, index, int, int>;
inline Plan plan(const cuda::Grid& grid) { return {grid.bytes, grid.team_bytes, grid.parts, grid.teams}; }

#define LAUNCH_PARAMETERS address workspace, index bytes, index team_bytes, int parts, int teams, int device, address stream
#define LAUNCH sparsesvm::cuda::Grid{parts, teams, team_bytes, bytes}, at<void>(workspace), device, stream

}  // namespace sparsesvm::binding
