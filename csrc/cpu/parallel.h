// Runs a function on several threads, on torch's own OpenMP pool when torch is loaded, so that no second pool competes for the cores.
#pragma once

#include <atomic>
#include <cstdint>

#include "cpu/interrupt.h"

namespace sparsesvm {

// Calls run(state) on up to `n_threads` threads, the caller's included, and returns when all are done. `run` must not throw, and must
// take its share of the work from a shared counter: fewer threads than asked for may come.
void run_parallel(int n_threads, void (*run)(void*), void* state);

// Threads that the passes of one task may use: one, unless the task has the call to itself.
int& team_size();

// Calls body(part) for 0 <= part < parts, on the team where the work (multiplications) is worth waking it. Parts must not depend on
// each other; which thread takes which then changes nothing. A place to pause at, before and, where that is long, between parts.
template <class Body>
void over_parts(std::int64_t parts, std::int64_t work, const Body& body) {
  constexpr std::int64_t worth_waking = 1 << 20;  // some 50 us
  const int threads = team_size();
  if (parts <= 1 || work < worth_waking) {
    pause(work);
    for (std::int64_t part = 0; part < parts; ++part) body(part);
    return;
  }
  if (threads <= 1) {
    for (std::int64_t part = 0; part < parts; ++part) {
      pause(work / parts);
      body(part);
    }
    return;
  }
  struct State {
    const Body& body;
    std::int64_t parts, work;
    Call* call;
    std::atomic<std::int64_t> next{0};
  } state{body, parts, work / parts * threads, call_at_work()};
  run_parallel(
      threads,
      [](void* opaque) {
        State& s = *static_cast<State*>(opaque);
        const AtWork on_none(nullptr);  // as no exception may pass through the pool
        for (std::int64_t part = s.next++; part < s.parts; part = s.next++) {
          if (s.call != nullptr && s.call->given_up(s.work)) return;
          s.body(part);
        }
      },
      &state);
  pause(0);
}

}  // namespace sparsesvm
