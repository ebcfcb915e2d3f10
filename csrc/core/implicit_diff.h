// Exact derivatives of the weights at the solution: vector-Jacobian and Jacobian-vector products.
//
// On the face of the simplices and the set of active groups that the solution selects, the optimality system is smooth; dA is
// eliminated by one symmetric positive semidefinite solve in the free dual coordinates (mathematics.md, sections 4 and 11). Letters
// follow that page: F features, u unit block, t = lambda1 / norm, D the derivative of block soft-thresholding, Z the face basis.
#pragma once

#include <cmath>

#include "core/arena.h"
#include "core/cholesky.h"
#include "core/macros.h"
#include "core/task.h"

SPARSESVM_BEGIN

// Face systems up to this size are factored; larger ones are solved by conjugate gradients, which needs no matrix.
constexpr index max_face_size = 4096;

template <class Passes, typename T>
class ImplicitDiff {
 public:
  ImplicitDiff(const Batch<T>& batch, Arena& arena) {
    const index n = batch.n_samples, k = batch.n_way, m = batch.n_features, g = batch.group_size;
    task_ = Task<T>::take(arena, batch);
    width_ = g > panel_columns ? g : panel_columns / g * g;
    if (width_ > m) width_ = m;
    groups_ = arena.take<index>(m / g);
    unit_norm_ = arena.take<double>(m / g);
    f_ = arena.take<double>(n * width_);
    df_ = arena.take<double>(n * width_);
    u_ = arena.take<double>(k * width_);
    w_ = arena.take<double>(k * width_);
    x_ = arena.take<double>(k * width_);
    y_ = arena.take<double>(k * width_);
    row_of_ = arena.take<const double*>(n > 2 * k ? n : 2 * k);
    out_ = arena.take<double>((n > k ? n : k) * width_);
    residual_dual_ = arena.take<double>(n * k);
    right_ = arena.take<double>(n * k);
    q_ = arena.take<double>(n * k);
    image_ = arena.take<double>(n * k);
    pair_ = arena.take<double>(2 * n * k);
    base_ = arena.take<index>(n);
    const index face = n * (k > 1 ? k - 1 : 1);
    free_sample_ = arena.take<index>(face);
    free_label_ = arena.take<index>(face);
    alpha_ = arena.take<double>(face);
    work_ = arena.take<double>(4 * face);
    dense_size_ = face < max_face_size ? face : max_face_size;
    system_ = arena.take<double>(dense_size_ * dense_size_);
    gram_ = arena.take<double>(dense_size_ * dense_size_ > 0 ? n * n : 0);
    strip_ = arena.take<double>(dense_size_ * (width_ / g));
    tangent_ = arena.take<double>(k * m);
  }

  void vjp(const VjpArguments<T>& arguments, index number) {
    const Batch<T>& batch = arguments.batch;
    bind(batch, arguments.solution, number);
    const index k = task_.k, m = task_.m, n = task_.n;
    const T* cotangent = arguments.grad_weights + number * k * m;
    T* grad_features = arguments.grad_features + number * batch.n_samples * m;
    for (index e = 0; e < batch.n_samples * m; ++e) grad_features[e] = 0;
    double* grad_weight = arguments.grad_sample_weight + number * batch.n_samples;
    for (index i = 0; i < batch.n_samples; ++i) grad_weight[i] = 0;

    begin_system();
    for (index p = 0; p < n_active_; p += panel_groups()) {
      const index width = load_panel(p);
      load_rows(cotangent, m, x_);
      apply_link_derivative(width, x_, y_);  // P = D G / lambda2
      add_products(f_, y_, width, right_);   // R = F P'
      add_to_system(width);
    }
    solve_system();

    double by_lambda1 = 0, by_lambda2 = 0;
    for (index p = 0; p < n_active_; p += panel_groups()) {
      const index width = load_panel(p);
      load_rows(cotangent, m, x_);
      subtract_combination(width, q_, x_);  // G' = G - Q'F
      for (index l = 0; l < k; ++l) {
        for (index j = 0; j < width; ++j) {
          by_lambda1 -= u_[l * width_ + j] * x_[l * width_ + j];
          by_lambda2 -= w_[l * width_ + j] * x_[l * width_ + j];
        }
      }
      apply_link_derivative(width, x_, y_);  // P' = D G' / lambda2
      write_feature_gradient(width, grad_features);
      add_weight_gradient(batch, number, width, grad_weight);
    }
    if (task_.smoothing > 0) {
      for (index i = 0; i < n; ++i) {
        for (index l = 0; l < k; ++l) {
          by_lambda2 += task_.smoothing * q_[i * k + l] * residual_dual_[i * k + l] / task_.weight[i];
        }
      }
    }
    arguments.grad_lambda1[number] = by_lambda1 / task_.lambda2;
    arguments.grad_lambda2[number] = by_lambda2 / task_.lambda2;
  }

