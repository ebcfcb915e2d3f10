// The face system H alpha = Z'R of the derivatives: symmetric, positive semidefinite, in the free dual coordinates.
//
// H = Z' (F D F' / lambda2 + smoothing) Z over the active groups; Z eliminates the largest entry of each sample (docs/method.md, 6).
// Where H is singular (duplicate samples, samples that are zero on every active group) the solution of smallest norm is taken.
#pragma once

#include <cmath>

#include "core/active_panel.h"
#include "core/arena.h"
#include "core/cholesky.h"
#include "core/macros.h"
#include "core/task.h"

SPARSESVM_BEGIN

// Face systems up to this size are factored; larger ones are solved by conjugate gradients, which needs no matrix.
constexpr index max_face_size = 4096;

template <class Passes, typename T>
class FaceSystem {
 public:
  FaceSystem(const Batch<T>& batch, index panel_stride, Arena& arena) {
    const index n = batch.n_samples, k = batch.n_way, face = n * (k > 1 ? k - 1 : 1);
    base_ = arena.take<index>(n);
    sample_ = arena.take<index>(face);
    label_ = arena.take<index>(face);
    alpha_ = arena.take<double>(face);
    work_ = arena.take<double>(4 * face);
    dense_size_ = face < max_face_size ? face : max_face_size;
    system_ = arena.take<double>(dense_size_ * dense_size_);
    gram_ = arena.take<double>(n * n);
    strip_ = arena.take<double>(dense_size_ * (panel_stride / batch.group_size));
    root_ = arena.take<double>(panel_stride);
    rows_ = arena.take<double>(n * k);
    image_ = arena.take<double>(n * k);
    x_ = arena.take<double>(k * panel_stride);
    y_ = arena.take<double>(k * panel_stride);
    row_of_ = arena.take<const double*>(n);
  }

  // The face: exact zeros of the dual (n_samples, k) stay zero.
  void bind(const Task<T>& task, const T* dual) {
    task_ = &task;
    const index k = task.k;
    size_ = 0;
    for (index i = 0; i < task.n; ++i) {
      const T* row = dual + task.sample[i] * k;
      index base = 0;
      for (index l = 1; l < k; ++l) base = row[l] > row[base] ? l : base;
      base_[i] = base;
      for (index l = 0; l < k; ++l) {
        if (l == base || !(row[l] > 0)) continue;
        sample_[size_] = i;
        label_[size_++] = l;
      }
    }
    if (!dense()) return;
    for (index e = 0; e < size_ * size_; ++e) system_[e] = 0;
    for (index e = 0; e < task.n * task.n; ++e) gram_[e] = 0;
  }

  // Adds the panel's part: (1 - t) F F' shared by the classes, and t b b' per group with b_(i, l) = <f_i, u_l - u_base>. Overwrites
  // the features of the panel.
  void add(ActivePanel<T>& panel) {
    if (size_ == 0 || !dense()) return;
    const index g = task_->group_size, n = task_->n, groups = panel.groups, width = panel.width;
    if (task_->lambda1 > 0) {
      const index stride = panel.stride / g;
      for (index p = 0; p < groups; ++p) root_[p] = std::sqrt(1 - panel.keep[p]);
      for (index f = 0; f < size_; ++f) {
        const double* row = panel.f + sample_[f] * panel.stride;
        const double* u = panel.u + label_[f] * panel.stride;
        const double* u_base = panel.u + base_[sample_[f]] * panel.stride;
        double* product = strip_ + f * stride;
        if (g == 1) {
          for (index p = 0; p < groups; ++p) product[p] = root_[p] * row[p] * (u[p] - u_base[p]);
        } else {
          for (index p = 0; p < groups; ++p) {
            double total = 0;
            for (index j = p * g; j < (p + 1) * g; ++j) total += row[j] * (u[j] - u_base[j]);
            product[p] = root_[p] * total;
          }
        }
      }
      Passes::add_rank_update(strip_, size_, stride, groups, 1.0, system_, size_);
      for (index p = 0; p < groups; ++p) {
        for (index j = p * g; j < (p + 1) * g; ++j) root_[j] = std::sqrt(panel.keep[p]);
      }
      for (index i = 0; i < n; ++i) {
        for (index j = 0; j < width; ++j) panel.f[i * panel.stride + j] *= root_[j];
      }
    }
    Passes::add_rank_update(panel.f, n, panel.stride, width, 1.0, gram_, n);
  }

  // q (n, k) = Z alpha with H alpha = Z'right, for right (n, k). The panel is used where H is too large to hold.
  void solve(ActivePanel<T>& panel, const double* right, double* q) {
    const index r = size_, k = task_->k;
    for (index e = 0; e < task_->n * k; ++e) q[e] = 0;
    if (r == 0) return;
    double* rhs = work_;
    reduce(right, rhs);
    if (dense()) {
      solve_dense(rhs);
    } else {
      solve_iteratively(panel, rhs);
    }
    for (index f = 0; f < r; ++f) {
      q[sample_[f] * k + label_[f]] += alpha_[f];
      q[sample_[f] * k + base_[sample_[f]]] -= alpha_[f];
    }
  }

 private:
  bool dense() const { return size_ <= dense_size_; }

  // out = Z' matrix
  void reduce(const double* matrix, double* out) const {
    const index k = task_->k;
    for (index f = 0; f < size_; ++f) out[f] = matrix[sample_[f] * k + label_[f]] - matrix[sample_[f] * k + base_[sample_[f]]];
  }

