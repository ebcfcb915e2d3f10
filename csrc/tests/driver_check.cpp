// Several threads call the CPU's driver at once, each on several threads of its own, over batches and over single tasks whose
// passes they share, and some calls are interrupted: run under ThreadSanitizer. Exits with 1 when an answer is not that of one
// thread alone, bit by bit, or when no call was interrupted.
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "cpu/driver.h"
#include "cpu/interrupt.h"
#include "cpu/regression_driver.h"

namespace sparsesvm::testing {
namespace {

double uniform(unsigned& state) {
  state = state * 1664525u + 1013904223u;
  return static_cast<double>(state >> 8) / (1 << 24);
}

// Memory for a call's scratch.
class Scratch {
 public:
  explicit Scratch(index bytes) : memory_(static_cast<std::size_t>(bytes)) {}
  void* get() { return memory_.data(); }
  index bytes() const { return static_cast<index>(memory_.size()); }

 private:
  std::vector<char> memory_;
};

struct Sizes {
  index tasks, n, m, k;
  bool sparse;
};

// What all callers read.
struct Problem {
  Sizes sizes;
  std::vector<float> features, targets;
  std::vector<std::int64_t> labels, row_start, column;
  std::vector<double> sample_weight, lambda1, lambda2;

  explicit Problem(const Sizes& s) : sizes(s) {
    unsigned state = 1;
    for (index i = 0; i < s.tasks * s.n; ++i) {
      row_start.push_back(static_cast<index>(features.size()));
      for (index j = 0; j < s.m; ++j) {
        const double value = uniform(state) - 0.5;
        if (s.sparse && value < 0) continue;
        column.push_back(j);
        features.push_back(static_cast<float>(value + (j % s.k == i % s.k ? 0.3 : 0.0)));
      }
      labels.push_back(i % s.k);
      sample_weight.push_back(0.5 + uniform(state));
      for (index l = 0; l < s.k; ++l) targets.push_back(static_cast<float>(uniform(state)));
    }
    row_start.push_back(static_cast<index>(features.size()));
    lambda1.assign(s.tasks, 0.3);
    lambda2.assign(s.tasks, 0.2);
  }

  Batch<float> batch() const {
    const Sizes& s = sizes;
    Batch<float> b{s.tasks,       s.n,   s.m, s.k, 1, features.data(), s.n * s.m, s.m, labels.data(), sample_weight.data(),
                   lambda1.data(), lambda2.data(), 0.0};
    b.sparse = s.sparse;
    b.n_entries = static_cast<index>(features.size());
    b.row_start = row_start.data();
    b.column = column.data();
    return b;
  }

  RegressionBatch<float> regression() const {
    const Sizes& s = sizes;
    return {s.tasks, s.n, s.m, s.k, s.m, features.data(), s.n * s.m, s.m, targets.data(), lambda1.data(), lambda2.data()};
  }
};

// Everything that the driver writes for a problem.
struct Answer {
  std::vector<float> weights, dual, by_features, tangent, by_targets;
  std::vector<double> gap, objective, by_lambda1, by_lambda2, by_weight;
  std::vector<std::int64_t> n_iter;
  std::vector<std::int8_t> status;
  std::vector<std::uint8_t> active;

  explicit Answer(const Sizes& s)
      : weights(s.tasks * s.k * s.m), dual(s.tasks * s.n * s.k), by_features(s.tasks * s.n * s.m), tangent(weights.size()),
        by_targets(dual.size()), gap(s.tasks), objective(s.tasks), by_lambda1(s.tasks), by_lambda2(s.tasks),
        by_weight(s.tasks * s.n), n_iter(s.tasks), status(s.tasks), active(s.tasks * s.m) {}

  void find(const Problem& problem, int threads) {
    const Batch<float> batch = problem.batch();
    Scratch scratch(cpu::solve_workspace(batch, threads));
    const bool identify = !batch.sparse;
    cpu::solve(SolveArguments<float>{batch, 1e-6, 100, identify, nullptr, nullptr, weights.data(), dual.data(), gap.data(),
                                     objective.data(), n_iter.data(), status.data(), active.data()},
               scratch.get(), scratch.bytes(), threads);
    if (batch.sparse) return;
    const SolutionView<float> solution{weights.data(), dual.data()};
    Scratch more(cpu::diff_workspace(batch, threads));
    cpu::vjp(VjpArguments<float>{batch, solution, weights.data(), by_features.data(), by_lambda1.data(), by_lambda2.data(),
                                 by_weight.data()},
             more.get(), more.bytes(), threads);
    cpu::jvp(JvpArguments<float>{batch, solution, problem.features.data(), problem.lambda1.data(), problem.lambda2.data(),
                                 problem.sample_weight.data(), tangent.data()},
             more.get(), more.bytes(), threads);
  }