  void jvp(const JvpArguments<T>& arguments, index number) {
    const Batch<T>& batch = arguments.batch;
    bind(batch, arguments.solution, number);
    const index k = task_.k, m = task_.m, n = task_.n;
    const T* df = arguments.tangent_features + number * batch.n_samples * m;
    const double d1 = arguments.tangent_lambda1[number], d2 = arguments.tangent_lambda2[number];
    const double* dc = arguments.tangent_sample_weight + number * batch.n_samples;
    T* out = arguments.tangent_weights + number * k * m;
    for (index e = 0; e < k * m; ++e) out[e] = 0;

    begin_system();
    for (index p = 0; p < n_active_; p += panel_groups()) {
      const index width = load_panel(p);
      load_tangent_rows(df, p);
      // Explicit change of V at fixed dual: (diag(c) Y - A)' dF + (dc (Y - Lambda))' F.
      for (index e = 0; e < k * width_; ++e) x_[e] = 0;
      for (index e = 0; e < n * k; ++e) image_[e] = -residual_dual_[e];
      subtract_combination_of(df_, width, image_, x_);
      for (index i = 0; i < n; ++i) {
        for (index l = 0; l < k; ++l) image_[i * k + l] = -residual_dual_[i * k + l] / task_.weight[i] * dc[task_.sample[i]];
      }
      subtract_combination(width, image_, x_);
      add_absent_change(arguments, number, p, dc);
      apply_link_derivative(width, x_, y_);
      for (index l = 0; l < k; ++l) {
        for (index j = 0; j < width; ++j) {
          const index e = l * width_ + j;
          y_[e] -= (u_[e] * d1 + w_[e] * d2) / task_.lambda2;
          tangent_[l * m + column(p, j)] = y_[e];
        }
      }
      add_products(f_, y_, width, right_);
      add_products(df_, w_, width, right_);
      add_to_system(width);
    }
    if (task_.smoothing > 0) {
      for (index i = 0; i < n; ++i) {
        for (index l = 0; l < k; ++l) {
          right_[i * k + l] -= task_.smoothing / task_.lambda2 * d2 * residual_dual_[i * k + l] / task_.weight[i];
        }
      }
    }
    solve_system();
    for (index p = 0; p < n_active_; p += panel_groups()) {
      const index width = load_panel(p);
      for (index e = 0; e < k * width_; ++e) x_[e] = 0;
      subtract_combination(width, q_, x_);
      apply_link_derivative(width, x_, y_);
      for (index l = 0; l < k; ++l) {
        for (index j = 0; j < width; ++j) {
          const index at = l * m + column(p, j);
          out[at] = static_cast<T>(tangent_[at] + y_[l * width_ + j]);
        }
      }
    }
  }

 private:
  static constexpr index panel_columns = 256;

  index panel_groups() const { return width_ / task_.group_size; }
  index column(index first_group, index j) const {
    return groups_[first_group + j / task_.group_size] * task_.group_size + j % task_.group_size;
  }

