// Solves and differentiates a few problems with every emulated thread a thread of its own: run under ThreadSanitizer, which finds
// what a missing barrier would let happen. Exits with 1 when the answers are not those of the fibers, bit by bit.
#define SPARSESVM_MAX_MODEL_SIZE 16  // so that a small problem is too large for a dense model

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "tests/emulation.h"

namespace sparsesvm::testing {
namespace {

struct Sizes {
  index n, m, k, g;
  double lambda1, lambda2, dual_reg;
  int absent;  // every so many samples has weight zero; 0 for none
};

double uniform(unsigned& state) {
  state = state * 1664525u + 1013904223u;
  return static_cast<double>(state >> 8) / (1 << 24);
}

// A batch of two tasks with their outputs: everything a solve and both derivatives write.
template <typename T>
struct Case {
  std::vector<T> features, weights, dual, grad_features, tangent;
  std::vector<double> sample_weight, lambda1, lambda2, gap, objective, by_weight, by_lambda1, by_lambda2;
  std::vector<std::int64_t> labels, n_iter;
  std::vector<std::int8_t> status;
  std::vector<std::uint8_t> active;

  template <class Machine>
  Case(const Sizes& s, Machine&& make_machine) {
    constexpr index tasks = 2;
    unsigned state = 1;
    features.resize(tasks * s.n * s.m);
    for (T& value : features) value = static_cast<T>(uniform(state) > 0.4 ? uniform(state) : 0.0);
    for (index i = 0; i < tasks * s.n; ++i) {
      labels.push_back(i % s.k);
      sample_weight.push_back(s.absent > 0 && i % s.absent == 0 ? 0.0 : 0.5 + uniform(state));
    }
    lambda1.assign(tasks, s.lambda1);
    lambda2 = {s.lambda2, 2 * s.lambda2};
    weights.resize(tasks * s.k * s.m);
    dual.resize(tasks * s.n * s.k);
    grad_features.resize(features.size());
    tangent.resize(weights.size());
    gap.resize(tasks);
    objective.resize(tasks);
    by_lambda1.resize(tasks);
    by_lambda2.resize(tasks);
    by_weight.resize(tasks * s.n);
    n_iter.resize(tasks);
    status.resize(tasks);
    active.resize(tasks * s.m / s.g);
    const Batch<T> batch{tasks,
                         s.n,
                         s.m,
                         s.k,
                         s.g,
                         features.data(),
                         s.n * s.m,
                         s.m,
                         labels.data(),
                         sample_weight.data(),
                         lambda1.data(),
                         lambda2.data(),
                         s.dual_reg};
    auto machine = make_machine();
    emulate<gpu::SolveWorkspace<T>>(*machine, SolveArguments<T>{batch, 1e-8, 60, nullptr, weights.data(), dual.data(), gap.data(),
                                                                objective.data(), n_iter.data(), status.data(), active.data()});
    const SolutionView<T> solution{weights.data(), dual.data()};
    emulate<gpu::DiffWorkspace<T>>(*machine, VjpArguments<T>{batch, solution, weights.data(), grad_features.data(),
                                                             by_lambda1.data(), by_lambda2.data(), by_weight.data()});
    emulate<gpu::DiffWorkspace<T>>(*machine, JvpArguments<T>{batch, solution, features.data(), lambda1.data(), lambda2.data(),
                                                             sample_weight.data(), tangent.data()});
  }

  template <typename V>
  static bool same(const V& a, const V& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
  }
  bool operator==(const Case& o) const {
    return same(weights, o.weights) && same(dual, o.dual) && same(gap, o.gap) && same(grad_features, o.grad_features) &&
           same(tangent, o.tangent) && same(by_weight, o.by_weight) && same(by_lambda1, o.by_lambda1) &&
           same(by_lambda2, o.by_lambda2) && same(status, o.status);
  }
};

template <typename T>
bool agree(const char* name, const Sizes& sizes, Shape shape) {
  const Case<T> fibers(sizes, [&] { return std::make_unique<Fibers>(shape, 0u); });
  const Case<T> threads(sizes, [&] { return std::make_unique<Threads>(shape); });
  const bool solved = fibers.status[0] == 0 && fibers.status[1] == 0;
  const bool same = fibers == threads;
  std::printf("%s: %s, %s\n", name, solved ? "solved" : "NOT SOLVED", same ? "the same bits" : "DIFFERENT");
  return solved && same;
}

}  // namespace

bool all_agree() {
  bool fine = agree<double>("group penalty", {6, 10, 3, 1, 0.5, 0.3, 0, 0}, {1, 32});
  fine = agree<float>("two blocks, absent samples", {7, 12, 3, 2, 0.4, 0.3, 0.5, 3}, {2, 32}) && fine;
  fine = agree<double>("no group penalty", {6, 8, 2, 1, 0, 0.5, 0, 0}, {1, 32}) && fine;
  fine = agree<double>("no dense model", {18, 4, 2, 1, 0.3, 5.0, 40.0, 0}, {2, 32}) && fine;
  return fine;
}

void forget_a_barrier() {
  Threads threads({1, lanes});
  int shared = 0;
  threads.run([&](const auto& team) {
    if (team.rank() == 0) shared = 1;
    if (team.max(0.0) + shared < 0) std::printf("never\n");
    if (team.rank() == 1) shared = 2;
  });
}

}  // namespace sparsesvm::testing

// Given any argument, it runs a body that lacks a barrier instead, which the sanitizer must find.
int main(int count, char** /*arguments*/) {
  if (count > 1) {
    sparsesvm::testing::forget_a_barrier();
    return 0;
  }
  return sparsesvm::testing::all_agree() ? 0 : 1;
}