  // A small multiple of Z'Z makes the factor safe; the refinement steps are proximal-point iterations from zero, which remove that
  // bias and converge to the solution of smallest ||Q||.
  void solve_dense(const double* rhs) {
    const index r = size_;
    double* diagonal = work_ + r;
    double* residual = work_ + 2 * r;
    complete(diagonal);
    factor(diagonal);
    for (index a = 0; a < r; ++a) {
      alpha_[a] = 0;
      residual[a] = rhs[a];
    }
    for (int step = 0; step < 3; ++step) {
      solve_cholesky<Passes>(system_, r, r, residual);
      for (index a = 0; a < r; ++a) alpha_[a] += residual[a];
      if (step == 2) break;
      for (index a = 0; a < r; ++a) residual[a] = rhs[a] - diagonal[a] * alpha_[a];
      for (index a = 0; a < r; ++a) {
        double total = 0;
        for (index b = a + 1; b < r; ++b) {
          total += system_[a * r + b] * alpha_[b];
          residual[b] -= system_[a * r + b] * alpha_[a];
        }
        residual[a] -= total;
      }
    }
  }

  // Adds what the classes share and the smoothing; the upper triangle and `diagonal` then hold H.
  void complete(double* diagonal) {
    const index r = size_, n = task_->n;
    const double inverse = 1 / task_->lambda2;
    for (index a = 0; a < r; ++a) {
      const index i = sample_[a], la = label_[a], ba = base_[i];
      for (index b = 0; b <= a; ++b) {
        const index i2 = sample_[b], lb = label_[b], bb = base_[i2];
        const double kernel = gram_[i >= i2 ? i * n + i2 : i2 * n + i];
        double value = system_[a * r + b] + kernel * ((la == lb) - (la == bb) - (ba == lb) + (ba == bb));
        value *= inverse;
        if (i == i2) value += task_->smoothing / task_->weight[i] * ((la == lb) + 1);
        system_[b * r + a] = value;
        if (a == b) diagonal[a] = value;
      }
    }
  }

  // The factor goes to the lower triangle; its diagonal replaces H's. The ridge makes a singular system solvable, and grows in the
  // rare case that rounding exceeds it.
  void factor(const double* diagonal) {
    const index r = size_;
    double mean = 0;
    for (index a = 0; a < r; ++a) mean += diagonal[a];
    mean /= static_cast<double>(r);
    double ridge = mean > 0 ? 1e-10 * mean : 1.0;
    for (int attempt = 0; attempt < 5; ++attempt, ridge *= 100) {
      for (index a = 0; a < r; ++a) {
        for (index b = 0; b <= a; ++b) {
          const double shift = sample_[a] == sample_[b] ? ridge * ((a == b) + 1) : 0.0;
          system_[a * r + b] = (a == b ? diagonal[a] : system_[b * r + a]) + shift;
        }
      }
      if (factor_cholesky<Passes>(system_, r, r, 0.0) == r) break;
    }
  }

  // Conjugate gradients from zero; in exact arithmetic the iterates stay in the range of H, which is the minimum-norm choice.
  void solve_iteratively(ActivePanel<T>& panel, const double* rhs) {
    const index r = size_;
    double* residual = work_ + r;
    double* direction = work_ + 2 * r;
    double* product = work_ + 3 * r;
    double rho = 0, start = 0;
    for (index a = 0; a < r; ++a) {
      alpha_[a] = 0;
      residual[a] = direction[a] = rhs[a];
      start += rhs[a] * rhs[a];
    }
    rho = start;
    for (index step = 0; step < 2 * r && rho > 1e-26 * start; ++step) {
      apply(panel, direction, product);
      double curvature = 0;
      for (index a = 0; a < r; ++a) curvature += direction[a] * product[a];
      if (!(curvature > 0)) break;
      const double length = rho / curvature;
      double next = 0;
      for (index a = 0; a < r; ++a) {
        alpha_[a] += length * direction[a];
        residual[a] -= length * product[a];
        next += residual[a] * residual[a];
      }
      const double ratio = next / rho;
      rho = next;
      for (index a = 0; a < r; ++a) direction[a] = residual[a] + ratio * direction[a];
    }
  }

  // out = H alpha without forming H: Z' (F (D (Z alpha)' F / lambda2)' + smoothing).
  void apply(ActivePanel<T>& panel, const double* alpha, double* out) {
    const index n = task_->n, k = task_->k;
    for (index e = 0; e < n * k; ++e) rows_[e] = image_[e] = 0;
    for (index f = 0; f < size_; ++f) {
      rows_[sample_[f] * k + label_[f]] += alpha[f];
      rows_[sample_[f] * k + base_[sample_[f]]] -= alpha[f];
    }
    for (index p = 0; p < panel.n_active;) {
      p = panel.load(p);
      for (index i = 0; i < n; ++i) row_of_[i] = panel.f + i * panel.stride;
      Passes::combine_rows(row_of_, n, rows_, k, panel.width, x_, panel.stride);
      panel.apply_link_derivative(x_, y_);
      Passes::add_products(row_of_, n, y_, panel.stride, k, panel.width, 1.0, image_, k);
    }
    for (index i = 0; i < n; ++i) {
      for (index l = 0; l < k; ++l) image_[i * k + l] += task_->smoothing / task_->weight[i] * rows_[i * k + l];
    }
    reduce(image_, out);
  }

  const Task<T>* task_ = nullptr;
  index size_ = 0, dense_size_ = 0;
  index *base_;             // (n) eliminated class of each sample
  index *sample_, *label_;  // (size) the free coordinates
  double *alpha_, *work_, *system_, *gram_, *strip_, *root_, *rows_, *image_, *x_, *y_;
  const double** row_of_;
};

SPARSESVM_END
