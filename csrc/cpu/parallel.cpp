#include "cpu/parallel.h"

#include <dlfcn.h>
#include <pthread.h>

#include <system_error>
#include <thread>
#include <vector>

namespace sparsesvm {
namespace {

// A forked child has none of the threads that the pool still counts on: waiting for them would hang.
bool forked = false;
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

int& team_size() {
  thread_local int size = 1;
  return size;
}

void run_parallel(int n_threads, void (*run)(void*), void* state) {
  if (n_threads <= 1 || forked) {
    run(state);
    return;
  }
#ifndef SPARSESVM_NO_POOL  // sanitizers cannot see into the pool
  // The entry point behind `#pragma omp parallel`. Torch loads the library that has it globally; linking it ourselves would bring a
  // second copy. Dispatch costs about 1 us against 20-60 us for fresh threads.
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  static const auto pool = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  if (pool != nullptr) {
    pool(run, state, static_cast<unsigned>(n_threads), 0);
    return;
  }
#endif
  std::vector<std::thread> threads;
  try {
    for (int i = 1; i < n_threads; ++i) threads.emplace_back(run, state);
  } catch (const std::system_error&) {  // the system gives no more; those that came do the work
  }
  run(state);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace sparsesvm
