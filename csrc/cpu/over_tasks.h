// Hands the tasks of a batch to threads, each with its part of the workspace; a single task gets all threads for its passes.
#pragma once

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "core/svm/problem.h"
#include "cpu/parallel.h"

namespace sparsesvm::cpu {

inline int thread_count(index n_tasks, int n_threads) {
  return static_cast<int>(std::max<index>(1, std::min<index>(n_tasks, n_threads)));
}

// Per-thread shares of the workspace start on cache-line boundaries.
inline index share(index bytes) { return (bytes + 63) / 64 * 64; }

template <typename Arguments>
void over_tasks(const Arguments& arguments, void (*work)(const Arguments&, index, void*, index), index share_bytes, void* workspace,
                index bytes, int n_threads) {
  const int threads = thread_count(arguments.batch.n_tasks, n_threads);
  if (share_bytes * threads > bytes) throw std::logic_error("workspace is smaller than the size asked for");
  if (arguments.batch.n_tasks == 1) {
    team_size() = n_threads;
    work(arguments, 0, workspace, share_bytes);
    team_size() = 1;
    return;
  }
  struct State {
    const Arguments& arguments;
    void (*work)(const Arguments&, index, void*, index);
    index share_bytes;
    char* workspace;
    std::atomic<index> next_task{0};
    std::atomic<int> next_thread{0};
  } state{arguments, work, share_bytes, static_cast<char*>(workspace)};
  run_parallel(
      threads,
      [](void* opaque) {
        State& s = *static_cast<State*>(opaque);
        char* own = s.workspace + s.next_thread++ * s.share_bytes;
        for (index task = s.next_task++; task < s.arguments.batch.n_tasks; task = s.next_task++) {
          s.work(s.arguments, task, own, s.share_bytes);
        }
      },
      &state);
}

}  // namespace sparsesvm::cpu
