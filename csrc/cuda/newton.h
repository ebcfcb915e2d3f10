// The outer Newton step: a second-order model of the dual around the current point with the kinks that matter (docs/method.md, 4),
// minimised over the simplices, and the line search along its step.
#pragma once

#include <cmath>

#include "core/linear_algebra/root.h"
#include "cuda/panel.h"
#include "cuda/quadratic.h"
#include "cuda/state.h"

SPARSESVM_BEGIN
namespace gpu {

template <typename T, class Team>
class NewtonStep {
 public:
  // The two steps of a line search, see below, as functions of their own.
  static SPARSESVM_HD SPARSESVM_NOINLINE double step(Team team, const SolveWorkspace<T>& w, double gap, double target,
                                                     double share) {
    return NewtonStep(team, w).step(gap, target, share);
  }
  static SPARSESVM_HD SPARSESVM_NOINLINE void shorten(Team team, const SolveWorkspace<T>& w, double at_zero, double at_one) {
    NewtonStep(team, w).shorten(at_zero, at_one);
  }
  // <gradient, step>: the derivative along the last step, where the state was evaluated.
  static SPARSESVM_HD SPARSESVM_NOINLINE double slope(Team team, const SolveWorkspace<T>& w) {
    double total = 0;
    for (int e = team.rank(); e < w.task.n * w.task.k; e += team.size()) total += w.state.gradient[e] * w.model.direction[e];
    return team.sum(total);
  }

 private:
  static constexpr int max_refinements = 3;
  static constexpr int max_rounds = 6;

  SPARSESVM_HD NewtonStep(Team team, const SolveWorkspace<T>& w)
      : team_(team), w_(w), task_(w.task), state_(w.state), model_(w.model), panel_(w.panel) {}

  // Moves the dual, and returns the derivative along the step where it began; zero when the model is too large or gives no descent,
  // and nothing has moved. Expects the state evaluated. The model is solved to a `share` of the gap, or of the target.
  SPARSESVM_HD double step(double gap, double target, double share) {
    if (!choose_candidates(gap)) return 0;
    build();
    const double model_target = task_.lambda1 == 0 ? 1e-3 * target : share * larger(gap, target);
    for (int round = 0; round < max_refinements; ++round) {
      if (team_.part() == 0) minimise_model(team_, task_, model_, panel_.group_weight, model_target, max_rounds);
      set_direction();
      if (!refine()) break;
      if (team_.part() == 0) {
        const double left = model_gap(team_, model_, task_.n);
        if (team_.rank() == 0) model_.value[1] = left;
      }
      team_.sync_team();
      if (model_.value[1] <= model_target) break;
    }
    const double slope_here = slope(team_, w_);
    if (!(slope_here < 0)) return 0;
    take_point();
    return slope_here;
  }

  // Moves the dual back along the step to a zero of the derivative, which is `at_zero` < 0 where the step began and `at_one` > 0
  // here.
  SPARSESVM_HD void shorten(double at_zero, double at_one) {
    const int n = task_.n, k = task_.k;
    combine_direction(team_, w_, true);
    team_.sync_team();
    double linear = 0, bend = 0;
    for (int e = team_.rank(); e < n * k; e += team_.size()) {
      const int i = e / k;
      const double d = model_.direction[e], y = task_.one_hot(i, e % k), smooth = task_.smoothing / task_.weight[i];
      linear += y * d + task_.smoothing * ((state_.dual[e] - d) / task_.weight[i] - y) * d;
      bend += smooth * d * d;
    }
    linear = team_.sum(linear);
    bend = team_.sum(bend);
    const auto derivative = [&](double t) {
      double total = 0;
      for (int b = team_.rank(); b < task_.n_groups; b += team_.size()) {
        const double change = model_.along[b] + t * model_.square[b];
        const double square = state_.norm[b] + t * (model_.along[b] + change);
        total += soft_threshold_factor(square > 0 ? sqrt(square) : 0.0, task_.threshold(b)) * change;
      }
      return linear + t * bend + team_.sum(total) / task_.lambda2;
    };
    const double root = root_on_unit_interval(derivative, at_zero, at_one);
    for (int e = team_rank(team_); e < n * k; e += team_size(team_)) {
      const double moved = state_.dual[e] - (1 - root) * model_.direction[e];
      state_.dual[e] = moved > 0 ? moved : 0.0;
    }
    team_.sync_team();
  }

  // Candidates: entries in use, and entries whose gradient is within delta of the best of their sample. Without lambda1 the model
  // is the dual itself and takes them all, if it can.
  SPARSESVM_HD bool choose_candidates(double gap) {
    if (task_.n > model_.gram_size) return false;
    double delta = 0.3 * gap / task_.total_weight;
    delta = task_.lambda1 == 0 ? 1e300 : smaller(larger(delta, 1e-6), 0.5);
    team_.sync_team();
    if (team_.part() == 0) {
      bool fits = count_candidates(delta) - task_.n <= model_.max_inner;
      for (int attempt = 0; attempt < 3 && !fits; ++attempt) {
        delta = smaller(0.1 * delta, 0.5);
        fits = count_candidates(delta) - task_.n <= model_.max_inner;
      }
      if (fits) {
        write_candidates(delta);
      } else if (team_.rank() == 0) {
        model_.start[task_.n] = -1;
      }
    }
    team_.sync_team();
    return model_.start[task_.n] >= 0;
  }

