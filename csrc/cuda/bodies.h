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

// Calls body(number) for the team's tasks; where tasks differ in the number of classes, in memory laid out for each.
template <class Workspace, typename T, class Team, class Body>
SPARSESVM_HD void over_tasks(Team team, Workspace& shared, const Batch<T>& batch, const Assignment& assignment, const Body& body) {
  lay_out(team, shared, batch, assignment);
  for (index number = assignment.first; number < batch.n_tasks; number += assignment.step) {
    if (batch.task_way != nullptr) {
      team.sync_team();  // the last task is done with
      lay_out(team, shared, sizes_of_task(batch, number), assignment);
    }
    body(number);
  }
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, SolveWorkspace<T>& shared, const SolveArguments<T>& arguments, const Assignment& assignment) {
  over_tasks(team, shared, arguments.batch, assignment, [&](index number) {
    Solver<T, Team>(team, shared).solve(arguments, number);
    fill_absent_classes(arguments.batch, number, arguments.weights, arguments.dual, team_rank(team), team_size(team));
  });
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, DiffWorkspace<T>& shared, const VjpArguments<T>& arguments, const Assignment& assignment) {
  over_tasks(team, shared, arguments.batch, assignment, [&](index number) {
    ImplicitDiff<T, Team>(team, shared).vjp(arguments, number);
  });
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, DiffWorkspace<T>& shared, const JvpArguments<T>& arguments, const Assignment& assignment) {
  over_tasks(team, shared, arguments.batch, assignment, [&](index number) {
    ImplicitDiff<T, Team>(team, shared).jvp(arguments, number);
    fill_absent_classes<T>(arguments.batch, number, arguments.tangent_weights, nullptr, team_rank(team), team_size(team));
  });
}

}  // namespace gpu
SPARSESVM_END
