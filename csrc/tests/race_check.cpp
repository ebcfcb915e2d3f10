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
  bool own_classes = false;  // groups have weights, and the second task one class less
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
    for (index j = 0; j < s.m; ++j) features[s.k * s.m + j] = features[j];  // two equal samples, so that no factor is regular
    const std::vector<std::int64_t> ways{s.k, s.k - 1};
    std::vector<double> group_weight;
    for (index b = 0; b < s.m / s.g; ++b) group_weight.push_back(0.5 + uniform(state));
    for (index i = 0; i < tasks * s.n; ++i) {
      labels.push_back(i % (s.own_classes ? ways[i / s.n] : s.k));
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
    Batch<T> batch{tasks,
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
    if (s.own_classes) {
      batch.group_weight = group_weight.data();
      batch.task_way = ways.data();
    }
    auto machine = make_machine();
    emulate<gpu::SolveWorkspace<T>>(
        *machine, SolveArguments<T>{batch, 1e-8, 60, true, nullptr, nullptr, weights.data(), dual.data(), gap.data(),
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

struct RegressionSizes {
  index n, m, q, max_active;
  double lambda1, lambda2;
};

// A batch of two sparse regressions, their features 2, 3 and 4 in the same plane, with its outputs.
template <typename T>
struct RegressionCase {
  std::vector<T> features, targets, weights, grad_features, grad_targets;
  std::vector<double> lambda1, lambda2, gap, objective, by_lambda1, by_lambda2;
  std::vector<std::int64_t> n_iter;
  std::vector<std::int8_t> status;
  std::vector<std::uint8_t> active;

  template <class Machine>
  RegressionCase(const RegressionSizes& s, Machine&& make_machine) {
    constexpr index tasks = 2;
    unsigned state = 1;
    for (index e = 0; e < tasks * s.n * s.m; ++e) {
      const double value = e % s.m == 4 ? static_cast<double>(features[e - 1] + features[e - 2]) : uniform(state) - 0.5;
      features.push_back(static_cast<T>(value));
    }
    for (index e = 0; e < tasks * s.n * s.q; ++e) {
      double value = 0.1 * uniform(state);
      for (index j = 0; j < 4; ++j) value += static_cast<double>(features[e / s.q * s.m + j] * static_cast<T>(1 + e % s.q));
      targets.push_back(static_cast<T>(value));
    }
    lambda1 = {s.lambda1, 2 * s.lambda1};
    lambda2.assign(tasks, s.lambda2);
    weights.resize(tasks * s.q * s.m);
    grad_features.resize(features.size());
    grad_targets.resize(targets.size());
    gap.resize(tasks);
    objective.resize(tasks);
    by_lambda1.resize(tasks);
    by_lambda2.resize(tasks);
    n_iter.resize(tasks);
    status.resize(tasks);
    active.resize(tasks * s.m);
    const RegressionBatch<T> batch{tasks,     s.n, s.m,            s.q,            s.max_active,  features.data(),
                                   s.n * s.m, s.m, targets.data(), lambda1.data(), lambda2.data()};
    auto machine = make_machine();
    using Solve = gpu::RegressionWorkspace<RegressionSolver<T>>;
    emulate<Solve>(*machine, RegressionSolveArguments<T>{batch, 1e-8, 60, weights.data(), gap.data(), objective.data(),
                                                         n_iter.data(), status.data(), active.data()});
    using Diff = gpu::RegressionWorkspace<RegressionDiff<T>>;
    emulate<Diff>(*machine, RegressionVjpArguments<T>{batch, weights.data(), weights.data(), grad_features.data(),
                                                      grad_targets.data(), by_lambda1.data(), by_lambda2.data()});
  }

  bool operator==(const RegressionCase& o) const {
    const auto same = [](const auto& a, const auto& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0; };
    return same(weights, o.weights) && same(gap, o.gap) && same(grad_features, o.grad_features) &&
           same(grad_targets, o.grad_targets) && same(by_lambda1, o.by_lambda1) && same(by_lambda2, o.by_lambda2) &&
           same(status, o.status);
  }
};

template <class Case, class Sizes>
bool agree(const char* name, const Sizes& sizes, Shape shape) {
  const Case fibers(sizes, [&] { return std::make_unique<Fibers>(shape, 0u); });
  const Case threads(sizes, [&] { return std::make_unique<Threads>(shape); });
  const auto certified = [](std::int8_t status) {
    return status == static_cast<std::int8_t>(Status::converged) || status >= static_cast<std::int8_t>(Status::not_identified);
  };
  const bool solved = certified(fibers.status[0]) && certified(fibers.status[1]);
  const bool same = fibers == threads;
  std::printf("%s: %s, %s\n", name, solved ? "solved" : "NOT SOLVED", same ? "the same bits" : "DIFFERENT");
  return solved && same;
}

}  // namespace

bool all_agree() {
  bool fine = agree<Case<double>>("group penalty", Sizes{6, 10, 3, 1, 0.5, 0.3, 0, 0}, {1, 32});
  fine = agree<Case<float>>("two blocks, absent samples", Sizes{7, 12, 3, 2, 0.4, 0.3, 0.5, 3}, {2, 32}) && fine;
  fine = agree<Case<double>>("no group penalty", Sizes{6, 8, 2, 1, 0, 0.5, 0, 0}, {1, 32}) && fine;
  fine = agree<Case<double>>("no dense model", Sizes{18, 4, 2, 1, 0.3, 5.0, 40.0, 0}, {2, 32}) && fine;
  fine = agree<Case<double>>("weights of groups, other classes", Sizes{7, 12, 3, 2, 0.4, 0.3, 0, 3, true}, {2, 32}) && fine;
  fine = agree<Case<double>>("no ridge", Sizes{6, 10, 3, 2, 0.5, 0, 0, 0}, {2, 32}) && fine;
  fine = agree<Case<float>>("no factor", Sizes{20, 24, 2, 1, 0.1, 1e-3, 0, 0}, {2, 32}) && fine;
  fine = agree<RegressionCase<double>>("lasso", RegressionSizes{8, 6, 1, 6, 1e-3, 0}, {1, 64}) && fine;
  fine = agree<RegressionCase<float>>("group lasso with a working set", RegressionSizes{5, 70, 2, 70, 2e-2, 0}, {1, 64}) && fine;
  fine = agree<RegressionCase<double>>("elastic net, no matrix", RegressionSizes{8, 6, 2, 1, 1e-3, 1e-2}, {1, 64}) && fine;
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
