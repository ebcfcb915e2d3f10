// One step of the inner problem on the working set (core/svm/primal_model.h): the quadratic model of its smooth part, one sweep over
// the groups to find which are active, one Newton step on those.
//
//     minimise over D:  <g, D> + <D, (mu + F' S F) D> / 2 + lambda1 sum_G ||W_G + D_G||
#pragma once

#include <cmath>

#include "core/prox.h"
#include "core/svm/proximal_rules.h"
#include "cuda/newton_system.h"

SPARSESVM_BEGIN
namespace gpu {

// Moves w (columns, k) group by group, each by a proximal gradient step of the model, and adds that to `moved`. By one block.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void sweep_groups(Team block, const SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  const ProximalArrays<T>& s = w.proximal;
  const Columns all{nullptr, s.n_set};
  const int k = task.k, size = task.g * k;
  for (int e = block.rank(); e < s.n_free * k; e += block.size()) s.bent[e] = 0;  // w S F moved
  for (int e = block.rank(); e < s.n_set * size; e += block.size()) s.moved[e] = 0;
  block.sync();
  for (int p = 0; p < s.n_set; ++p) {
    const double inverse = 1 / s.curvature[p];
    double *now = s.set_w + p * size, *moved = s.moved + p * size, *next = s.vector;
    const int tiles = (k + class_tile - 1) / class_tile;
    for (int item = block.warp(); item < task.g * tiles; item += block.warps()) {
      const int j = item / tiles, first = item % tiles * class_tile;
      const T* x = column(w, all, p * task.g + j);
      double sums[class_tile] = {};
      for (int f = block.lane(); f < s.n_free; f += lanes) {
        const double value = static_cast<double>(x[s.free[f]]);
        SPARSESVM_UNROLL
        for (int l = 0; l < class_tile; ++l) sums[l] += value * s.bent[f * k + (first + l < k ? first + l : first)];
      }
      const double total = block.warp_sums(sums);
      const int l = first + block.lane(), e = j * k + l;
      if (block.lane() >= class_tile || l >= k) continue;
      next[e] = now[e] - inverse * (s.gradient[p * size + e] + total + s.mu[p] * moved[e]);
    }
    block.sync();
    double square = 0, change = 0;
    for (int e = block.rank(); e < size; e += block.size()) square += next[e] * next[e];
    const double factor = soft_threshold_factor(sqrt(block.sum(square)), task.threshold(w.panel.list[p]) * inverse);
    for (int e = block.rank(); e < size; e += block.size()) {
      const double to = factor * next[e], d = to - now[e];
      now[e] = to;
      moved[e] += d;
      next[e] = d;
      if (d != 0) change = 1;
    }
    if (block.max(change) == 0) continue;
    for (int f = block.rank(); f < s.n_free; f += block.size()) {
      const double* probabilities = s.p + s.free[f] * k;
      double mean = 0;
      for (int pass = 0; pass < 2; ++pass) {
        double total = 0;
        for (int l = 0; l < k; ++l) {
          if (!(probabilities[l] > 0)) continue;
          double score = 0;
          for (int j = 0; j < task.g; ++j) {
            score += static_cast<double>(column(w, all, p * task.g + j)[s.free[f]]) * next[j * k + l];
          }
          total += score;
          if (pass == 1) s.bent[f * k + l] += s.free_weight[f] * (score - mean);
        }
        mean = total * s.inverse[f];
      }
    }
    block.sync();
  }
}

template <typename T, class Team>
class PrimalModel {
 public:
  SPARSESVM_HD PrimalModel(Team team, const SolveWorkspace<T>& w)
      : team_(team), w_(w), task_(w.task), s_(w.proximal), block_(w.task.g * w.task.k), n_groups_(w.proximal.n_set) {}

  // Changes set_w by a step of the model. Expects the free samples collected.
  SPARSESVM_HD void step() {
    measure_curvature();
    if (team_.part() == 0) sweep_groups(team_, w_);
    team_.sync_team();
    multiply_columns(team_, w_, all(), s_.moved, s_.image);
    for (int e = team_rank(team_); e < n_groups_ * block_; e += team_size(team_)) {
      s_.slope[e] = s_.gradient[e] + s_.image[e] + s_.mu[e / block_] * s_.moved[e];
    }
    team_.sync_team();
    newton();
  }

 private:
  using Rules = ProximalRules;

  SPARSESVM_HD Columns all() const { return {nullptr, n_groups_}; }

