// The face system of the derivatives (core/svm/face_system.h) in its orthonormal coordinates: built by the team, solved by its
// first block, or by conjugate gradients where it is too large.
#pragma once

#include <cmath>

#include "core/linear_algebra/conjugate_gradients.h"
#include "core/svm/face_rules.h"
#include "cuda/panel.h"
#include "cuda/smallest_solution.h"

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

  // The system on the face that `dual` (n_samples, n_way) selects: its exact zeros stay zero.
  SPARSESVM_HD void prepare(const T* dual) {
    collect(dual);
    if (size_ == 0 || !is_dense()) return;
    build();
    if (team_.part() == 0) {
      n_flat_ = factor_smallest(team_, s_.dense, size_, flat_curvature<T>(task_.n, size_), task_.counts, panel_.group_weight);
    }
  }

  // q (n, k), for the right-hand side (n, k). Conjugate gradients overwrite x and partial sums of the workspace.
  SPARSESVM_HD void solve(const double* right, double* q) {
    team_.sync_team();
    double rounding = 0;
    for (int e = team_.rank(); e < task_.n * task_.k; e += team_.size()) rounding += 1e-31 * right[e] * right[e];
    rounding = team_.sum(rounding);
    double* alpha = is_dense() ? s_.alpha : s_.right;
    reduce(right, alpha);
    if (is_dense()) {
      if (team_.part() == 0 && size_ > 0) solve_smallest(team_, s_.dense, size_, n_flat_, alpha);
    } else {
      iterate(rounding);
    }
    team_.sync_team();
    for (int i = team_rank(team_); i < task_.n; i += team_size(team_)) {
      for (int l = 0; l < task_.k; ++l) q[i * task_.k + l] = 0;
    }
    add_expanded(s_.alpha, q);
  }

  // Takes the part along directions without curvature from a matrix (n, k): there the dual is not unique.
  SPARSESVM_HD void remove_flat(double* matrix) {
    if (size_ == 0 || (!is_dense() && task_.smoothing > 0)) return;  // which is curvature
    team_.sync_team();
    reduce(matrix, s_.part);
    if (is_dense()) {
      for (int f = team_rank(team_); f < size_; f += team_size(team_)) s_.alpha[f] = s_.part[f];
      team_.sync_team();
      if (team_.part() == 0) project_off_flat(team_, s_.dense, size_, n_flat_, s_.alpha);
    } else {
      // What is left of the matrix after a solution of H x = H matrix has no curvature.
      for (int f = team_rank(team_); f < size_; f += team_size(team_)) s_.direction[f] = s_.part[f];
      team_.sync_team();
      apply(s_.direction, s_.right);
      if (!iterate(0.0)) return;
    }
    team_.sync_team();
    for (int f = team_rank(team_); f < size_; f += team_size(team_)) s_.alpha[f] -= s_.part[f];
    team_.sync_team();
    add_expanded(s_.alpha, matrix);
  }

 private:
  SPARSESVM_HD bool is_dense() const { return size_ <= s_.max_size; }

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
        s_.shift[i] = orthonormal_shift(s_.first[i]);
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
    for (int e = team_rank(team_); e < size_ * size_; e += team_size(team_)) s_.dense.matrix[e] = 0;
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
      add_rank_update(team_rank(team_), team_size(team_), panel_.product, stride, panel_.group_weight, filled, size_,
                      s_.dense.matrix, size_);
    }
    team_.sync_team();
    const double inverse = 1 / task_.lambda2;
    for (int e = team_rank(team_); e < size_ * size_; e += team_size(team_)) {
      const int a = e / size_, b = e % size_, i = s_.sample[a], i2 = s_.sample[b];
      const int la = s_.label[a], lb = s_.label[b], ba = s_.base[i], bb = s_.base[i2];
      double value = s_.dense.matrix[e] + s_.gram[i * n + i2] * ((la == lb) - (la == bb) - (ba == lb) + (ba == bb));
      value *= inverse;
      if (i == i2) value += task_.smoothing / task_.weight[i] * ((la == lb) + 1);
      s_.dense.matrix[e] = value;
    }
    team_.sync_team();
    // To orthonormal coordinates, first the rows, then the columns: a thread has one sample's entries in one of them.
    for (int e = team_rank(team_); e < n * size_; e += team_size(team_)) {
      make_orthonormal(e / size_, s_.dense.matrix + e % size_, size_);
    }
    team_.sync_team();
    for (int e = team_rank(team_); e < n * size_; e += team_size(team_)) {
      make_orthonormal(e % n, s_.dense.matrix + static_cast<index>(e / n) * size_);
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

  // out = Z' matrix
  SPARSESVM_HD void reduce(const double* matrix, double* out) const {
    for (int i = team_rank(team_); i < task_.n; i += team_size(team_)) {
      for (int f = s_.first[i]; f < s_.first[i + 1]; ++f) {
        out[f] = matrix[i * task_.k + s_.label[f]] - matrix[i * task_.k + s_.base[i]];
      }
      make_orthonormal(i, out);
    }
    team_.sync_team();
  }

  // matrix (n, k) += Z x; overwrites x.
  SPARSESVM_HD void add_expanded(double* x, double* matrix) const {
    for (int i = team_rank(team_); i < task_.n; i += team_size(team_)) {
      make_orthonormal(i, x);
      for (int f = s_.first[i]; f < s_.first[i + 1]; ++f) {
        matrix[i * task_.k + s_.label[f]] += x[f];
        matrix[i * task_.k + s_.base[i]] -= x[f];
      }
    }
    team_.sync_team();
  }

  // x = M^(-1/2) x for the entries of sample i, `stride` apart.
  SPARSESVM_HD void make_orthonormal(int i, double* x, index stride = 1) const {
    double total = 0;
    for (int f = s_.first[i]; f < s_.first[i + 1]; ++f) total += x[f * stride];
    for (int f = s_.first[i]; f < s_.first[i + 1]; ++f) x[f * stride] -= s_.shift[i] * total;
  }

  // alpha = the solution for `right`, which leaves at most `rounding` of its square.
  SPARSESVM_HD bool iterate(double rounding) {
    return solve_singular(
        team_, size_, rounding, flat_curvature<T>(task_.n, size_), 20 * usual_iterations,
        [this] { apply(s_.direction, s_.image); }, [](double*) {}, s_.right, s_.alpha,
        {s_.residual, s_.direction, s_.image}, s_.met);
  }

  // out = H x without forming H: Z' (F (D (Z x)' F / lambda2)' + smoothing).
  SPARSESVM_HD void apply(const double* x, double* out) {
    const int n = task_.n, k = task_.k;
    for (int i = team_rank(team_); i < n; i += team_size(team_)) {
      for (int f = s_.first[i]; f < s_.first[i + 1]; ++f) out[f] = x[f];
      for (int l = 0; l < k; ++l) s_.rows[i * k + l] = 0;
    }
    add_expanded(out, s_.rows);
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
    reduce(s_.products, out);
  }

  Team team_;
  const DiffWorkspace<T>& d_;
  const Task<T>& task_;
  const FaceArrays& s_;
  const PanelArrays& panel_;
  int size_ = 0;
  int n_flat_ = 0;  // directions without curvature, known to the first block
};

}  // namespace gpu
SPARSESVM_END
