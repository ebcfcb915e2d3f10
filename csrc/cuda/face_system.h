// The face system H alpha = Z'R of the derivatives (core/svm/face_system.h): built by the team, solved by its first block, or by
// conjugate gradients where it is too large.
#pragma once

#include <cmath>

#include "cuda/cholesky.h"
#include "cuda/panel.h"

SPARSESVM_BEGIN
namespace gpu {

// out = D x / lambda2 on a block's own groups: (1 - t) x + t <u, x> u. Inactive groups come out as zero.
template <typename In, typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void apply_link_derivative(Team block, const DiffWorkspace<T>& d, const In* x, double* out) {
  const Task<T>& task = d.task;
  const Range groups = task.own_groups(block);
  for (int b = groups.begin + block.rank(); b < groups.end; b += block.size()) {
    double along = 0;
    for (int l = 0; d.active[b] && l < task.k; ++l) {
      for (int j = b * task.g; j < (b + 1) * task.g; ++j) {
        const index e = static_cast<index>(l) * task.m + j;
        along += d.w[e] * static_cast<double>(x[e]);
      }
    }
    along *= d.inverse[b] * d.inverse[b] * (1 - d.keep[b]);
    for (int l = 0; l < task.k; ++l) {
      for (int j = b * task.g; j < (b + 1) * task.g; ++j) {
        const index e = static_cast<index>(l) * task.m + j;
        out[e] = d.active[b] ? (d.keep[b] * static_cast<double>(x[e]) + along * d.w[e]) / task.lambda2 : 0.0;
      }
    }
  }
}

template <typename T, class Team>
class FaceSystem {
 public:
  SPARSESVM_HD FaceSystem(Team team, const DiffWorkspace<T>& d) : team_(team), d_(d), task_(d.task), s_(d.face), panel_(d.panel) {}

  // q (n, k) = Z alpha with H alpha = Z' right. `dual` (n_samples, n_way) selects the face: its exact zeros stay zero.
  SPARSESVM_HD void solve(const T* dual) {
    collect(dual);
    if (size_ > 0) {
      if (size_ <= s_.max_size) {
        build();
        if (team_.part() == 0) solve_dense();
      } else {
        solve_iteratively();
      }
    }
    team_.sync_team();
    expand(s_.alpha, d_.q);
    team_.sync_team();
  }

 private:
  SPARSESVM_HD void collect(const T* dual) {
    const int n = task_.n, k = task_.k;
    team_.sync_team();
    if (team_.part() == 0) {
      for (int i = team_.rank(); i < n; i += team_.size()) {
        const T* row = dual + static_cast<index>(task_.sample[i]) * task_.n_way;
        int base = 0, positive = 0;
        for (int l = 0; l < k; ++l) {
          base = row[l] > row[base] ? l : base;
          positive += row[l] > 0;
        }
        s_.base[i] = base;
        s_.first[i] = larger(positive - 1, 0);
      }
      team_.sync();
      add_before(team_, s_.first, n, task_.counts);
      for (int i = team_.rank(); i < n; i += team_.size()) {
        const T* row = dual + static_cast<index>(task_.sample[i]) * task_.n_way;
        int f = s_.first[i];
        for (int l = 0; l < k; ++l) {
          if (l == s_.base[i] || !(row[l] > 0)) continue;
          s_.sample[f] = i;
          s_.label[f++] = l;
        }
      }
    }
    team_.sync_team();
    size_ = s_.first[n];
  }