  SPARSESVM_HD bool takes_part(int i, int l, double low) const {
    return state_.dual[i * task_.k + l] > 0 || state_.gradient[i * task_.k + l] < low;
  }
  SPARSESVM_HD double lowest(int i) const {
    double low = state_.gradient[i * task_.k];
    for (int l = 1; l < task_.k; ++l) low = smaller(low, state_.gradient[i * task_.k + l]);
    return low;
  }

  SPARSESVM_HD int count_candidates(double delta) {
    for (int i = team_.rank(); i < task_.n; i += team_.size()) {
      const double low = lowest(i) + delta;
      int count = 0;
      for (int l = 0; l < task_.k; ++l) count += takes_part(i, l, low);
      model_.start[i] = count;
    }
    team_.sync();
    return add_before(team_, model_.start, task_.n, task_.counts);
  }

  SPARSESVM_HD void write_candidates(double delta) {
    for (int i = team_.rank(); i < task_.n; i += team_.size()) {
      const double low = lowest(i) + delta;
      int a = model_.start[i];
      for (int l = 0; l < task_.k; ++l) {
        if (!takes_part(i, l, low)) continue;
        if (a > model_.start[i]) model_.inner_sample[a - i - 1] = i;
        model_.label[a] = l;
        model_.x[a] = state_.dual[i * task_.k + l];
        model_.q[a++] = state_.gradient[i * task_.k + l];
      }
    }
  }

  SPARSESVM_HD int inner() const { return model_.start[task_.n] - task_.n; }

  // t = lambda1 / norm, at most one.
  SPARSESVM_HD double clipped(int b) const {
    const double threshold = task_.threshold(b);
    return state_.norm[b] > threshold ? threshold / state_.norm[b] : 1.0;
  }

  // c_G at the end of the step.
  SPARSESVM_HD double cost(int b) const {
    const double norm = state_.norm[b];
    return norm - task_.threshold(b) + (norm > 0 ? clipped(b) * model_.along[b] / norm : 0.0);
  }

  // The matrix on the pieces of the current point.
  SPARSESVM_HD void build() {
    const int n = task_.n, size = inner();
    for (int b = team_rank(team_); b < task_.n_groups; b += team_size(team_)) model_.on[b] = state_.norm[b] > task_.threshold(b);
    for (int e = team_rank(team_); e < size * size; e += team_size(team_)) model_.matrix[e] = 0;
    if (task_.lambda1 > 0) {
      for (int e = team_rank(team_); e < n * n; e += team_size(team_)) model_.gram[e] = 0;
      add_groups(team_, w_, list_groups(team_, task_, panel_, model_.on, 1), 1, true);
    }
    team_.sync_team();
    add_shared_terms();
    team_.sync_team();
  }

  // Adds `sign` times the rank-one terms of the groups listed to the matrix, and their part of the Gram matrix (`first`), or else
  // their change of the gradient.
  static SPARSESVM_HD SPARSESVM_NOINLINE void add_groups(Team team, const SolveWorkspace<T>& w, int count, double sign,
                                                         bool first) {
    NewtonStep(team, w).add_groups(count, sign, first);
  }
  SPARSESVM_HD void add_groups(int count, double sign, bool first) {
    const int n = task_.n, g = task_.g, size = inner(), width = PanelArrays::groups(task_), stride = panel_.product_stride;
    const double inverse = 1 / task_.lambda2;
    for (int begin = 0; begin < count; begin += width) {
      const int filled = smaller(width, count - begin);
      team_.sync_team();
      load_columns(team_, task_, panel_, begin, filled);
      for (int p = team_rank(team_); p < filled; p += team_size(team_)) {
        const int b = panel_.list[begin + p];
        panel_.group_weight[p] = sign * inverse * clipped(b) / (state_.norm[b] * state_.norm[b]);
        for (int j = p * g; j < (p + 1) * g; ++j) panel_.column_weight[j] = 1 - clipped(b);
      }
      team_.sync_team();
      for (int e = team_rank(team_); e < filled * size; e += team_size(team_)) write_product(begin, e / size, e % size);
      if (first)
        add_rank_update(team_rank(team_), team_size(team_), panel_.column, n, panel_.column_weight, filled * g, n, model_.gram, n);
      team_.sync_team();
      add_rank_update(team_rank(team_), team_size(team_), panel_.product, stride, panel_.group_weight, filled, size, model_.matrix,
                      size);
      if (first) continue;
      for (int c = team_rank(team_); c < size; c += team_size(team_)) {
        double total = 0;
        for (int p = 0; p < filled; ++p) {
          const int b = panel_.list[begin + p];
          total += cost(b) / state_.norm[b] * panel_.product[static_cast<index>(p) * stride + c];
        }
        model_.q[c + model_.inner_sample[c] + 1] -= sign * inverse * total;
      }
    }
    team_.sync_team();
  }

