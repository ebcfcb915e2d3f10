// The outer Newton step: a second-order model of the dual around the current point, minimised over the simplices, then a line
// search.
//
// With lambda1 = 0 the dual is quadratic and the model is the n x n Gram matrix, the same for every class. Otherwise it is the dense
// model over the candidates of kinked_model.h, and where these are too many, the curvature as an operator.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/conjugate_face.h"
#include "core/svm/curvature_operator.h"
#include "core/svm/dual_state.h"
#include "core/svm/kinked_model.h"
#include "core/svm/line_search.h"
#include "core/svm/quadratic.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

struct NewtonScratch {
  FaceScratch face;
  KinkedModelScratch kinked;
  LineSearchScratch search;
  index* start;       // (n + 1) candidates of each sample
  index* label;       // (n k)
  double* x;          // (n k)
  double* q;          // (n k)
  WorkingSetMemory columns;  // of the active groups, for the operator
  const float** rows;        // (n)
  index max_size;
  bool has_gram;   // the Gram matrix of this task is in place
  bool has_model;  // the dense model of the last step is, with its candidates

  static NewtonScratch take(Arena& arena, index n, index k, index groups, index group_size, const WorkingSetMemory& columns) {
    NewtonScratch s{};
    s.max_size = n * k < max_model_size ? n * k : max_model_size;
    s.face = FaceScratch::take(arena, n, k, n * k, s.max_size);
    s.kinked = KinkedModelScratch::take(arena, n < max_model_size ? n : max_model_size, k, groups, group_size, s.max_size);
    s.start = arena.take<index>(n + 1);
    s.label = arena.take<index>(n * k);
    s.x = arena.take<double>(n * k);
    s.q = arena.take<double>(n * k);
    s.columns = columns;
    s.rows = arena.take<const float*>(n);
    s.search = LineSearchScratch::take(arena, n, k, groups);
    return s;
  }

  // Every entry of the dual takes part.
  void all_candidates(index n, index k) {
    has_model = false;
    for (index i = 0; i <= n; ++i) start[i] = i * k;
    for (index e = 0; e < n * k; ++e) label[e] = e % k;
  }
};

template <class Passes, typename T>
class NewtonStep {
 public:
  NewtonStep(const Task<T>& task, DualState<Passes, T>& state, NewtonScratch& scratch) : task_(task), state_(state), s_(scratch) {}

  // With lambda1 = 0 the Gram matrix says all, where it is not too large.
  static bool by_gram(const Task<T>& task) { return task.lambda1 == 0 && task.n <= max_model_size; }

  // How many candidates the step would have; -1 when the model is too large.
  index count_candidates() { return choose_candidates() ? s_.start[task_.n] : -1; }

  // Moves state.dual and evaluates it there; expects state evaluated and certified, which by the Gram matrix it need not be. False when
  // the model gives no descent worth the name, and nothing has moved. `by_operator`: without the dense model, unless that fails.
  // `share`: of the gap, to which the model is solved at most.
  bool step(double target_gap, bool by_operator = false, double share = 0.1) {
    if (by_gram(task_)) return gram_step(target_gap);
    if (by_operator && operator_step()) return true;
    if (!choose_candidates()) return !by_operator && operator_step();
    fill_model();
    const double model_target = share * state_.gap > target_gap ? share * state_.gap : share * target_gap;
    const Candidates candidates{task_.n, s_.start, s_.label};
    KinkedModel<Passes, T> kinked(task_, state_, candidates, s_.kinked);
    kinked.build();
    const DenseHessian hessian = kinked.hessian();
    QuadraticModel<Passes, DenseHessian> model(hessian, candidates, task_.weight, s_.x, s_.q, s_.face);
    for (int round = 0; round < max_refinements; ++round) {
      model.minimise(model_target, 8);
      set_direction(candidates);
      // state.w is free until the next evaluation.
      if (!kinked.refine(s_.search.direction, state_.w, s_.q) || model.gap() <= model_target || round + 1 == max_refinements) break;
      kinked.update();
    }
    s_.has_model = true;
    set_direction(candidates);
    return LineSearch<Passes, T>(task_, state_, s_.search).run();
  }

  // A further step by the matrix of the last: it is not built again, and the gap falls as far as the curvature has not changed since.
  // Expects the state evaluated and certified. False, and nothing moved, where there is no such matrix.
  bool repeat() {
    if (!s_.has_model || !holds_support()) return false;
    fill_model();
    const Candidates candidates{task_.n, s_.start, s_.label};
    const DenseHessian hessian{s_.kinked.matrix, candidates.count()};
    QuadraticModel<Passes, DenseHessian>(hessian, candidates, task_.weight, s_.x, s_.q, s_.face).minimise(1e-4 * state_.gap, 2);
    set_direction(candidates);
    return LineSearch<Passes, T>(task_, state_, s_.search).run();
  }

 private:
  static constexpr int max_refinements = 3;

  // Whether every entry in use is a candidate.
  bool holds_support() const {
    index in_use = 0, held = 0;
    for (index e = 0; e < task_.n * task_.k; ++e) in_use += state_.dual[e] > 0;
    for (index i = 0; i < task_.n; ++i) {
      for (index a = s_.start[i]; a < s_.start[i + 1]; ++a) held += state_.dual[i * task_.k + s_.label[a]] > 0;
    }
    return held == in_use;
  }