  // H in full. Ends with a barrier of the team.
  SPARSESVM_HD void build() {
    const int n = task_.n, g = task_.g, width = PanelArrays::groups(task_), stride = panel_.product_stride;
    for (int e = team_rank(team_); e < size_ * size_; e += team_size(team_)) s_.matrix[e] = 0;
    for (int e = team_rank(team_); e < n * n; e += team_size(team_)) s_.gram[e] = 0;
    const int count = list_groups(team_, task_, panel_, d_.active, 1);
    for (int begin = 0; begin < count; begin += width) {
      const int filled = smaller(width, count - begin);
      team_.sync_team();
      load_columns(team_, task_, panel_, begin, filled);
      for (int p = team_rank(team_); p < filled; p += team_size(team_)) {
        const int b = panel_.list[begin + p];
        panel_.group_weight[p] = (1 - d_.keep[b]) * d_.inverse[b] * d_.inverse[b];
        for (int j = p * g; j < (p + 1) * g; ++j) panel_.column_weight[j] = d_.keep[b];
      }
      team_.sync_team();
      add_rank_update(team_rank(team_), team_size(team_), panel_.column, n, panel_.column_weight, filled * g, n, s_.gram, n);
      if (!(task_.lambda1 > 0)) continue;
      for (int e = team_rank(team_); e < filled * size_; e += team_size(team_)) write_product(begin, e / size_, e % size_);
      team_.sync_team();
      add_rank_update(team_rank(team_), team_size(team_), panel_.product, stride, panel_.group_weight, filled, size_, s_.matrix,
                      size_);
    }
    team_.sync_team();
    const double inverse = 1 / task_.lambda2;
    for (int e = team_rank(team_); e < size_ * size_; e += team_size(team_)) {
      const int a = e / size_, b = e % size_, i = s_.sample[a], i2 = s_.sample[b];
      const int la = s_.label[a], lb = s_.label[b], ba = s_.base[i], bb = s_.base[i2];
      double value = s_.matrix[e] + s_.gram[i * n + i2] * ((la == lb) - (la == bb) - (ba == lb) + (ba == bb));
      value *= inverse;
      if (i == i2) value += task_.smoothing / task_.weight[i] * ((la == lb) + 1);
      s_.matrix[e] = value;
    }
    team_.sync_team();
  }

  // product = <f_i, w_l - w_base> over group p of the panel.
  SPARSESVM_HD void write_product(int begin, int p, int f) {
    const int n = task_.n, g = task_.g, i = s_.sample[f];
    const index column = static_cast<index>(panel_.list[begin + p]) * g;
    const double* w = d_.w + static_cast<index>(s_.label[f]) * task_.m + column;
    const double* base = d_.w + static_cast<index>(s_.base[i]) * task_.m + column;
    double total = 0;
    for (int j = 0; j < g; ++j) total += panel_.column[(p * g + j) * n + i] * (w[j] - base[j]);
    panel_.product[static_cast<index>(p) * panel_.product_stride + f] = total;
  }

  // Entry f of Z' matrix.
  SPARSESVM_HD double reduce(const double* matrix, int f) const {
    const int i = s_.sample[f];
    return matrix[i * task_.k + s_.label[f]] - matrix[i * task_.k + s_.base[i]];
  }

  // out (n, k) = Z alpha
  SPARSESVM_HD void expand(const double* alpha, double* out) {
    const int k = task_.k;
    for (int i = team_rank(team_); i < task_.n; i += team_size(team_)) {
      for (int l = 0; l < k; ++l) out[i * k + l] = 0;
      double total = 0;
      for (int f = s_.first[i]; f < s_.first[i + 1]; ++f) {
        out[i * k + s_.label[f]] = alpha[f];
        total += alpha[f];
      }
      if (s_.first[i] < s_.first[i + 1]) out[i * k + s_.base[i]] = -total;
    }
  }