  // Of each group: mu and a bound on the largest eigenvalue of its block of F' S F, absolute row sums over the classes, summed over
  // the columns.
  SPARSESVM_HD void measure_curvature() {
    for (int p = team_.part() * team_.warps() + team_.warp(); p < n_groups_; p += team_.parts() * team_.warps()) {
      double largest = 0;
      for (int first = 0; first < task_.k; first += class_tile) {
        double sums[class_tile] = {};
        for (int f = team_.lane(); f < s_.n_free; f += lanes) {
          const double* probabilities = s_.p + s_.free[f] * task_.k;
          double square = 0;
          for (int j = p * task_.g; j < (p + 1) * task_.g; ++j) {
            const double value = static_cast<double>(column(w_, all(), j)[s_.free[f]]);
            square += value * value;
          }
          square *= 2 * s_.free_weight[f] * (1 - s_.inverse[f]);
          SPARSESVM_UNROLL
          for (int l = 0; l < class_tile; ++l) sums[l] += first + l < task_.k && probabilities[first + l] > 0 ? square : 0.0;
        }
        const double total = team_.warp_sums(sums);
        for (int l = 0; l < class_tile; ++l) largest = larger(largest, team_.warp_broadcast(total, l));
      }
      if (team_.lane() == 0) s_.curvature[p] = largest + s_.mu[p];
    }
    team_.sync_team();
  }

  // One Newton step on the natural residual; where the model does not fall along it, steps on the groups in use.
  SPARSESVM_HD void newton() {
    const int n_active = list_active();
    multiply_columns(team_, w_, all(), s_.step, s_.image);  // what the groups that go to zero do to the others
    for (int e = team_rank(team_); e < n_active * block_; e += team_size(team_)) {
      s_.right[e] -= s_.image[s_.active[e / block_] * block_ + e % block_];
    }
    solve_active(n_active);
    if (!take(1)) newton_in_use();
  }

  // ||W_G - gradient / L|| of a group after the sweep.
  SPARSESVM_HD double natural_norm(int p) const {
    double square = 0;
    for (int e = p * block_; e < (p + 1) * block_; ++e) {
      const double u = s_.set_w[e] - s_.slope[e] / s_.curvature[p];
      square += u * u;
    }
    return sqrt(square);
  }

  // Lists the groups with a flag; returns how many.
  SPARSESVM_HD int list_flagged_groups() {
    team_.sync_team();
    if (team_.part() == 0) {
      const int count = list_flagged(team_, s_.flag, 1, n_groups_, s_.active, task_.counts);
      if (team_.rank() == 0) s_.count[0] = count;
    }
    team_.sync_team();
    return s_.count[0];
  }

  // Lists the groups that the natural residual calls active, and the system there; the step takes the others to zero.
  SPARSESVM_HD int list_active() {
    for (int p = team_rank(team_); p < n_groups_; p += team_size(team_)) {
      const bool active = natural_norm(p) > threshold(p) / s_.curvature[p];
      s_.flag[p] = active;
      for (int e = p * block_; e < (p + 1) * block_; ++e) s_.step[e] = active ? 0.0 : -s_.set_w[e];
    }
    const int n_active = list_flagged_groups();
    for (int t = team_rank(team_); t < n_active; t += team_size(team_)) {
      const int p = s_.active[t];
      const double inverse = 1 / s_.curvature[p], norm = natural_norm(p), shrunk = threshold(p) * inverse / norm;
      const double bend = threshold(p) / (norm * (1 - shrunk));
      double *unit = s_.unit + t * block_, *right = s_.right + t * block_, inner = 0;
      for (int e = 0; e < block_; ++e) {
        const double now = s_.set_w[p * block_ + e], u = now - inverse * s_.slope[p * block_ + e];
        right[e] = (1 - shrunk) * u - now;
        unit[e] = u / norm;
        inner += unit[e] * right[e];
      }
      for (int e = 0; e < block_; ++e) right[e] = s_.curvature[p] * right[e] + bend * (right[e] - inner * unit[e]);
      set_penalty(t, s_.mu[p], bend);
    }
    team_.sync_team();
    return n_active;
  }

  SPARSESVM_HD void set_penalty(int t, double mu, double bend) {
    s_.along[t] = 1 / mu;
    s_.across[t] = 1 / (mu + bend);
  }

  // The step on the listed groups.
  SPARSESVM_HD void solve_active(int n_active) {
    team_.sync_team();
    if (n_active == 0) return;
    solve_newton_system(team_, w_, {s_.active, n_active}, s_.right, Rules::accuracy, s_.image);
    for (int e = team_rank(team_); e < n_active * block_; e += team_size(team_)) {
      s_.step[s_.active[e / block_] * block_ + e % block_] = s_.image[e];
    }
    team_.sync_team();
  }

