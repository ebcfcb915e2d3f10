// The Newton system of the primal model on the active columns (core/svm/newton_system.h):
//
//     (H0 + F' S F) d = r,   H0 = (mu + b) I - b u u' group by group,   S = w (diag(s) - s s' / |s|) sample by sample,
//
// solved on its smaller side by a factor, or where both are too large by conjugate gradients. Vectors are (columns, k).
#pragma once

#include <cmath>

#include "cuda/cholesky.h"
#include "cuda/free_samples.h"

SPARSESVM_BEGIN
namespace gpu {

// Operations of a factored solution on either side; 1e300 where it is too large.
template <typename T>
SPARSESVM_HD double primal_cost(const SolveWorkspace<T>& w, int n_groups) {
  const double size = static_cast<double>(n_groups) * w.task.g * (w.task.k - 1), coordinates = w.proximal.n_coordinates;
  return size <= w.model.max_inner ? size * size * (coordinates + size / 3) : 1e300;
}
template <typename T>
SPARSESVM_HD double dual_cost(const SolveWorkspace<T>& w, int n_groups) {
  const double free = w.proximal.n_free, coordinates = w.proximal.n_coordinates;
  if (coordinates > w.model.max_inner || free > w.model.gram_size) return 1e300;
  return free * free * n_groups * w.task.g + coordinates * coordinates * (n_groups + coordinates / 3);
}

template <typename T, class Team>
class NewtonSystem {
 public:
  // Of the groups `set`; H0^-1 of each is `along` in the direction of its unit block and `across` elsewhere.
  SPARSESVM_HD NewtonSystem(Team team, const SolveWorkspace<T>& w, Columns set)
      : team_(team), w_(w), task_(w.task), s_(w.proximal), set_(set), width_(set.count * w.task.g) {}

  // d = the solution, to a share `accuracy` of the residual where it is iterated. Ends with a barrier of the team.
  SPARSESVM_HD void solve(const double* right, double accuracy, double* d) {
    const double primal = primal_cost(w_, set_.count), dual = dual_cost(w_, set_.count);
    if (primal >= 1e300 && dual >= 1e300) {
      iterate(right, accuracy, d);
    } else if (primal <= dual) {
      solve_primal(right, d);
    } else {
      solve_dual(right, d);
    }
  }

 private:
  static constexpr int max_products = 500;

  // The matrix over (class, column) in the coordinates of the basis.
  SPARSESVM_HD void solve_primal(const double* right, double* d) {
    const int k = task_.k, q = k - 1, g = task_.g, size = q * width_, stride = size + 1;
    double *matrix = w_.model.reduced, *product = w_.panel.product, *weight = w_.panel.group_weight;
    team_.sync_team();
    for (int e = team_rank(team_); e < size * stride; e += team_size(team_)) matrix[e] = 0;
    for (int begin = 0; begin < s_.n_coordinates; begin += panel_groups) {
      const int filled = smaller(panel_groups, s_.n_coordinates - begin);
      team_.sync_team();
      for (int p = team_rank(team_); p < filled; p += team_size(team_)) {
        write_orthonormal(begin + p, s_.vector + p * k);
        s_.basis.reduce(s_.vector + p * k, s_.reduced_vector + p * q);
        weight[p] = s_.free_weight[s_.coordinate_free[begin + p]];
      }
      team_.sync_team();
      for (int e = team_rank(team_); e < filled * size; e += team_size(team_)) {
        const int p = e / size, r = e % size, i = s_.free[s_.coordinate_free[begin + p]];
        product[static_cast<index>(p) * w_.panel.product_stride + r] =
            s_.reduced_vector[p * q + r / width_] * static_cast<double>(column(w_, set_, r % width_)[i]);
      }
      team_.sync_team();
      add_rank_update(team_rank(team_), team_size(team_), product, w_.panel.product_stride, weight, filled, size, matrix, stride);
    }
    for (int j = team_rank(team_); j < width_; j += team_size(team_)) s_.basis.reduce(s_.unit + j * k, s_.image + j * q);
    team_.sync_team();
    const int block = g * q;
    for (int e = team_rank(team_); e < set_.count * block; e += team_size(team_)) {
      const int p = e / block, a = e % block / g, j = p * g + e % g;
      const double strong = 1 / s_.across[p], extra = 1 / s_.along[p] - strong, own = extra * s_.image[j * q + a];
      double* row = matrix + static_cast<index>(a * width_ + j) * stride;
      for (int b = 0; b < q; ++b) {
        for (int j2 = p * g; j2 < (p + 1) * g; ++j2) row[b * width_ + j2] += own * s_.image[j2 * q + b];
      }
      row[a * width_ + j] += strong;
    }
    team_.sync_team();
    if (team_.part() == 0) {
      for (int j = team_.rank(); j < width_; j += team_.size()) s_.basis.reduce(right + j * k, w_.model.slope + j, width_);
      solve_factored(size);
      for (int j = team_.rank(); j < width_; j += team_.size()) s_.basis.expand(w_.model.solution + j, d + j * k, width_);
    }
    team_.sync_team();
  }