  void bind(const Batch<T>& batch, const SolutionView<T>& solution, index number) {
    task_.bind(batch, number);
    const index k = task_.k, m = task_.m, g = task_.group_size;
    weights_ = solution.weights + number * k * m;
    dual_of_batch_ = solution.dual;
    // Active groups; with lambda1 = 0 the link is linear and every group counts, also one that is zero on the whole support set.
    n_active_ = 0;
    double* square = tangent_;  // one per group; not needed before the first pass
    for (index b = 0; b < task_.n_groups; ++b) square[b] = 0;
    for (index l = 0; l < k; ++l) {
      const T* row = weights_ + l * m;
      if (g == 1) {
        for (index j = 0; j < m; ++j) square[j] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
      } else {
        for (index j = 0; j < m; ++j) square[j / g] += static_cast<double>(row[j]) * static_cast<double>(row[j]);
      }
    }
    for (index b = 0; b < task_.n_groups; ++b) {
      if (square[b] > 0 || task_.lambda1 == 0) {
        groups_[n_active_] = b;
        unit_norm_[n_active_++] = std::sqrt(square[b]);
      }
    }
    // The face: exact zeros of the dual stay zero; the largest entry of each sample is eliminated.
    n_free_ = 0;
    for (index i = 0; i < task_.n; ++i) {
      const T* dual = solution.dual + (number * batch.n_samples + task_.sample[i]) * k;
      index base = 0;
      for (index l = 1; l < k; ++l) base = dual[l] > dual[base] ? l : base;
      base_[i] = base;
      for (index l = 0; l < k; ++l) {
        const double y = task_.label[i] == l;
        residual_dual_[i * k + l] = task_.weight[i] * (y - static_cast<double>(dual[l]));  // diag(c) Y - A
        if (l != base && dual[l] > 0) {
          free_sample_[n_free_] = i;
          free_label_[n_free_++] = l;
        }
      }
    }
    for (index e = 0; e < task_.n * k; ++e) right_[e] = 0;
  }

  // Gathers features, unit blocks and weights of up to panel_groups() active groups; returns the number of columns.
  index load_panel(index first) {
    const index g = task_.group_size, k = task_.k, m = task_.m;
    const index count = n_active_ - first < panel_groups() ? n_active_ - first : panel_groups();
    for (index i = 0; i < task_.n; ++i) {
      for (index p = 0; p < count; ++p) {
        for (index j = 0; j < g; ++j) {
          f_[i * width_ + p * g + j] = static_cast<double>(task_.rows[i][groups_[first + p] * g + j]);
        }
      }
    }
    for (index l = 0; l < k; ++l) {
      for (index p = 0; p < count; ++p) {
        const double norm = unit_norm_[first + p];
        for (index j = 0; j < g; ++j) {
          const double w = static_cast<double>(weights_[l * m + groups_[first + p] * g + j]);
          w_[l * width_ + p * g + j] = w;
          u_[l * width_ + p * g + j] = norm > 0 ? w / norm : 0.0;
        }
      }
    }
    first_ = first;
    return count * g;
  }

  void load_rows(const T* matrix, index stride, double* out) {
    const index g = task_.group_size;
    const index count = n_active_ - first_ < panel_groups() ? n_active_ - first_ : panel_groups();
    for (index l = 0; l < task_.k; ++l) {
      for (index p = 0; p < count; ++p) {
        for (index j = 0; j < g; ++j) {
          out[l * width_ + p * g + j] = static_cast<double>(matrix[l * stride + groups_[first_ + p] * g + j]);
        }
      }
    }
  }

  void load_tangent_rows(const T* df, index first) {
    const index g = task_.group_size;
    const index count = n_active_ - first < panel_groups() ? n_active_ - first : panel_groups();
    for (index i = 0; i < task_.n; ++i) {
      const T* row = df + task_.sample[i] * task_.m;
      for (index p = 0; p < count; ++p) {
        for (index j = 0; j < g; ++j) df_[i * width_ + p * g + j] = static_cast<double>(row[groups_[first + p] * g + j]);
      }
    }
  }