  // Newton steps on the groups that the sweep left in use: there their norms are smooth, so that each step descends. Where a whole
  // one would push groups through zero these stop there, or where that raises the model half of them, and so on; the last one never
  // does. They leave.
  SPARSESVM_HD void newton_in_use() {
    double budget = 0;
    for (int drop = 0; drop < Rules::max_drops; ++drop) {
      const int n_active = list_in_use();
      if (n_active == 0) return;
      budget += smaller(primal_cost(w_, n_active), dual_cost(w_, n_active));
      if (drop > 0 && budget > Rules::drop_cost) return;
      solve_active(n_active);
      // Where on the step each group passes zero.
      for (int t = team_rank(team_); t < n_active; t += team_size(team_)) {
        double along = 0, own = 0;
        for (int e = s_.active[t] * block_; e < (s_.active[t] + 1) * block_; ++e) {
          along -= s_.set_w[e] * s_.step[e];
          own += s_.set_w[e] * s_.set_w[e];
        }
        s_.crossing[t] = own < along ? own / along : 1.0;
      }
      team_.sync_team();
      double crossing = 0;
      for (int t = team_.rank(); t < n_active; t += team_.size()) crossing += s_.crossing[t] < 1;
      double length = 1;
      int stopped = static_cast<int>(team_.sum(crossing));
      while (!take(length)) {
        if (stopped > 1) {
          stopped = (stopped + 1) / 2;
          length = smallest_crossing(n_active, stopped - 1);
        } else {
          stopped = 0;
          length *= 0.4;
          if (length < 1e-3) return;
        }
      }
      if (stopped == 0 || length == 1) return;
      for (int e = team_rank(team_); e < n_groups_ * block_; e += team_size(team_)) {
        s_.slope[e] += s_.image[e] + s_.mu[e / block_] * s_.right[e];
      }
      team_.sync_team();
    }
  }

  // The crossing that `before` others precede.
  SPARSESVM_HD double smallest_crossing(int count, int before) const {
    double found = 0;
    for (int t = team_.rank(); t < count; t += team_.size()) {
      const double own = s_.crossing[t];
      int rank = 0;
      for (int u = 0; u < count; ++u) rank += s_.crossing[u] < own || (s_.crossing[u] == own && u < t);
      if (rank == before) found = own;
    }
    return team_.max(found);
  }

  // Lists the groups with weights, and the system there; the step is zero elsewhere.
  SPARSESVM_HD int list_in_use() {
    for (int p = team_rank(team_); p < n_groups_; p += team_size(team_)) {
      s_.flag[p] = norm_of(p) > 0;
      for (int e = p * block_; e < (p + 1) * block_; ++e) s_.step[e] = 0;
    }
    const int n_active = list_flagged_groups();
    for (int t = team_rank(team_); t < n_active; t += team_size(team_)) {
      const int p = s_.active[t];
      const double norm = norm_of(p);
      for (int e = 0; e < block_; ++e) {
        const double u = s_.set_w[p * block_ + e] / norm;
        s_.unit[t * block_ + e] = u;
        s_.right[t * block_ + e] = -s_.slope[p * block_ + e] - threshold(p) * u;
      }
      set_penalty(t, s_.mu[p], threshold(p) / norm);
    }
    team_.sync_team();
    return n_active;
  }

  // Of group p of the working set.
  SPARSESVM_HD double threshold(int p) const { return task_.threshold(w_.panel.list[p]); }

  SPARSESVM_HD double norm_of(int p) const {
    double square = 0;
    for (int e = p * block_; e < (p + 1) * block_; ++e) square += s_.set_w[e] * s_.set_w[e];
    return sqrt(square);
  }

  // Moves set_w by `length` of the step if the model falls, and leaves the move in `right` and F' S F times it in `image`. Groups
  // that would pass through zero stop there.
  SPARSESVM_HD bool take(double length) {
    double* d = s_.right;
    for (int p = team_rank(team_); p < n_groups_; p += team_size(team_)) {
      double along = 0, own = 0;
      for (int e = p * block_; e < (p + 1) * block_; ++e) {
        d[e] = length * s_.step[e];
        along += s_.set_w[e] * (s_.set_w[e] + d[e]);
        own += s_.set_w[e] * s_.set_w[e];
      }
      if (own > 0 && !(along > 1e-14 * own)) {
        for (int e = p * block_; e < (p + 1) * block_; ++e) d[e] = -s_.set_w[e];
      }
    }
    team_.sync_team();
    multiply_columns(team_, w_, all(), d, s_.image);
    double change = 0;
    for (int p = team_.rank(); p < n_groups_; p += team_.size()) {
      double before = 0, after = 0, cross = 0;
      for (int e = p * block_; e < (p + 1) * block_; ++e) {
        const double next = s_.set_w[e] + d[e];
        change += d[e] * (s_.slope[e] + 0.5 * (s_.image[e] + s_.mu[p] * d[e]));
        before += s_.set_w[e] * s_.set_w[e];
        after += next * next;
        cross += d[e] * (2 * s_.set_w[e] + d[e]);
      }
      const double sum = sqrt(before) + sqrt(after);
      if (sum > 0) change += threshold(p) * cross / sum;
    }
    change = team_.sum(change);
    team_.sync_team();
    if (!(change < 0)) return false;
    for (int e = team_rank(team_); e < n_groups_ * block_; e += team_size(team_)) {
      s_.set_w[e] = d[e] == -s_.set_w[e] ? 0.0 : s_.set_w[e] + d[e];
    }
    team_.sync_team();
    return true;
  }

  Team team_;
  const SolveWorkspace<T>& w_;
  const Task<T>& task_;
  const ProximalArrays<T>& s_;
  int block_, n_groups_;  // numbers of a group, groups of the working set
};

template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void step_model(Team team, const SolveWorkspace<T>& w) {
  PrimalModel<T, Team>(team, w).step();
}

}  // namespace gpu
SPARSESVM_END