  // x (k): the vectors of a sample's coordinates are an orthonormal basis of what sums to zero on its free classes.
  SPARSESVM_HD void write_orthonormal(int e, double* x) const {
    const double* p = s_.p + s_.free[s_.coordinate_free[e]] * task_.k;
    const int label = s_.coordinate_label[e], before = e - s_.first[s_.coordinate_free[e]] + 1;
    const double scale = 1 / sqrt(static_cast<double>(before) * (before + 1));
    for (int l = 0; l < task_.k; ++l) x[l] = l < label && p[l] > 0 ? scale : 0.0;
    x[label] = -before * scale;
  }

  // (M^-1 + B' H0^-1 B) y = B' H0^-1 r, d = H0^-1 (r - B y), with B M B' = F' S F: a free entry has the column f_i (e_l - e_base),
  // and M makes those of a sample orthonormal.
  SPARSESVM_HD void solve_dual(const double* right, double* d) {
    const int k = task_.k, size = s_.n_coordinates, stride = size + 1, f = s_.n_free;
    double *matrix = w_.model.reduced, *gram = w_.model.gram;
    add_kernel();
    for (int e = team_rank(team_); e < size * size; e += team_size(team_)) {
      const int a = e / size, b = e % size, i = s_.coordinate_free[a], i2 = s_.coordinate_free[b];
      const int la = s_.coordinate_label[a], lb = s_.coordinate_label[b], ba = s_.base[i], bb = s_.base[i2];
      double value = gram[i * f + i2] * ((la == lb) - (la == bb) - (ba == lb) + (ba == bb));
      if (i == i2) value += (1.0 + (la == lb)) / s_.free_weight[i];
      matrix[static_cast<index>(a) * stride + b] += value;
    }
    divide_penalty(right, d, false);
    score_columns(team_, w_, set_, d, s_.free, f, s_.bent);
    if (team_.part() == 0) {
      for (int e = team_.rank(); e < size; e += team_.size()) {
        const int i = s_.coordinate_free[e];
        w_.model.slope[e] = s_.bent[i * k + s_.coordinate_label[e]] - s_.bent[i * k + s_.base[i]];
      }
      solve_factored(size);
      for (int i = team_.rank(); i < f; i += team_.size()) {
        for (int l = 0; l < k; ++l) s_.bent[i * k + l] = 0;
        double total = 0;
        for (int e = s_.first[i]; e < s_.first[i + 1]; ++e) {
          s_.bent[i * k + s_.coordinate_label[e]] = w_.model.solution[e];
          total += w_.model.solution[e];
        }
        s_.bent[i * k + s_.base[i]] = -total;
      }
    }
    team_.sync_team();
    pull_columns(team_, w_, set_, s_.bent, s_.free, f, s_.product);
    for (int e = team_rank(team_); e < width_ * k; e += team_size(team_)) s_.product[e] = right[e] - s_.product[e];
    team_.sync_team();
    divide_penalty(s_.product, d, false);
  }

  // The parts of B' H0^-1 B: gram = F H0^-1 F' without its rank-one terms, which go to the matrix.
  SPARSESVM_HD void add_kernel() {
    const int k = task_.k, g = task_.g, size = s_.n_coordinates, f = s_.n_free, at_once = PanelArrays::groups(task_);
    const PanelArrays& panel = w_.panel;
    double* matrix = w_.model.reduced;
    team_.sync_team();
    for (int e = team_rank(team_); e < size * (size + 1); e += team_size(team_)) matrix[e] = 0;
    for (int e = team_rank(team_); e < f * f; e += team_size(team_)) w_.model.gram[e] = 0;
    for (int begin = 0; begin < set_.count; begin += at_once) {
      const int filled = smaller(at_once, set_.count - begin);
      team_.sync_team();
      for (index e = team_rank(team_); e < static_cast<index>(filled) * g * f; e += team_size(team_)) {
        const int c = static_cast<int>(e / f);
        panel.column[e] = static_cast<double>(column(w_, set_, begin * g + c)[s_.free[e % f]]);
      }
      for (int p = team_rank(team_); p < filled; p += team_size(team_)) {
        panel.group_weight[p] = s_.along[begin + p] - s_.across[begin + p];
        for (int j = p * g; j < (p + 1) * g; ++j) panel.column_weight[j] = s_.across[begin + p];
      }
      team_.sync_team();
      add_rank_update(team_rank(team_), team_size(team_), panel.column, f, panel.column_weight, filled * g, f, w_.model.gram, f);
      if (!(task_.lambda1 > 0)) continue;
      for (int e = team_rank(team_); e < filled * size; e += team_size(team_)) {
        const int p = e / size, a = e % size, i = s_.coordinate_free[a];
        double total = 0;
        for (int j = 0; j < g; ++j) {
          const double* u = s_.unit + static_cast<index>((begin + p) * g + j) * k;
          total += panel.column[static_cast<index>(p * g + j) * f + i] * (u[s_.coordinate_label[a]] - u[s_.base[i]]);
        }
        panel.product[static_cast<index>(p) * panel.product_stride + a] = total;
      }
      team_.sync_team();
      add_rank_update(team_rank(team_), team_size(team_), panel.product, panel.product_stride, panel.group_weight, filled, size,
                      matrix, size + 1);
    }
    team_.sync_team();
  }

