// Fuzz target: solves, dense and sparse, and both derivatives, with whatever the binding lets through. Besides memory and undefined
// behaviour it looks at what is promised of every solution.
#include <cmath>

#include "cpu/driver.h"
#include "tests/fuzz_input.h"

namespace sparsesvm::testing {
namespace {

template <typename T>
struct Outputs {
  Exact<T> weights, dual;
  Exact<double> gap, objective;
  Exact<std::int64_t> n_iter;
  Exact<std::int8_t> status;
  Exact<std::uint8_t> active;

  explicit Outputs(const Batch<T>& b)
      : weights(b.n_tasks * b.n_way * b.n_features), dual(b.n_tasks * b.n_samples * b.n_way), gap(b.n_tasks), objective(b.n_tasks),
        n_iter(b.n_tasks), status(b.n_tasks), active(b.n_tasks * b.n_features / b.group_size) {}
};

// A solution that says it converged is finite, within its tolerance but for rounding, and has probabilities in the simplex.
template <typename T>
void check(const SolveArguments<T>& a, const Outputs<T>& out) {
  const Batch<T>& b = a.batch;
  for (index task = 0; task < b.n_tasks; ++task) {
    const Status status = static_cast<Status>(out.status[task]);
    require(out.status[task] >= 0 && status <= Status::not_unique);
    if (status != Status::converged && status != Status::not_unique) continue;
    double total = 0;
    for (index i = 0; i < b.n_samples; ++i) total += b.sample_weight[task * b.n_samples + i];
    const double rounding = sizeof(T) == 4 ? 1e-6 : 1e-12;
    require(out.gap[task] >= -rounding * total && out.gap[task] <= (a.tol + rounding) * total);
    for (index e = 0; e < b.n_way * b.n_features; ++e) require(std::isfinite(out.weights[task * b.n_way * b.n_features + e]));
    for (index i = 0; i < b.n_samples; ++i) {
      double sum = 0;
      for (index l = 0; l < b.n_way; ++l) {
        const double p = static_cast<double>(out.dual[(task * b.n_samples + i) * b.n_way + l]);
        require(p >= 0);
        sum += p;
      }
      require(std::fabs(sum - 1) <= 1e-5);
    }
  }
}

template <typename T>
void run(Input& in) {
  const bool sparse = in.one_in(4);
  if (!in.one_in(3)) in.tame();
  const index tasks = sparse ? 1 : in.size(1, 3, 3), n = in.size(4, 10, 40), k = in.size(3, 6, 6);
  const index group_size = in.size(1, 3, 3), groups = in.size(3, 6, 20), m = group_size * groups;
  const index row_stride = sparse ? 0 : m + in.between(0, 3), task_stride = in.one_in(4) ? 0 : n * row_stride;
  const int n_threads = static_cast<int>(in.size(1, 1, 2));

  Exact<std::int64_t> labels(tasks * n), row_start(n + 1), task_way(tasks);
  Exact<double> sample_weight(tasks * n), lambda1(tasks), lambda2(tasks), init_dual(tasks * n * k), group_weight(tasks * groups);
  const bool by_task = !sparse && in.one_in(4), by_group = in.one_in(4), same_groups = in.one_in(2);
  task_way.fill([&] { return by_task ? in.between(1, k) : k; });
  for (index i = 0; i < tasks * n; ++i) labels[i] = in.between(0, static_cast<index>(task_way[i / n]) - 1);
  if (by_group) group_weight.fill([&] { return std::fmax(in.amount(), 1e-300); });
  const bool weighted = in.one_in(2);
  sample_weight.fill([&] { return weighted ? in.amount() : 1.0; });
  double dual_reg = in.one_in(3) ? in.amount() : 0.0;
  for (index task = 0; task < tasks; ++task) {
    lambda1[task] = in.one_in(6) ? 0.0 : in.amount();
    lambda2[task] = in.one_in(6) ? 0.0 : in.amount();
    const bool solvable = lambda2[task] > 0 || (lambda1[task] > 0 && dual_reg == 0);
    if (!solvable) lambda2[task] = 0.1;
  }
  Exact<T> init_weights(tasks * k * m), features((tasks - 1) * task_stride + n * (sparse ? m : row_stride));
  Exact<std::int64_t> column(n * m);
  index entries = 0;
  if (sparse) {
    for (index i = 0; i < n; ++i) {
      row_start[i] = entries;
      for (index j = 0; j < m; ++j) {
        if (!in.one_in(3)) continue;
        column[entries] = j;
        features[entries++] = static_cast<T>(in.value());
      }
    }
    row_start[n] = entries;
  } else {
    features.fill([&] { return in.value(); });
  }
  Batch<T> batch{};
  batch.n_tasks = tasks;
  batch.n_samples = n;
  batch.n_features = m;
  batch.n_way = k;
  batch.group_size = group_size;
  batch.features = features.get();
  batch.task_stride = task_stride;
  batch.row_stride = row_stride;
  batch.labels = labels.get();
  batch.sample_weight = sample_weight.get();
  batch.lambda1 = lambda1.get();
  batch.lambda2 = lambda2.get();
  batch.dual_reg = dual_reg;
  if (by_task) batch.task_way = task_way.get();
  if (by_group) {
    batch.group_weight = group_weight.get();
    batch.group_weight_stride = same_groups ? 0 : groups;
  }
  if (sparse) {
    batch.sparse = true;
    batch.n_entries = entries;
    batch.row_start = row_start.get();
    batch.column = column.get();
  }
  const bool from_dual = in.one_in(4), from_weights = in.one_in(4);
  if (from_dual) init_dual.fill([&] { return in.amount(); });
  if (from_weights) init_weights.fill([&] { return (static_cast<double>(in.byte()) - 128) / 64; });
  const double tol = in.one_in(8) ? in.amount() : std::pow(10.0, -static_cast<double>(in.between(2, 9)));
  const Outputs<T> out(batch);
  const SolveArguments<T> arguments{batch,
                                    tol,
                                    in.size(4, 10, 40),
                                    !sparse && in.one_in(2),
                                    from_dual ? init_dual.get() : nullptr,
                                    from_weights ? init_weights.get() : nullptr,
                                    out.weights.get(),
                                    out.dual.get(),
                                    out.gap.get(),
                                    out.objective.get(),
                                    out.n_iter.get(),
                                    out.status.get(),
                                    out.active.get()};
  const Scratch scratch(cpu::solve_workspace(batch, n_threads));
  cpu::solve(arguments, scratch.get(), scratch.bytes(), n_threads);
  check(arguments, out);

  for (index task = 0; task < tasks; ++task) {
    if (sparse || !(lambda2[task] > 0)) return;  // these have no derivative
  }
  Exact<T> grad_weights(tasks * k * m), grad_features(tasks * n * m), tangent(tasks * n * m), tangent_weights(tasks * k * m);
  Exact<double> by_lambda1(tasks), by_lambda2(tasks), by_weight(tasks * n);
  grad_weights.fill([&] { return in.value(); });
  tangent.fill([&] { return in.value(); });
  const Scratch more(cpu::diff_workspace(batch, n_threads));
  cpu::vjp(VjpArguments<T>{batch, {out.weights.get(), out.dual.get()}, grad_weights.get(), grad_features.get(), by_lambda1.get(), by_lambda2.get(), by_weight.get()},
           more.get(), more.bytes(), n_threads);
  by_lambda1.fill([&] { return in.value(); });
  by_lambda2.fill([&] { return in.value(); });
  by_weight.fill([&] { return in.value(); });
  const Scratch again(cpu::diff_workspace(batch, n_threads));
  cpu::jvp(JvpArguments<T>{batch, {out.weights.get(), out.dual.get()}, tangent.get(), by_lambda1.get(), by_lambda2.get(), by_weight.get(), tangent_weights.get()},
           again.get(), again.bytes(), n_threads);
}

}  // namespace
}  // namespace sparsesvm::testing

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sparsesvm::testing::Input in(data, size);
  in.one_in(2) ? sparsesvm::testing::run<double>(in) : sparsesvm::testing::run<float>(in);
  return 0;
}
