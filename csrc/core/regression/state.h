// Where the solver of a sparse regression stands: weights with their residual, the features in use, and the certificate.
#pragma once

#include "core/prox.h"
#include "core/regression/task.h"

SPARSESVM_BEGIN

template <typename T>
struct RegressionState {
  RegressionTask<T> task;
  index n_active;
  index* active;        // (m) features in use
  const double** left;  // (m) scratch, columns of listed features
  double* correlation;  // (m, q) of the last certificate
  double* score;        // (m) how strongly each feature pulls, by the last certificate

  SPARSESVM_HD void take(Arena& arena, const RegressionBatch<T>& batch) {
    task.take(arena, batch);
    active = arena.template take<index>(task.m);
    left = arena.template take<const double*>(task.m);
    correlation = arena.template take<double>(task.m * task.q);
    score = arena.template take<double>(task.m);
  }

  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE void collect_active(Team team) {
    const index found = team.list(task.m, [this](index j) { return task.is_active(j); }, active);
    if (team.rank() == 0) n_active = found;
    team.sync();
  }

  template <class Team>
  SPARSESVM_HD void compute_residual(Team team) {
    task.compute_residual(team, active, n_active);
  }

  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE double objective(Team team) const {
    double squares = 0, norms = 0, ridge = 0;
    for (index i = team.rank(); i < task.q * task.stride; i += team.size()) squares += task.residual[i] * task.residual[i];
    for (index a = team.rank(); a < n_active; a += team.size()) {
      const double norm = task.norm(active[a]);
      norms += norm;
      ridge += norm * norm;
    }
    return team.sum(0.5 * task.inverse_n * squares + task.lambda1 * norms + 0.5 * task.lambda2 * ridge);
  }

  // The duality gap of the problem on the listed features, which must include those in use. Two dual points are tried, and both
  // gaps are sums of non-negative terms (docs/bilevel.md): the scaled residual of the problem with lambda2 moved into the data,
  // and, with lambda2 > 0, the residual itself. Leaves in `score` how strongly each feature pulls.
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE double certificate(Team team, const index* list, index count) {
    const index q = task.q;
    const double lambda1 = task.lambda1, lambda2 = task.lambda2;
    for (index a = team.rank(); a < count; a += team.size()) left[a] = task.column[list[a]];
    team.sync();
    team.products(left, count, task.residual, task.stride, q, task.stride, task.inverse_n, correlation, q);
    double largest = 0, scaled = 0, direct = 0, ridge = 0;
    for (index a = team.rank(); a < count; a += team.size()) {
      const double* w = task.weights + list[a] * q;
      const double* c = correlation + a * q;
      double pull = 0, shrunk = 0, along = 0;
      for (index o = 0; o < q; ++o) {
        const double rest = c[o] - lambda2 * w[o];
        pull += c[o] * c[o];
        shrunk += rest * rest;
        along += c[o] * w[o];
      }
      pull = std::sqrt(pull);
      shrunk = std::sqrt(shrunk);
      score[a] = shrunk;
      largest = shrunk > largest ? shrunk : largest;
      if (!std::isfinite(shrunk)) scaled = NAN;  // also where its feature is not in use, nor on the way to be
      if (!(lambda2 > 0)) continue;
      const double norm = task.norm(list[a]);
      const double factor = soft_threshold_factor(pull, lambda1) / lambda2;
      double distance = 0;
      for (index o = 0; o < q; ++o) distance += (w[o] - factor * c[o]) * (w[o] - factor * c[o]);
      direct += 0.5 * lambda2 * distance;
      if (norm > 0) direct += lambda1 * norm - (pull > lambda1 ? lambda1 / pull : 1.0) * along;
      ridge += norm * norm;
    }
    largest = team.max(largest);
    const double scale = largest <= lambda1 ? 1.0 : lambda1 / largest;
    double squares = lambda2 > 0 ? lambda2 * ridge * static_cast<double>(task.n) : 0;
    for (index i = team.rank(); i < q * task.stride; i += team.size()) squares += task.residual[i] * task.residual[i];
    scaled += 0.5 * task.inverse_n * (1 - scale) * (1 - scale) * squares;
    for (index a = team.rank(); a < count; a += team.size()) {
      const double norm = task.norm(list[a]);
      if (norm == 0) continue;
      double along = 0;
      for (index o = 0; o < q; ++o) {
        const double w = task.weights[list[a] * q + o];
        along += (correlation[a * q + o] - lambda2 * w) * w;
      }
      scaled += lambda1 * norm - scale * along;
    }
    scaled = team.sum(scaled);
    direct = lambda2 > 0 ? team.sum(direct) : scaled;
    const double gap = direct < scaled ? direct : scaled;
    return gap < 0 ? 0 : gap;
  }
};

SPARSESVM_END