  // model.solution of the matrix in model.reduced for model.slope, by one block.
  SPARSESVM_HD void solve_factored(int size) {
    team_.sync();
    append_column(team_, w_.model.reduced, size, w_.model.slope);
    factor_cholesky(team_, w_.model.reduced, size, size + 1, 0.0, w_.panel.group_weight);
    solve_upper(team_, w_.model.reduced, size, size + 1, w_.model.solution);
  }

  // out = H0^-1 x, or with the diagonal of F' S F added to H0. Ends with a barrier of the team.
  SPARSESVM_HD void divide_penalty(const double* x, double* out, bool with_diagonal) {
    const int block = task_.g * task_.k;
    for (int p = team_rank(team_); p < set_.count; p += team_size(team_)) {
      const double more = with_diagonal ? s_.preconditioner[p] : 0.0;
      const double strong = 1 / (1 / s_.across[p] + more), weak = 1 / (1 / s_.along[p] + more);
      bend_group(p * block, block, x, strong, weak - strong, 0, out);
    }
    team_.sync_team();
  }

  // out = keep * out + straight * x + extra * <u, x> u over a group's block.
  SPARSESVM_HD void bend_group(int first, int block, const double* x, double straight, double extra, double keep, double* out) {
    double inner = 0;
    for (int e = first; e < first + block; ++e) inner += s_.unit[e] * x[e];
    inner *= extra;
    for (int e = first; e < first + block; ++e) {
      const double before = keep != 0 ? keep * out[e] : 0.0;
      out[e] = before + straight * x[e] + inner * s_.unit[e];
    }
  }

  SPARSESVM_HD double product(const double* left, const double* right) const {
    double total = 0;
    for (int e = team_.rank(); e < width_ * task_.k; e += team_.size()) total += left[e] * right[e];
    return team_.sum(total);
  }

  // Conjugate gradients, preconditioned by H0 plus the mean diagonal of F' S F in each group.
  SPARSESVM_HD void iterate(const double* right, double accuracy, double* d) {
    const int k = task_.k, g = task_.g, block = g * k, size = width_ * k;
    double *r = s_.residual, *s = s_.conditioned, *search = s_.search, *image = s_.product;
    for (int p = team_.part() * team_.warps() + team_.warp(); p < set_.count; p += team_.parts() * team_.warps()) {
      double total = 0;
      for (int j = p * g; j < (p + 1) * g; ++j) {
        const T* x = column(w_, set_, j);
        for (int f = team_.lane(); f < s_.n_free; f += lanes) {
          const double value = static_cast<double>(x[s_.free[f]]);
          total += s_.free_weight[f] * (1 / s_.inverse[f] - 1) * value * value;
        }
      }
      total = team_.warp_sum(total);
      if (team_.lane() == 0) s_.preconditioner[p] = total / (g * (k - 1));
    }
    for (int e = team_rank(team_); e < size; e += team_size(team_)) {
      d[e] = 0;
      r[e] = right[e];
    }
    team_.sync_team();
    divide_penalty(r, s, true);
    double rho = product(r, s);
    const double enough = accuracy * accuracy * rho;
    for (int e = team_rank(team_); e < size; e += team_size(team_)) search[e] = s[e];
    team_.sync_team();
    for (int step = 0; step < max_products && rho > enough; ++step) {
      multiply_columns(team_, w_, set_, search, image);
      for (int p = team_rank(team_); p < set_.count; p += team_size(team_)) {
        bend_group(p * block, block, search, 1 / s_.across[p], 1 / s_.along[p] - 1 / s_.across[p], 1, image);
      }
      team_.sync_team();
      const double curvature = product(search, image);
      if (!(curvature > 0)) break;
      const double length = rho / curvature;
      for (int e = team_rank(team_); e < size; e += team_size(team_)) {
        d[e] += length * search[e];
        r[e] -= length * image[e];
      }
      team_.sync_team();
      divide_penalty(r, s, true);
      const double next = product(r, s), carry = next / rho;
      rho = next;
      for (int e = team_rank(team_); e < size; e += team_size(team_)) search[e] = s[e] + carry * search[e];
      team_.sync_team();
    }
  }

  Team team_;
  const SolveWorkspace<T>& w_;
  const Task<T>& task_;
  const ProximalArrays<T>& s_;
  Columns set_;
  int width_;  // columns
};

template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void solve_newton_system(Team team, const SolveWorkspace<T>& w, Columns set, const double* right,
                                                         double accuracy, double* d) {
  NewtonSystem<T, Team>(team, w, set).solve(right, accuracy, d);
}

}  // namespace gpu
SPARSESVM_END
