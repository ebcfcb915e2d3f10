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
SPARSESVM_HD void fill_absent(Team team, const SolveArguments<T>& all, index number) {
  fill_absent_classes(all.batch, number, all.weights, all.dual, team_rank(team), team_size(team));
}

template <typename T, class Team>
SPARSESVM_HD void fill_absent(Team /*team*/, const VjpArguments<T>& /*all*/, index /*number*/) {}

template <typename T, class Team>
SPARSESVM_HD void fill_absent(Team team, const JvpArguments<T>& all, index number) {
  fill_absent_classes<T>(all.batch, number, all.tangent_weights, nullptr, team_rank(team), team_size(team));
}

// Calls body(arguments, number) for the team's tasks; where tasks differ in the number of classes, with the arguments of each alone.
template <class Workspace, class Arguments, class Team, class Body>
SPARSESVM_HD void over_tasks(Team team, Workspace& shared, const Arguments& arguments, const Assignment& assignment, const Body& body) {
  lay_out(team, shared, arguments.batch, assignment);
  for (index number = assignment.first; number < arguments.batch.n_tasks; number += assignment.step) {
    Arguments alone;
    const bool differ = arguments.batch.task_way != nullptr;
    if (differ) {
      alone = of_task(arguments, number);
      team.sync_team();  // the last task is done with
      lay_out(team, shared, alone.batch, assignment);
    }
    body(differ ? alone : arguments, differ ? 0 : number);
    if (differ) fill_absent(team, arguments, number);
  }
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, SolveWorkspace<T>& shared, const SolveArguments<T>& arguments, const Assignment& assignment) {
  over_tasks(team, shared, arguments, assignment, [&](const SolveArguments<T>& own, index number) {
    Solver<T, Team>(team, shared).solve(own, number);
  });
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, DiffWorkspace<T>& shared, const VjpArguments<T>& arguments, const Assignment& assignment) {
  over_tasks(team, shared, arguments, assignment, [&](const VjpArguments<T>& own, index number) {
    ImplicitDiff<T, Team>(team, shared).vjp(own, number);
  });
}

template <typename T, class Team>
SPARSESVM_HD void run(Team team, DiffWorkspace<T>& shared, const JvpArguments<T>& arguments, const Assignment& assignment) {
  over_tasks(team, shared, arguments, assignment, [&](const JvpArguments<T>& own, index number) {
    ImplicitDiff<T, Team>(team, shared).jvp(own, number);
  });
}

}  // namespace gpu
SPARSESVM_END
