// Fuzz target: sparse regression and its gradient, with whatever the binding lets through.
#include <cmath>

#include "cpu/regression_driver.h"
#include "tests/fuzz_input.h"

namespace sparsesvm::testing {
namespace {

template <typename T>
void run(Input& in) {
  if (!in.one_in(3)) in.tame();
  const index tasks = in.size(1, 3, 3), n = in.size(4, 10, 40), q = in.size(2, 4, 4), m = in.size(4, 12, 80);
  const index row_stride = m + in.between(0, 3), task_stride = in.one_in(4) ? 0 : n * row_stride;
  const int n_threads = static_cast<int>(in.size(1, 1, 2));

  Exact<T> features((tasks - 1) * task_stride + n * row_stride), targets(tasks * n * q);
  Exact<double> lambda1(tasks), lambda2(tasks);
  features.fill([&] { return in.value(); });
  targets.fill([&] { return in.value(); });
  for (index task = 0; task < tasks; ++task) {
    lambda1[task] = in.one_in(6) ? 0.0 : in.amount();
    lambda2[task] = in.one_in(3) ? 0.0 : in.amount();
    if (!(lambda1[task] + lambda2[task] > 0)) lambda1[task] = 0.1;
  }
  RegressionBatch<T> batch{};
  batch.n_tasks = tasks;
  batch.n_samples = n;
  batch.n_features = m;
  batch.n_outputs = q;
  batch.max_active = in.between(0, m);
  batch.features = features.get();
  batch.task_stride = task_stride;
  batch.row_stride = row_stride;
  batch.targets = targets.get();
  batch.lambda1 = lambda1.get();
  batch.lambda2 = lambda2.get();

  const double tol = in.one_in(8) ? in.amount() : std::pow(10.0, -static_cast<double>(in.between(2, 9)));
  const Exact<T> weights(tasks * q * m);
  const Exact<double> gap(tasks), objective(tasks);
  const Exact<std::int64_t> n_iter(tasks);
  const Exact<std::int8_t> status(tasks);
  const Exact<std::uint8_t> active(tasks * m);
  const Scratch scratch(cpu::solve_workspace(batch, n_threads));
  cpu::solve(RegressionSolveArguments<T>{batch, tol, in.size(4, 10, 40), weights.get(), gap.get(), objective.get(), n_iter.get(),
                                         status.get(), active.get()},
             scratch.get(), scratch.bytes(), n_threads);
  for (index task = 0; task < tasks; ++task) {
    require(status[task] >= 0 && static_cast<Status>(status[task]) <= Status::not_unique);
    if (static_cast<Status>(status[task]) != Status::converged) continue;
    require(std::isfinite(gap[task]) && std::isfinite(objective[task]));
  }

  const Exact<T> grad_weights(tasks * q * m), grad_features(tasks * n * m), grad_targets(tasks * n * q);
  const Exact<double> by_lambda1(tasks), by_lambda2(tasks);
  grad_weights.fill([&] { return in.value(); });
  const Scratch more(cpu::vjp_workspace(batch, n_threads));
  cpu::vjp(RegressionVjpArguments<T>{batch, weights.get(), grad_weights.get(), grad_features.get(), grad_targets.get(),
                                     by_lambda1.get(), by_lambda2.get()},
           more.get(), more.bytes(), n_threads);
}

}  // namespace
}  // namespace sparsesvm::testing

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sparsesvm::testing::Input in(data, size);
  in.one_in(2) ? sparsesvm::testing::run<double>(in) : sparsesvm::testing::run<float>(in);
  return 0;
}