  // Minimises the model over the face that holds the current point; sweeps must have found it.
  bool operator_step() {
    const index n = task_.n, k = task_.k;
    s_.all_candidates(n, k);
    for (index e = 0; e < n * k; ++e) {
      s_.x[e] = state_.dual[e];
      s_.q[e] = state_.gradient[e];
    }
    const Candidates candidates{n, s_.start, s_.label};
    using Curvature = CurvatureOperator<Passes, T>;
    const Curvature curvature(task_, state_, s_.columns, s_.rows);
    ConjugateFace<Passes, Curvature> face(curvature, candidates, task_.weight, s_.x, s_.q, s_.face);
    if (face.minimise(0.01) < 1e-3) return false;  // a face far larger than the rank of the curvature: a linear program
    set_direction(candidates);
    return LineSearch<Passes, T>(task_, state_, s_.search).run();
  }

  bool gram_step(double target_gap) {
    const index n = task_.n, k = task_.k;
    if (!s_.has_gram) {
      build_gram();
      s_.has_gram = true;
    }
    s_.all_candidates(n, k);
    fill_from_gram();
    const Candidates candidates{n, s_.start, s_.label};
    const index rank = task_.smoothing > 0 ? n * k : task_.m * (k - 1);
    const GramHessian<Passes> hessian{s_.kinked.gram, n, rank, s_.search.direction};
    QuadraticModel<Passes, GramHessian<Passes>> model(hessian, candidates, task_.weight, s_.x, s_.q, s_.face);
    model.minimise(1e-4 * target_gap, 20);
    take_point(candidates);
    return true;
  }

  // Moves the dual to the model's point and evaluates it. Rounding must not add up in the sums that the certificate relies on.
  void take_point(const Candidates& candidates) {
    const index k = task_.k;
    for (index i = 0; i < task_.n; ++i) {
      double total = 0;
      for (index a = candidates.start[i]; a < candidates.start[i + 1]; ++a) total += s_.x[a];
      const double scale = task_.weight[i] / total;
      for (index a = candidates.start[i]; a < candidates.start[i + 1]; ++a) {
        state_.dual[i * k + candidates.label[a]] = scale * s_.x[a];
      }
    }
    state_.evaluate(task_, state_.dual);
  }

  // The dual and its gradient Y - K (diag(c) Y - A); the features are not needed.
  void fill_from_gram() {
    const index n = task_.n, k = task_.k;
    double* residual = s_.search.direction;
    for (index i = 0; i < n; ++i) {
      for (index l = 0; l < k; ++l) {
        s_.x[i * k + l] = state_.dual[i * k + l];
        residual[i * k + l] = (task_.label[i] == l ? task_.weight[i] : 0.0) - state_.dual[i * k + l];
        s_.q[i * k + l] = task_.label[i] == l;
      }
    }
    for (index i = 0; i < n; ++i) {
      for (index i2 = 0; i2 < n; ++i2) {
        const double kernel = s_.kinked.gram[i * n + i2];
        for (index l = 0; l < k; ++l) s_.q[i * k + l] -= kernel * residual[i2 * k + l];
      }
    }
  }

  // K = F F' / lambda2 + the diagonal of the smoothing term.
  void build_gram() {
    const index n = task_.n, width = KinkedModelScratch::panel_width;
    double *gram = s_.kinked.gram, *panel = s_.kinked.columns;
    for (index e = 0; e < n * n; ++e) gram[e] = 0;
    for (index first = 0; first < task_.m; first += width) {
      const index count = task_.m - first < width ? task_.m - first : width;
      for (index i = 0; i < n; ++i) {
        for (index j = 0; j < count; ++j) panel[i * width + j] = static_cast<double>(task_.rows[i][first + j]);
      }
      Passes::add_rank_update(panel, n, width, count, 1 / task_.lambda2, gram, n);
    }
    for (index i = 0; i < n; ++i) {
      gram[i * n + i] += task_.smoothing / task_.weight[i];
      for (index j = 0; j < i; ++j) gram[j * n + i] = gram[i * n + j];
    }
  }

  // Candidates: entries in use, and entries whose gradient is within delta of the best of their sample.
  bool choose_candidates() {
    s_.has_model = false;
    double delta = 0.3 * state_.gap / task_.total_weight;
    delta = delta < 1e-6 ? 1e-6 : (delta > 0.5 ? 0.5 : delta);
    for (int attempt = 0; attempt < 3; ++attempt, delta *= 0.1) {
      if (collect_candidates(delta)) return true;
    }
    return false;
  }

  bool collect_candidates(double delta) {
    index count = 0;
    const index k = task_.k;
    for (index i = 0; i < task_.n; ++i) {
      s_.start[i] = count;
      const double* g = state_.gradient + i * k;
      double low = g[0];
      for (index l = 1; l < k; ++l) low = g[l] < low ? g[l] : low;
      for (index l = 0; l < k; ++l) {
        if (state_.dual[i * k + l] > 0 || g[l] - low < delta) {
          if (count == s_.max_size) return false;
          s_.label[count++] = l;
        }
      }
    }
    s_.start[task_.n] = count;
    return true;
  }

  void fill_model() {
    for (index i = 0; i < task_.n; ++i) {
      for (index a = s_.start[i]; a < s_.start[i + 1]; ++a) {
        s_.x[a] = state_.dual[i * task_.k + s_.label[a]];
        s_.q[a] = state_.gradient[i * task_.k + s_.label[a]];
      }
    }
  }

  // direction = the model's point - dual.
  void set_direction(const Candidates& candidates) {
    const index k = task_.k;
    for (index e = 0; e < task_.n * k; ++e) s_.search.direction[e] = 0;
    for (index i = 0; i < task_.n; ++i) {
      for (index a = candidates.start[i]; a < candidates.start[i + 1]; ++a) {
        const index e = i * k + candidates.label[a];
        s_.search.direction[e] = s_.x[a] - state_.dual[e];
      }
    }
  }

  const Task<T>& task_;
  DualState<Passes, T>& state_;
  NewtonScratch& s_;
};

SPARSESVM_END