  void find_regression(const Problem& problem, int threads) {
    const RegressionBatch<float> batch = problem.regression();
    Scratch scratch(cpu::solve_workspace(batch, threads)), more(cpu::vjp_workspace(batch, threads));
    cpu::solve(RegressionSolveArguments<float>{batch, 1e-8, 100, weights.data(), gap.data(), objective.data(), n_iter.data(),
                                               status.data(), active.data()},
               scratch.get(), scratch.bytes(), threads);
    cpu::vjp(RegressionVjpArguments<float>{batch, weights.data(), weights.data(), by_features.data(), by_targets.data(),
                                           by_lambda1.data(), by_lambda2.data()},
             more.get(), more.bytes(), threads);
  }

  bool operator==(const Answer& o) const {
    const auto same = [](const auto& a, const auto& b) { return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0; };
    return same(weights, o.weights) && same(dual, o.dual) && same(by_features, o.by_features) && same(tangent, o.tangent) &&
           same(by_targets, o.by_targets) && same(gap, o.gap) && same(objective, o.objective) && same(by_lambda1, o.by_lambda1) &&
           same(by_lambda2, o.by_lambda2) && same(by_weight, o.by_weight) && same(n_iter, o.n_iter) && same(status, o.status) &&
           same(active, o.active);
  }
};

using Find = void (Answer::*)(const Problem&, int);

struct Case {
  const char* name;
  Sizes sizes;
  Find find;
};

// The large ones share the passes of a task: they have more than 2^20 multiplications.
const Case cases[] = {
    {"a batch", {6, 10, 40, 3, false}, &Answer::find},
    {"a large task", {1, 40, 20000, 3, false}, &Answer::find},
    {"sparse rows", {1, 30, 200, 3, true}, &Answer::find},
    {"regressions", {5, 12, 60, 2, false}, &Answer::find_regression},
};

// One of several threads that make the same call; every other one is interrupted at first, where the call lasts long enough to
// ask.
void call(const Case& one, const Problem& problem, const Answer& expected, bool impatient, bool& same, int& interrupted) {
  struct Patience {
    int left;
    static bool over(void* state) { return static_cast<Patience*>(state)->left-- > 0; }
  } patience{impatient ? 1 : 0};
  question() = {&Patience::over, &patience};
  for (;;) {
    Answer found(problem.sizes);
    try {
      (found.*one.find)(problem, 3);
    } catch (const Interrupted&) {
      ++interrupted;
      continue;
    }
    same = found == expected;
    break;
  }
  question() = {};
}

bool all_agree() {
  constexpr int callers = 4;
  bool fine = true;
  int interruptions = 0;
  for (const Case& one : cases) {
    const Problem problem(one.sizes);
    Answer expected(one.sizes);
    (expected.*one.find)(problem, 1);
    bool same[callers];
    int interrupted[callers] = {};
    std::vector<std::thread> threads;
    for (int t = 0; t < callers; ++t) {
      threads.emplace_back([&, t] { call(one, problem, expected, t % 2 == 1, same[t], interrupted[t]); });
    }
    for (std::thread& thread : threads) thread.join();
    bool agree = true;
    int times = 0;
    for (int t = 0; t < callers; ++t) {
      agree = agree && same[t];
      times += interrupted[t];
    }
    std::printf("%s: %s, interrupted %d times\n", one.name, agree ? "the same bits" : "DIFFERENT", times);
    fine = fine && agree;
    interruptions += times;
  }
  return fine && interruptions > 0;
}

// Two callers with one answer between them.
void share_an_answer() {
  const Case& one = cases[0];
  const Problem problem(one.sizes);
  Answer shared(one.sizes);
  std::thread other([&] { (shared.*one.find)(problem, 2); });
  (shared.*one.find)(problem, 2);
  other.join();
}

}  // namespace
}  // namespace sparsesvm::testing

// Given any argument, it makes two calls that write to the same memory instead, which the sanitizer must find.
int main(int count, char** /*arguments*/) {
  if (count > 1) {
    sparsesvm::testing::share_an_answer();
    return 0;
  }
  return sparsesvm::testing::all_agree() ? 0 : 1;
}
