// Runs a function on several threads, on torch's own OpenMP pool when torch is loaded, so that no second pool competes for the cores.
#pragma once

namespace sparsesvm {

// Calls run(state) on up to `n_threads` threads, the caller's included, and returns when all are done. `run` must not throw, and must
// take its share of the work from a shared counter: fewer threads than asked for may come.
void run_parallel(int n_threads, void (*run)(void*), void* state);

}  // namespace sparsesvm
