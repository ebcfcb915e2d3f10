// The CUDA bodies on emulated teams, as a library that tests load with ctypes: the arguments of csrc/core/svm/problem.h
// and regression.h by address.
#include <string>

#include "tests/emulation.h"

namespace {

using namespace sparsesvm;

std::string& message() {
  static std::string text;
  return text;
}

template <class Workspace, class Arguments>
int emulate(const void* arguments, int parts, int threads, unsigned seed) {
  try {
    testing::Fibers fibers({parts, threads}, seed);
    testing::emulate<Workspace>(fibers, *static_cast<const Arguments*>(arguments));
    return 0;
  } catch (const std::exception& error) {
    message() = error.what();
    return 1;
  }
}

// A body whose threads do not all reach the barrier.
int emulate_divergence(int threads) {
  try {
    testing::Fibers fibers({1, threads}, 0);
    fibers.run([](const auto& team) {
      if (team.rank() == 0) return;
      team.sync();
    });
    return 0;
  } catch (const std::exception& error) {
    message() = error.what();
    return 1;
  }
}

}  // namespace

extern "C" {
const char* error_message() { return message().c_str(); }
int diverge(int threads) { return emulate_divergence(threads); }

#define SPARSESVM_EMULATE(name, T)                                                      \
  int solve_##name(const void* a, int parts, int threads, unsigned seed) {              \
    return emulate<gpu::SolveWorkspace<T>, SolveArguments<T>>(a, parts, threads, seed); \
  }                                                                                     \
  int vjp_##name(const void* a, int parts, int threads, unsigned seed) {                \
    return emulate<gpu::DiffWorkspace<T>, VjpArguments<T>>(a, parts, threads, seed);    \
  }                                                                                     \
  int jvp_##name(const void* a, int parts, int threads, unsigned seed) {                \
    return emulate<gpu::DiffWorkspace<T>, JvpArguments<T>>(a, parts, threads, seed);    \
  }                                                                                     \
  int solve_regression_##name(const void* a, int parts, int threads, unsigned seed) {   \
    using Workspace = gpu::RegressionWorkspace<RegressionSolver<T>>;                    \
    return emulate<Workspace, RegressionSolveArguments<T>>(a, parts, threads, seed);    \
  }                                                                                     \
  int regression_vjp_##name(const void* a, int parts, int threads, unsigned seed) {     \
    using Workspace = gpu::RegressionWorkspace<RegressionDiff<T>>;                      \
    return emulate<Workspace, RegressionVjpArguments<T>>(a, parts, threads, seed);      \
  }
SPARSESVM_EMULATE(float32, float)
SPARSESVM_EMULATE(float64, double)
}
