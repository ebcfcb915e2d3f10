// Who works on a task: a team of one or more blocks of threads. The bodies in this folder are templates on it, so that the same
// source runs in a kernel (device_team.cuh) and on the host with emulated threads (tests/host_team.h).
//
//   part(), parts()     this block's place in the team, and how many blocks it has
//   rank(), size()      this thread's place in its block
//   warp(), warps()     this thread's warp in its block; a warp has 32 lanes
//   lane()
//   sync()              barrier of the block
//   sync_team()         barrier of all blocks of the team
//   sum(x), max(x)      over the block, the result for every thread; also a barrier of the block
//   warp_sum(x)         over the warp, the result for every lane; no barrier
//   warp_sums(values)   lane l < N gets the sum of values[l] over the warp; no barrier
//   warp_broadcast(x, lane)   that lane's x for every lane of the warp; no barrier
//
// A team is passed by value. Collective calls stand where all threads concerned arrive: loops and branches around them depend on
// values that are equal for all, either computed by all from the same numbers or read after a barrier. Blocks of a team repeat what
// is small, such as sums over samples, instead of exchanging it: the same operations in the same order give the same bits.
#pragma once

#include "core/basics.h"
#include "core/macros.h"
#include "core/team.h"

#if defined(__CUDA_ARCH__)
#define SPARSESVM_UNROLL _Pragma("unroll")
#define SPARSESVM_NO_UNROLL _Pragma("unroll 1")
#else
#define SPARSESVM_UNROLL
#define SPARSESVM_NO_UNROLL
#endif

SPARSESVM_BEGIN
namespace gpu {

constexpr int lanes = 32;

// Part `part` of `parts` of the numbers 0 .. count - 1.
struct Range {
  int begin, end;
};
SPARSESVM_HD inline Range share(int count, int part, int parts) {
  return {static_cast<int>(static_cast<index>(count) * part / parts),
          static_cast<int>(static_cast<index>(count) * (part + 1) / parts)};
}

// Lists, in order, the positions for which `wanted` holds; returns how many, to every thread of the block. `counts` has one entry
// per thread.
template <class Team, class Wanted, typename Place>
SPARSESVM_HD int list_where(Team block, int n, const Wanted& wanted, Place* list, int* counts) {
  const Range own = share(n, block.rank(), block.size());
  int count = 0;
  for (int e = own.begin; e < own.end; ++e) count += wanted(e);
  counts[block.rank()] = count;
  block.sync();
  int before = 0, total = 0;
  for (int r = 0; r < block.size(); ++r) {
    before += r < block.rank() ? counts[r] : 0;
    total += counts[r];
  }
  for (int e = own.begin; e < own.end; ++e) {
    if (wanted(e)) list[before++] = e;
  }
  block.sync();
  return total;
}

// The positions where `flags` is `wanted`.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE int list_flagged(Team block, const char* flags, char wanted, int n, int* list, int* counts) {
  return list_where(block, n, [flags, wanted](int e) { return flags[e] == wanted; }, list, counts);
}

// Replaces values[0 .. n - 1] by the sums of those before; values[n] becomes the total, which is returned to every thread of the
// block.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE int add_before(Team block, int* values, int n, int* counts) {
  const Range own = share(n, block.rank(), block.size());
  int count = 0;
  for (int e = own.begin; e < own.end; ++e) count += values[e];
  counts[block.rank()] = count;
  block.sync();
  int before = 0, total = 0;
  for (int r = 0; r < block.size(); ++r) {
    before += r < block.rank() ? counts[r] : 0;
    total += counts[r];
  }
  for (int e = own.begin; e < own.end; ++e) {
    const int value = values[e];
    values[e] = before;
    before += value;
  }
  if (block.rank() == 0) values[n] = total;
  block.sync();
  return total;
}

constexpr int max_threads = 1024;  // of a block

}  // namespace gpu
SPARSESVM_END