  // A small multiple of Z'Z makes the factor safe; the refinement steps are proximal-point iterations from zero, which remove that
  // bias and converge to the solution of smallest ||Q||. By the first block.
  SPARSESVM_HD void solve_dense() {
    const int stride = size_ + 1;
    double trace = 0;
    for (int f = team_.rank(); f < size_; f += team_.size()) trace += s_.matrix[static_cast<index>(f) * size_ + f];
    trace = team_.sum(trace);
    const double ridge = trace > 0 ? 1e-10 * trace / size_ : 1.0;
    for (int e = team_.rank(); e < size_ * size_; e += team_.size()) {
      const int a = e / size_, b = e % size_;
      s_.factor[static_cast<index>(a) * stride + b] =
          s_.matrix[e] + (s_.sample[a] == s_.sample[b] ? (a == b ? 2 * ridge : ridge) : 0.0);
    }
    for (int f = team_.rank(); f < size_; f += team_.size()) {
      s_.alpha[f] = 0;
      s_.residual[f] = reduce(d_.right, f);
    }
    team_.sync();
    append_column(team_, s_.factor, size_, s_.residual);
    factor_cholesky(team_, s_.factor, size_, stride, 0.01 * ridge, panel_.group_weight);
    for (int step = 0; step < 3; ++step) {
      if (step > 0) solve_lower(team_, s_.factor, size_, stride, s_.residual);
      solve_upper(team_, s_.factor, size_, stride, s_.search);
      for (int f = team_.rank(); f < size_; f += team_.size()) s_.alpha[f] += s_.search[f];
      team_.sync();
      if (step == 2) break;
      for (int f = team_.warp(); f < size_; f += team_.warps()) {
        double total = 0;
        for (int h = team_.lane(); h < size_; h += lanes) total += s_.matrix[static_cast<index>(f) * size_ + h] * s_.alpha[h];
        total = team_.warp_sum(total);
        if (team_.lane() == 0) s_.residual[f] = reduce(d_.right, f) - total;
      }
      team_.sync();
    }
  }

  // Conjugate gradients from zero; in exact arithmetic the iterates stay in the range of H, which is the minimum-norm choice.
  SPARSESVM_HD void solve_iteratively() {
    double rho = 0;
    for (int f = team_rank(team_); f < size_; f += team_size(team_)) {
      s_.alpha[f] = 0;
      s_.residual[f] = s_.search[f] = reduce(d_.right, f);
    }
    team_.sync_team();
    rho = product(s_.residual, s_.residual);
    const double enough = 1e-26 * rho;
    for (int step = 0; step < 2 * size_ && rho > enough; ++step) {
      apply(s_.search, s_.image);
      const double curvature = product(s_.search, s_.image);
      if (!(curvature > 0)) break;
      const double length = rho / curvature;
      for (int f = team_rank(team_); f < size_; f += team_size(team_)) {
        s_.alpha[f] += length * s_.search[f];
        s_.residual[f] -= length * s_.image[f];
      }
      team_.sync_team();
      const double next = product(s_.residual, s_.residual), ratio = next / rho;
      rho = next;
      for (int f = team_rank(team_); f < size_; f += team_size(team_)) s_.search[f] = s_.residual[f] + ratio * s_.search[f];
      team_.sync_team();
    }
  }

  SPARSESVM_HD double product(const double* left, const double* right) const {
    double total = 0;
    for (int f = team_.rank(); f < size_; f += team_.size()) total += left[f] * right[f];
    return team_.sum(total);
  }

  // out = H alpha without forming H: Z' (F (D (Z alpha)' F / lambda2)' + smoothing).
  SPARSESVM_HD void apply(const double* alpha, double* out) {
    const int n = task_.n, k = task_.k;
    expand(alpha, s_.rows);
    team_.sync_team();
    combine_rows(team_, task_.rows, n, s_.rows, k, task_.m, task_.columns(task_.own_groups(team_)), d_.x);
    team_.sync();
    apply_link_derivative(team_, d_, d_.x, d_.x);
    team_.sync();
    multiply_rows(team_, task_, task_.rows, 0, n, d_.x, d_.partial);
    team_.sync_team();
    for (int e = team_rank(team_); e < n * k; e += team_size(team_)) {
      s_.products[e] = add_chunks(d_.partial, task_.n_chunks, n, k, e) + task_.smoothing / task_.weight[e / k] * s_.rows[e];
    }
    team_.sync_team();
    for (int f = team_rank(team_); f < size_; f += team_size(team_)) out[f] = reduce(s_.products, f);
    team_.sync_team();
  }

  Team team_;
  const DiffWorkspace<T>& d_;
  const Task<T>& task_;
  const FaceArrays& s_;
  const PanelArrays& panel_;
  int size_ = 0;
};

}  // namespace gpu
SPARSESVM_END
