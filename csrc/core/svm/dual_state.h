// The dual iterate of one task and everything that follows from it: V = (diag(c) Y - A)' F, group norms, weights, scores, gap.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/prox.h"
#include "core/svm/objective.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
struct DualState {
  double* dual;          // (n, k) A_i = c_i Lambda_i
  double* scores;        // (n, k) S = F W'
  double* gradient;      // (n, k) of the dual objective with respect to A
  double* coefficients;  // (n, k) scratch
  double* v;             // (k, m)
  double* w;             // (k, m)
  double* norm;          // (groups) of the blocks of V
  double* column;        // (m) scratch
  double* sample;        // (2 k) scratch
  double gap, objective;

  static DualState take(Arena& arena, index n, index m, index k, index groups) {
    DualState s{};
    s.dual = arena.take<double>(n * k);
    s.scores = arena.take<double>(n * k);
    s.gradient = arena.take<double>(n * k);
    s.coefficients = arena.take<double>(n * k);
    s.v = arena.take<double>(k * m);
    s.w = arena.take<double>(k * m);
    s.norm = arena.take<double>(groups);
    s.column = arena.take<double>(m);
    s.sample = arena.take<double>(2 * k);
    return s;
  }

  // From the dual to weights; `point` is any n x k matrix, feasible or (for momentum) not.
  void find_weights(const Task<T>& task, const double* point) {
    for (index i = 0; i < task.n; ++i) {
      for (index l = 0; l < task.k; ++l) {
        coefficients[i * task.k + l] = (task.label[i] == l ? task.weight[i] : 0.0) - point[i * task.k + l];
      }
    }
    Passes::combine_rows(task.rows, task.n, coefficients, task.k, task.m, v, task.m);
    link(task);
  }

  // To weights and scores.
  void evaluate(const Task<T>& task, const double* point) {
    find_weights(task, point);
    add_scores(task);
    for (index i = 0; i < task.n; ++i) {
      for (index l = 0; l < task.k; ++l) {
        const double y = task.label[i] == l;
        double g = y - scores[i * task.k + l];
        if (task.smoothing > 0) g += task.smoothing * (point[i * task.k + l] / task.weight[i] - y);
        gradient[i * task.k + l] = g;
      }
    }
  }

  // Certificate of the current dual; call after evaluate(task, dual).
  void certify(const Task<T>& task) {
    double loss = 0, total_gap = 0;
    for (index i = 0; i < task.n; ++i) {
      double* probabilities = sample;
      for (index l = 0; l < task.k; ++l) probabilities[l] = dual[i * task.k + l] / task.weight[i];
      const SampleValue value =
          sample_value(scores + i * task.k, probabilities, task.label[i], task.k, task.smoothing, sample + task.k);
      loss += task.weight[i] * value.loss;
      total_gap += task.weight[i] * value.gap;
    }
    const Thresholds threshold = task.threshold;
    double penalty = 0;  // lambda1 ||W||_21 + lambda2 / 2 ||W||^2, from the norms of V
    for (index b = 0; b < task.n_groups; ++b) {
      const double excess = norm[b] > threshold(b) ? norm[b] - threshold(b) : 0.0;
      penalty += excess * (threshold(b) + 0.5 * excess);
    }
    gap = total_gap;
    objective = loss + penalty / task.lambda2;
  }

  // S = F W'
  void add_scores(const Task<T>& task) {
    for (index e = 0; e < task.n * task.k; ++e) scores[e] = 0;
    Passes::add_all_products(task.rows, task.n, w, task.m, task.k, task.m, 1.0, scores);
  }

 private:
  // W = BST(V, lambda1) / lambda2, group by group.
  void link(const Task<T>& task) {
    const index m = task.m, g = task.group_size;
    for (index j = 0; j < m; ++j) column[j] = 0;
    for (index l = 0; l < task.k; ++l) {
      const double* row = v + l * m;
      for (index j = 0; j < m; ++j) column[j] += row[j] * row[j];
    }
    if (g == 1) {
      for (index j = 0; j < m; ++j) norm[j] = std::sqrt(column[j]);
    } else {
      for (index b = 0; b < task.n_groups; ++b) {
        double total = 0;
        for (index j = b * g; j < (b + 1) * g; ++j) total += column[j];
        norm[b] = std::sqrt(total);
      }
    }
    const double inverse = 1 / task.lambda2;
    const Thresholds threshold = task.threshold;
    if (g == 1) {
      for (index j = 0; j < m; ++j) column[j] = soft_threshold_factor(norm[j], threshold(j)) * inverse;
    } else {
      for (index b = 0; b < task.n_groups; ++b) {
        const double factor = soft_threshold_factor(norm[b], threshold(b)) * inverse;
        for (index j = b * g; j < (b + 1) * g; ++j) column[j] = factor;
      }
    }
    for (index l = 0; l < task.k; ++l) {
      const double* from = v + l * m;
      double* to = w + l * m;
      for (index j = 0; j < m; ++j) to[j] = from[j] * column[j];
    }
  }
};

SPARSESVM_END
