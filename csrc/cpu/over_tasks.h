// Hands the tasks of a batch to threads, each with its part of the workspace; a single task gets all threads for its passes.
#pragma once

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <thread>

#include "core/svm/problem.h"
#include "cpu/interrupt.h"
#include "cpu/parallel.h"

namespace sparsesvm::cpu {

inline int thread_count(index n_tasks, int n_threads) {
  return static_cast<int>(std::max<index>(1, std::min<index>(n_tasks, n_threads)));
}

// Per-thread shares of the workspace start on cache-line boundaries.
inline index share(index bytes) { return (bytes + 63) / 64 * 64; }

struct TeamSize {
  explicit TeamSize(int size) { team_size() = size; }
  ~TeamSize() { team_size() = 1; }
};

// Throws Interrupted when the call was given up.
template <typename Arguments>
void over_tasks(const Arguments& arguments, void (*work)(const Arguments&, index, void*, index), index share_bytes, void* workspace,
                index bytes, int n_threads) {
  const int threads = thread_count(arguments.batch.n_tasks, n_threads);
  if (share_bytes * threads > bytes) throw std::logic_error("workspace is smaller than the size asked for");
  Call call;
  if (arguments.batch.n_tasks == 1) {
    const AtWork at_work(&call);
    const TeamSize team(n_threads);
    work(arguments, 0, workspace, share_bytes);
    return;
  }
  struct State {
    const Arguments& arguments;
    void (*work)(const Arguments&, index, void*, index);
    index share_bytes;
    char* workspace;
    Call& call;
    const std::thread::id caller;
    std::atomic<index> next_task{0};
    std::atomic<int> next_thread{0};
    std::atomic<int> busy{0};
  } state{arguments, work, share_bytes, static_cast<char*>(workspace), call, std::this_thread::get_id()};
  run_parallel(
      threads,
      [](void* opaque) {
        State& s = *static_cast<State*>(opaque);
        const AtWork at_work(&s.call);
        char* own = s.workspace + s.next_thread++ * s.share_bytes;
        ++s.busy;
        try {
          for (index task = s.next_task++; task < s.arguments.batch.n_tasks; task = s.next_task++) {
            pause(0);
            s.work(s.arguments, task, own, s.share_bytes);
          }
        } catch (const Interrupted&) {  // must not pass through the pool; thrown again below
        }
        --s.busy;
        if (std::this_thread::get_id() == s.caller) s.call.wait_until([&s] { return s.busy == 0; });
      },
      &state);
  if (call.given_up(0)) throw Interrupted{};
}

}  // namespace sparsesvm::cpu
