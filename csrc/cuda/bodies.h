// The bodies of the kernels: a team works through its share of a batch. `shared` is the block's own copy of the workspace's
// pointers.
#pragma once

#include "cuda/implicit_diff.h"
#include "cuda/solver.h"

SPARSESVM_BEGIN
namespace gpu {

// A team's part of the memory and of the tasks: first, first + step, ...
struct Assignment {
  void* memory;
  index bytes;
  index first, step;
};

// Bytes one team needs.
template <class Workspace, class Batch>
index workspace_bytes(const Batch& batch) {
  Arena arena(nullptr, 0);
  Workspace measured;
  measured.take(arena, batch);
  constexpr index page = 256;
  return (arena.used() + page - 1) / page * page;
}

template <class Workspace, class Batch, class Team>
SPARSESVM_HD void lay_out(Team team, Workspace& shared, const Batch& batch, const Assignment& assignment) {
  if (team.rank() == 0) {
    Arena arena(assignment.memory, assignment.bytes);
    shared.take(arena, batch);
  }
  team.sync();
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, SolveWorkspace<T>& shared, const SolveArguments<T>& arguments, const Assignment& assignment) {
  lay_out(team, shared, arguments.batch, assignment);
  for (index number = assignment.first; number < arguments.batch.n_tasks; number += assignment.step) {
    Solver<T, Team>(team, shared).solve(arguments, number);
  }
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, DiffWorkspace<T>& shared, const VjpArguments<T>& arguments, const Assignment& assignment) {
  lay_out(team, shared, arguments.batch, assignment);
  for (index number = assignment.first; number < arguments.batch.n_tasks; number += assignment.step) {
    ImplicitDiff<T, Team>(team, shared).vjp(arguments, number);
  }
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, DiffWorkspace<T>& shared, const JvpArguments<T>& arguments, const Assignment& assignment) {
  lay_out(team, shared, arguments.batch, assignment);
  for (index number = assignment.first; number < arguments.batch.n_tasks; number += assignment.step) {
    ImplicitDiff<T, Team>(team, shared).jvp(arguments, number);
  }
}

}  // namespace gpu
SPARSESVM_END
