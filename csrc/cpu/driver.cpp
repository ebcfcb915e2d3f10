#include "cpu/driver.h"

#include <cstdlib>
#include <stdexcept>

#include "cpu/kernels.h"
#include "cpu/over_tasks.h"

namespace sparsesvm::cpu {
namespace {

struct Level {
  const char* name;
  KernelSet kernels;
  bool supported;
};

#ifdef SPARSESVM_HAVE_X86_LEVELS
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12  // knows the features, not the levels by name
bool has_v3() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}
bool has_v4() {
  return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
bool has_v3() { return __builtin_cpu_supports("x86-64-v3") != 0; }
bool has_v4() { return __builtin_cpu_supports("x86-64-v4") != 0; }
#endif
#endif

std::vector<Level> levels() {
  std::vector<Level> found{{"base", kernels_base(), true}};
#ifdef SPARSESVM_HAVE_X86_LEVELS
  found.push_back({"v3", kernels_v3(), has_v3()});
  found.push_back({"v4", kernels_v4(), has_v4()});
#endif
  return found;
}

// The best level of this processor, or the one named by the environment variable SPARSESVM_SIMD.
Level choose_level() {
  const std::vector<Level> all = levels();
  const char* wanted = std::getenv("SPARSESVM_SIMD");
  if (wanted != nullptr && *wanted != '\0') {
    for (const Level& level : all) {
      if (level.name == std::string(wanted)) {
        if (!level.supported) throw std::runtime_error("SPARSESVM_SIMD=" + std::string(wanted) + " is not supported by this processor");
        return level;
      }
    }
    throw std::runtime_error("SPARSESVM_SIMD must be base, v3 or v4, and v3 and v4 need an x86-64 build; got " + std::string(wanted));
  }
  Level best = all.front();
  for (const Level& level : all) {
    if (level.supported) best = level;
  }
  return best;
}

const Level& level() {
  static const Level chosen = choose_level();
  return chosen;
}

template <typename T>
const Kernels<T>& kernels();
template <>
const Kernels<float>& kernels<float>() {
  return level().kernels.single;
}
template <>
const Kernels<double>& kernels<double>() {
  return level().kernels.twice;
}

}  // namespace

std::string simd_level() { return level().name; }

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (const Level& one : levels()) names.emplace_back(one.name);
  return names;
}

template <typename T>
index solve_workspace(const Batch<T>& batch, int n_threads) {
  const auto measure = batch.sparse ? kernels<T>().sparse_solve_workspace : kernels<T>().solve_workspace;
  return share(measure(batch)) * thread_count(batch.n_tasks, n_threads);
}

template <typename T>
void solve(const SolveArguments<T>& arguments, void* workspace, index bytes, int n_threads) {
  const auto work = arguments.batch.sparse ? kernels<T>().sparse_solve : kernels<T>().solve;
  over_tasks(arguments, work, solve_workspace(arguments.batch, 1), workspace, bytes, n_threads);
}

template <typename T>
index diff_workspace(const Batch<T>& batch, int n_threads) {
  return share(kernels<T>().diff_workspace(batch)) * thread_count(batch.n_tasks, n_threads);
}

template <typename T>
void vjp(const VjpArguments<T>& arguments, void* workspace, index bytes, int n_threads) {
  over_tasks(arguments, kernels<T>().vjp, share(kernels<T>().diff_workspace(arguments.batch)), workspace, bytes, n_threads);
}

template <typename T>
void jvp(const JvpArguments<T>& arguments, void* workspace, index bytes, int n_threads) {
  over_tasks(arguments, kernels<T>().jvp, share(kernels<T>().diff_workspace(arguments.batch)), workspace, bytes, n_threads);
}

#define SPARSESVM_INSTANTIATE(T)                                                  \
  template index solve_workspace<T>(const Batch<T>&, int);                        \
  template void solve<T>(const SolveArguments<T>&, void*, index, int);            \
  template index diff_workspace<T>(const Batch<T>&, int);                         \
  template void vjp<T>(const VjpArguments<T>&, void*, index, int);                \
  template void jvp<T>(const JvpArguments<T>&, void*, index, int);
SPARSESVM_INSTANTIATE(float)
SPARSESVM_INSTANTIATE(double)

}  // namespace sparsesvm::cpu