  // 1 - t = lambda2 ||W_G|| / (lambda1 + lambda2 ||W_G||): the part of the link that survives across the unit block.
  double straight(index group) const {
    if (task_.lambda1 == 0) return 1;
    const double shrunk = task_.lambda2 * unit_norm_[group];
    return shrunk / (task_.lambda1 + shrunk);
  }

  // out = D x / lambda2 on the panel, group by group: (1 - t) x + t <u, x> u.
  void apply_link_derivative(index width, const double* x, double* out) const {
    const index g = task_.group_size, k = task_.k;
    const double inverse = 1 / task_.lambda2;
    for (index j = 0; j < width; j += g) {
      const double keep = straight(first_ + j / g);
      double along = 0;
      for (index l = 0; l < k; ++l) {
        for (index c = j; c < j + g; ++c) along += u_[l * width_ + c] * x[l * width_ + c];
      }
      const double turn = (1 - keep) * along * inverse;
      for (index l = 0; l < k; ++l) {
        for (index c = j; c < j + g; ++c) {
          out[l * width_ + c] = keep * inverse * x[l * width_ + c] + turn * u_[l * width_ + c];
        }
      }
    }
  }

  // out (n, k) += left (n, width) right' (width, k)
  void add_products(const double* left, const double* right, index width, double* out) {
    for (index i = 0; i < task_.n; ++i) row_of_[i] = left + i * width_;
    Passes::add_products(row_of_, task_.n, right, width_, task_.k, width, 1.0, out, task_.k);
  }

  // x (k, width) -= coefficients' (k, n) F (n, width)
  void subtract_combination(index width, const double* coefficients, double* x) { subtract_combination_of(f_, width, coefficients, x); }

  void subtract_combination_of(const double* rows, index width, const double* coefficients, double* x) {
    for (index i = 0; i < task_.n; ++i) row_of_[i] = rows + i * width_;
    Passes::combine_rows(row_of_, task_.n, coefficients, task_.k, width, out_, width_);
    for (index l = 0; l < task_.k; ++l) {
      for (index j = 0; j < width; ++j) x[l * width_ + j] -= out_[l * width_ + j];
    }
  }

  // ---- the face system H alpha = Z'R ----

  bool dense() const { return n_free_ <= dense_size_; }

  void begin_system() {
    if (n_free_ == 0 || !dense()) return;
    for (index e = 0; e < n_free_ * n_free_; ++e) system_[e] = 0;
    for (index e = 0; e < task_.n * task_.n; ++e) gram_[e] = 0;
  }

  // Adds the panel's part: (1 - t) F F' shared by the classes, and t b b' per group with b_(i, l) = <f_i, u_l - u_base>.
  void add_to_system(index width) {
    if (n_free_ == 0 || !dense()) return;
    const index g = task_.group_size, n = task_.n;
    const index count = width / g;
    if (task_.lambda1 > 0) {
      const index stride = panel_groups();
      for (index f = 0; f < n_free_; ++f) {
        const double* row = f_ + free_sample_[f] * width_;
        const double* u = u_ + free_label_[f] * width_;
        const double* u_base = u_ + base_[free_sample_[f]] * width_;
        for (index p = 0; p < count; ++p) {
          double product = 0;
          for (index j = p * g; j < (p + 1) * g; ++j) product += row[j] * (u[j] - u_base[j]);
          strip_[f * stride + p] = product * std::sqrt(1 - straight(first_ + p));
        }
      }
      Passes::add_rank_update(strip_, n_free_, stride, count, 1.0, system_, n_free_);
    }
    for (index p = 0; p < count; ++p) {
      const double root = std::sqrt(straight(first_ + p));
      if (root == 1) continue;
      for (index i = 0; i < n; ++i) {
        for (index j = p * g; j < (p + 1) * g; ++j) f_[i * width_ + j] *= root;
      }
    }
    Passes::add_rank_update(f_, n, width_, width, 1.0, gram_, n);
  }

