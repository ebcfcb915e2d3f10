// Who works on a task where that is not one thread of the CPU alone: what is written for a team of threads runs with this one as
// well. cuda/team.h says what the functions mean; members share out what they write by `team_rank`, and each block sums for
// itself.
#pragma once

#include "core/basics.h"
#include "core/macros.h"

SPARSESVM_BEGIN

struct OneThread {
  index part() const { return 0; }
  index parts() const { return 1; }
  index rank() const { return 0; }
  index size() const { return 1; }
  void sync() const {}
  void sync_team() const {}
  double sum(double x) const { return x; }
  double max(double x) const { return x; }
};

// A place where a call may be given up, in loops that go long without a pass; `work` is the number of multiplications since. Only
// one thread of the CPU can leave its task: the others have no such place.
template <class Team>
SPARSESVM_HD void listen(const Team&, index) {}

// Where a thread stands among all threads of its team.
template <class Team>
SPARSESVM_HD auto team_rank(Team team) {
  return team.part() * team.size() + team.rank();
}
template <class Team>
SPARSESVM_HD auto team_size(Team team) {
  return team.parts() * team.size();
}

SPARSESVM_END