  // product = <f_i, v_l - v_reference> over group p of the panel.
  SPARSESVM_HD void write_product(int begin, int p, int c) {
    const int n = task_.n, g = task_.g, i = model_.inner_sample[c];
    const index column = static_cast<index>(panel_.list[begin + p]) * g;
    const double* v = state_.v + static_cast<index>(model_.label[c + i + 1]) * task_.m + column;
    const double* reference = state_.v + static_cast<index>(model_.label[model_.start[i]]) * task_.m + column;
    double total = 0;
    for (int j = 0; j < g; ++j) total += panel_.column[(p * g + j) * n + i] * (v[j] - reference[j]);
    panel_.product[static_cast<index>(p) * panel_.product_stride + c] = total;
  }

  // What the classes share, and the smoothing term, as differences to the references.
  SPARSESVM_HD void add_shared_terms() {
    const int n = task_.n, size = inner();
    const double inverse = 1 / task_.lambda2;
    for (int e = team_rank(team_); e < size * size; e += team_size(team_)) {
      const int c = e / size, d = e % size, i = model_.inner_sample[c], i2 = model_.inner_sample[d];
      const int label = model_.label[c + i + 1], base = model_.label[model_.start[i]];
      const int label2 = model_.label[d + i2 + 1], base2 = model_.label[model_.start[i2]];
      const double shared = inverse * model_.gram[i * n + i2] + (i == i2 ? task_.smoothing / task_.weight[i] : 0.0);
      model_.matrix[e] += shared * ((label == label2) - (label == base2) - (base == label2) + (base == base2));
    }
  }

  // direction = the model's point - dual.
  SPARSESVM_HD void set_direction() {
    const int k = task_.k;
    team_.sync_team();
    for (int i = team_rank(team_); i < task_.n; i += team_size(team_)) {
      for (int l = 0; l < k; ++l) model_.direction[i * k + l] = 0;
      for (int a = model_.start[i]; a < model_.start[i + 1]; ++a) {
        const int e = i * k + model_.label[a];
        model_.direction[e] = model_.x[a] - state_.dual[e];
      }
    }
    team_.sync_team();
  }

  // direction' F = -dV into `w`, which is free until the next evaluation; <V, dV> and ||dV||^2 by group. With `back` V is taken
  // where the step began, its squared norm replacing the norm.
  static SPARSESVM_HD SPARSESVM_NOINLINE void combine_direction(Team team, const SolveWorkspace<T>& w, bool back) {
    NewtonStep(team, w).combine_direction(back);
  }
  SPARSESVM_HD void combine_direction(bool back) {
    const Range groups = task_.own_groups(team_);
    combine_rows(team_, task_.rows, task_.n, model_.direction, task_.k, task_.m, task_.columns(groups), state_.w);
    team_.sync();
    for (int b = groups.begin + team_.rank(); b < groups.end; b += team_.size()) {
      double before = 0, along = 0, square = 0;
      for (int l = 0; l < task_.k; ++l) {
        for (int j = b * task_.g; j < (b + 1) * task_.g; ++j) {
          const double d = state_.w[static_cast<index>(l) * task_.m + j],
                       v = state_.v[static_cast<index>(l) * task_.m + j] + (back ? d : 0.0);
          before += v * v;
          along -= v * d;
          square += d * d;
        }
      }
      model_.along[b] = along;
      model_.square[b] = square;
      if (back) state_.norm[b] = before;
    }
  }

  // Moves matrix and gradient of the model to the pieces on which the step ends; false when they are there already.
  SPARSESVM_HD bool refine() {
    if (task_.lambda1 == 0) return false;
    combine_direction(team_, w_, false);
    team_.sync_team();
    for (int b = team_rank(team_); b < task_.n_groups; b += team_size(team_)) {
      const char now = cost(b) > 0;
      model_.flip[b] = now == model_.on[b] ? 0 : (now ? 1 : 2);
      model_.on[b] = now;
    }
    const int on = list_groups(team_, task_, panel_, model_.flip, 1);
    add_groups(team_, w_, on, 1, false);
    const int off = list_groups(team_, task_, panel_, model_.flip, 2);
    add_groups(team_, w_, off, -1, false);
    return on + off > 0;
  }

  // Moves the dual to the model's point. Rounding must not add up in the sums that the certificate relies on.
  SPARSESVM_HD void take_point() {
    team_.sync_team();
    for (int i = team_rank(team_); i < task_.n; i += team_size(team_)) {
      double total = 0;
      for (int a = model_.start[i]; a < model_.start[i + 1]; ++a) total += model_.x[a];
      const double scale = task_.weight[i] / total;
      for (int a = model_.start[i]; a < model_.start[i + 1]; ++a) state_.dual[i * task_.k + model_.label[a]] = scale * model_.x[a];
    }
    team_.sync_team();
  }

  Team team_;
  const SolveWorkspace<T>& w_;
  const Task<T>& task_;
  const StateArrays& state_;
  const ModelArrays& model_;
  const PanelArrays& panel_;
};

}  // namespace gpu
SPARSESVM_END