  // Q = Z alpha with H alpha = Z'R of minimum norm where H is singular (duplicate samples, samples that are zero on every active
  // group). A small multiple of Z'Z makes the factor safe; the refinement steps are proximal-point iterations from zero, which remove
  // that bias and converge to the solution of smallest ||Q||.
  void solve_system() {
    const index r = n_free_, k = task_.k;
    for (index e = 0; e < task_.n * k; ++e) q_[e] = 0;
    if (r == 0) return;
    double* rhs = work_;
    for (index f = 0; f < r; ++f) {
      rhs[f] = right_[free_sample_[f] * k + free_label_[f]] - right_[free_sample_[f] * k + base_[free_sample_[f]]];
    }
    if (dense()) {
      solve_dense(rhs);
    } else {
      solve_iteratively(rhs);
    }
    for (index f = 0; f < r; ++f) {
      q_[free_sample_[f] * k + free_label_[f]] += alpha_[f];
      q_[free_sample_[f] * k + base_[free_sample_[f]]] -= alpha_[f];
    }
  }

  void solve_dense(const double* rhs) {
    const index r = n_free_, n = task_.n;
    const double inverse = 1 / task_.lambda2;
    double* diagonal = work_ + r;
    double* residual = work_ + 2 * r;
    double mean = 0;
    for (index a = 0; a < r; ++a) {
      const index i = free_sample_[a], la = free_label_[a], ba = base_[i];
      for (index b = 0; b <= a; ++b) {
        const index i2 = free_sample_[b], lb = free_label_[b], bb = base_[i2];
        const double kernel = gram_[i >= i2 ? i * n + i2 : i2 * n + i];
        double value = system_[a * r + b] + kernel * ((la == lb) - (la == bb) - (ba == lb) + (ba == bb));
        value *= inverse;
        if (i == i2) value += task_.smoothing / task_.weight[i] * ((la == lb) + 1);
        system_[b * r + a] = value;  // the upper triangle keeps H, the lower becomes the factor
        if (a == b) diagonal[a] = value;
      }
      mean += diagonal[a];
    }
    mean /= static_cast<double>(r);
    // The ridge makes a singular system solvable, and refinement takes it out again. It grows in the rare case that rounding exceeds it.
    double ridge = mean > 0 ? 1e-10 * mean : 1.0;
    for (int attempt = 0; attempt < 5; ++attempt, ridge *= 100) {
      for (index a = 0; a < r; ++a) {
        for (index b = 0; b <= a; ++b) {
          const double shift = free_sample_[a] == free_sample_[b] ? ridge * ((a == b) + 1) : 0.0;
          system_[a * r + b] = (a == b ? diagonal[a] : system_[b * r + a]) + shift;
        }
      }
      // The factor's diagonal replaces H's, which stays in `diagonal`.
      if (factor_cholesky<Passes>(system_, r, r, 0.0) == r) break;
    }
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

  // Conjugate gradients from zero; in exact arithmetic the iterates stay in the range of H, which is the minimum-norm choice.
  void solve_iteratively(const double* rhs) {
    const index r = n_free_;
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
      apply_system(direction, product);
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
  void apply_system(const double* alpha, double* out) {
    const index n = task_.n, k = task_.k;
    double* rows = pair_;
    for (index e = 0; e < n * k; ++e) rows[e] = image_[e] = 0;
    for (index f = 0; f < n_free_; ++f) {
      rows[free_sample_[f] * k + free_label_[f]] -= alpha[f];
      rows[free_sample_[f] * k + base_[free_sample_[f]]] += alpha[f];
    }
    for (index p = 0; p < n_active_; p += panel_groups()) {
      const index width = load_panel(p);
      for (index e = 0; e < k * width_; ++e) x_[e] = 0;
      subtract_combination(width, rows, x_);
      apply_link_derivative(width, x_, y_);
      add_products(f_, y_, width, image_);
    }
    for (index i = 0; i < n; ++i) {
      for (index l = 0; l < k; ++l) image_[i * k + l] -= task_.smoothing / task_.weight[i] * rows[i * k + l];
    }
    for (index f = 0; f < n_free_; ++f) {
      out[f] = image_[free_sample_[f] * k + free_label_[f]] - image_[free_sample_[f] * k + base_[free_sample_[f]]];
    }
  }

  // ---- outputs ----

  // dF = (diag(c) Y - A) P' - Q W on the panel.
  void write_feature_gradient(index width, T* grad_features) {
    const index n = task_.n, k = task_.k;
    for (index l = 0; l < k; ++l) {
      row_of_[l] = y_ + l * width_;
      row_of_[k + l] = w_ + l * width_;
      for (index i = 0; i < n; ++i) {
        pair_[l * n + i] = residual_dual_[i * k + l];
        pair_[(k + l) * n + i] = -q_[i * k + l];
      }
    }
    Passes::combine_rows(row_of_, 2 * k, pair_, n, width, out_, width_);
    for (index i = 0; i < n; ++i) {
      T* row = grad_features + task_.sample[i] * task_.m;
      for (index j = 0; j < width; ++j) row[column(first_, j)] = static_cast<T>(out_[i * width_ + j]);
    }
  }

  // dc_i = (Y_i - Lambda_i) . (F P')_i; for absent samples this is the derivative to the right.
  void add_weight_gradient(const Batch<T>& batch, index number, index width, double* grad_weight) {
    const index k = task_.k;
    for (index e = 0; e < task_.n * k; ++e) image_[e] = 0;
    add_products(f_, y_, width, image_);
    for (index i = 0; i < task_.n; ++i) {
      double total = 0;
      for (index l = 0; l < k; ++l) total += residual_dual_[i * k + l] * image_[i * k + l];
      grad_weight[task_.sample[i]] += total / task_.weight[i];
    }
    for (index i = 0; i < batch.n_samples; ++i) {
      if (batch.sample_weight[number * batch.n_samples + i] > 0) continue;
      const T* row = batch.features + number * batch.task_stride + i * batch.row_stride;
      double total = 0;
      for (index l = 0; l < k; ++l) {
        const double residual = absent_residual(batch, number, i, l);
        if (residual == 0) continue;
        for (index j = 0; j < width; ++j) total += residual * static_cast<double>(row[column(first_, j)]) * y_[l * width_ + j];
      }
      grad_weight[i] += total;
    }
  }

  double absent_residual(const Batch<T>& batch, index number, index i, index l) const {
    const double y = batch.labels[number * batch.n_samples + i] == l;
    return y - static_cast<double>(dual_of_batch_[(number * batch.n_samples + i) * task_.k + l]);
  }

  void add_absent_change(const JvpArguments<T>& arguments, index number, index first, const double* dc) {
    const Batch<T>& batch = arguments.batch;
    const index k = task_.k, g = task_.group_size;
    const index count = n_active_ - first < panel_groups() ? n_active_ - first : panel_groups();
    for (index i = 0; i < batch.n_samples; ++i) {
      if (batch.sample_weight[number * batch.n_samples + i] > 0 || dc[i] == 0) continue;
      const T* row = batch.features + number * batch.task_stride + i * batch.row_stride;
      for (index l = 0; l < k; ++l) {
        const double residual = absent_residual(batch, number, i, l);
        if (residual == 0) continue;
        for (index j = 0; j < count * g; ++j) x_[l * width_ + j] += dc[i] * residual * static_cast<double>(row[column(first, j)]);
      }
    }
  }

  Task<T> task_;
  const T* weights_ = nullptr;
  const T* dual_of_batch_ = nullptr;
  index width_ = 0, first_ = 0, n_active_ = 0, n_free_ = 0, dense_size_ = 0;
  index *groups_, *base_, *free_sample_, *free_label_;
  double *unit_norm_, *f_, *df_, *u_, *w_, *x_, *y_, *out_, *residual_dual_, *right_, *q_, *image_, *pair_, *alpha_, *work_, *system_,
      *gram_, *strip_, *tangent_;
  const double** row_of_;
};

SPARSESVM_END
