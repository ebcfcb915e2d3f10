// Exact derivatives of the weights at the solution: vector-Jacobian and Jacobian-vector products.
//
// On the face of the simplices and the set of active groups that the solution selects, the optimality system is smooth; dA is
// eliminated by one symmetric positive semidefinite solve in the free dual coordinates (docs/method.md, 6). Letters
// follow that page: F features, u unit block, t = lambda1 / norm, D the derivative of block soft-thresholding, Z the face basis.
#pragma once

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/active_panel.h"
#include "core/svm/face_system.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class ImplicitDiff {
 public:
  ImplicitDiff(const Batch<T>& batch, Arena& arena)
      : task_(Task<T>::take(arena, batch)), panel_(batch, arena), system_(batch, panel_.stride, arena) {
    const index n = batch.n_samples, k = batch.n_way, m = batch.n_features;
    df_ = arena.take<double>(n * panel_.stride);
    x_ = arena.take<double>(k * panel_.stride);
    y_ = arena.take<double>(k * panel_.stride);
    out_ = arena.take<double>((n > k ? n : k) * panel_.stride);
    row_of_ = arena.take<const double*>(n > 2 * k ? n : 2 * k);
    residual_dual_ = arena.take<double>(n * k);
    right_ = arena.take<double>(n * k);
    q_ = arena.take<double>(n * k);
    image_ = arena.take<double>(n * k);
    pair_ = arena.take<double>(2 * n * k);
    tangent_ = arena.take<double>(k * m);
  }

  void vjp(const VjpArguments<T>& arguments, index number) {
    const Batch<T>& batch = arguments.batch;
    bind(batch, arguments.solution, number);
    const index k = task_.k, m = task_.m, stride = panel_.stride;
    const T* cotangent = arguments.grad_weights + number * batch.n_way * m;
    T* grad_features = arguments.grad_features + number * batch.n_samples * m;
    double* grad_weight = arguments.grad_sample_weight + number * batch.n_samples;
    for (index i = 0; i < batch.n_samples; ++i) {
      grad_weight[i] = 0;
      const bool written = panel_.n_active == task_.n_groups && batch.sample_weight[number * batch.n_samples + i] > 0;
      for (index j = 0; j < m && !written; ++j) grad_features[i * m + j] = 0;
    }

    for (index p = 0; p < panel_.n_active;) {
      p = panel_.load(p);
      load_rows(cotangent, x_);
      panel_.apply_link_derivative(x_, y_);  // P = D G / lambda2
      add_scores(y_, right_);                // R = F P'
      system_.add(panel_);
    }
    system_.factor(panel_);
    system_.solve(panel_, right_, q_);
    system_.remove_flat(panel_, residual_dual_);

    double by_lambda1 = 0, by_lambda2 = 0;
    for (index p = 0; p < panel_.n_active;) {
      p = panel_.load(p);
      load_rows(cotangent, x_);
      subtract_features(q_, x_);  // G' = G - Q'F
      for (index l = 0; l < k; ++l) {
        const double *u = panel_.u + l * stride, *w = panel_.w + l * stride, *x = x_ + l * stride;
        double along_u = 0, along_w = 0;
#pragma omp simd reduction(+ : along_u, along_w)
        for (index j = 0; j < panel_.width; ++j) {
          along_u += panel_.weight[j] * u[j] * x[j];
          along_w += w[j] * x[j];
        }
        by_lambda1 -= along_u;
        by_lambda2 -= along_w;
      }
      panel_.apply_link_derivative(x_, y_);  // P' = D G' / lambda2
      write_feature_gradient(grad_features);
      add_weight_gradient(batch, number, grad_weight);
    }
    for (index i = 0; i < task_.n; ++i) {
      for (index l = 0; l < k; ++l) {
        by_lambda2 += task_.smoothing * q_[i * k + l] * residual_dual_[i * k + l] / task_.weight[i];
      }
    }
    arguments.grad_lambda1[number] = by_lambda1 / task_.lambda2;
    arguments.grad_lambda2[number] = by_lambda2 / task_.lambda2;
  }

  void jvp(const JvpArguments<T>& arguments, index number) {
    const Batch<T>& batch = arguments.batch;
    bind(batch, arguments.solution, number);
    const index k = task_.k, m = task_.m, n = task_.n, stride = panel_.stride;
    const T* df = arguments.tangent_features + number * batch.n_samples * m;
    const double d1 = arguments.tangent_lambda1[number], d2 = arguments.tangent_lambda2[number];
    const double* dc = arguments.tangent_sample_weight + number * batch.n_samples;
    T* out = arguments.tangent_weights + number * batch.n_way * m;
    for (index e = 0; e < k * m; ++e) out[e] = 0;

    for (index p = 0; p < panel_.n_active;) {
      p = panel_.load(p);
      system_.add(panel_);
    }
    system_.factor(panel_);
    system_.remove_flat(panel_, residual_dual_);
    for (index p = 0; p < panel_.n_active;) {
      p = panel_.load(p);
      for (index i = 0; i < n; ++i) panel_.gather(df + task_.sample[i] * m, df_ + i * stride);
      // Explicit change of V at fixed dual: (diag(c) Y - A)' dF + (dc (Y - Lambda))' F.
      for (index e = 0; e < k * stride; ++e) x_[e] = 0;
      for (index e = 0; e < n * k; ++e) image_[e] = -residual_dual_[e];
      point_at_rows(df_);
      subtract_combination(row_of_, image_, x_);
      for (index i = 0; i < n; ++i) {
        for (index l = 0; l < k; ++l) image_[i * k + l] = -residual_dual_[i * k + l] / task_.weight[i] * dc[task_.sample[i]];
      }
      subtract_features(image_, x_);
      add_absent_change(arguments, number, dc);
      panel_.apply_link_derivative(x_, y_);
      for (index l = 0; l < k; ++l) {
        for (index j = 0; j < panel_.width; ++j) {
          const index e = l * stride + j;
          y_[e] -= (panel_.weight[j] * panel_.u[e] * d1 + panel_.w[e] * d2) / task_.lambda2;
        }
        panel_.scatter(y_ + l * stride, tangent_ + l * m);
      }
      add_scores(y_, right_);
      point_at_rows(df_);
      add_products(row_of_, panel_.w, right_);
    }
    for (index i = 0; i < n; ++i) {
      for (index l = 0; l < k; ++l) {
        right_[i * k + l] -= task_.smoothing / task_.lambda2 * d2 * residual_dual_[i * k + l] / task_.weight[i];
      }
    }
    system_.remove_flat(panel_, right_);  // unlike that of the other product it need not be in the range of the system
    system_.solve(panel_, right_, q_);
    for (index p = 0; p < panel_.n_active;) {
      p = panel_.load(p);
      for (index e = 0; e < k * stride; ++e) x_[e] = 0;
      subtract_features(q_, x_);
      panel_.apply_link_derivative(x_, y_);
      for (index l = 0; l < k; ++l) {
        panel_.gather(tangent_ + l * m, x_ + l * stride);
        for (index j = 0; j < panel_.width; ++j) y_[l * stride + j] += x_[l * stride + j];
        panel_.scatter(y_ + l * stride, out + l * m);
      }
    }
  }

 private:
  void bind(const Batch<T>& batch, const SolutionView<T>& solution, index number) {
    task_.bind(batch, number);
    const index k = task_.k;
    row_ = batch.n_way;
    const T* dual = solution.dual + number * batch.n_samples * row_;
    dual_ = dual;
    panel_.bind(task_, solution.weights + number * row_ * task_.m);
    system_.bind(task_, dual, row_, panel_.n_active * task_.group_size);
    for (index i = 0; i < task_.n; ++i) {
      for (index l = 0; l < k; ++l) {
        const double y = task_.label[i] == l;
        residual_dual_[i * k + l] = task_.weight[i] * (y - static_cast<double>(dual[task_.sample[i] * row_ + l]));  // diag(c) Y - A
        right_[i * k + l] = 0;
      }
    }
  }

  // The panel's part of a k x m matrix.
  void load_rows(const T* matrix, double* out) {
    for (index l = 0; l < task_.k; ++l) panel_.gather(matrix + l * task_.m, out + l * panel_.stride);
  }

  void point_at_rows(const double* rows) {
    for (index i = 0; i < task_.n; ++i) row_of_[i] = rows + i * panel_.stride;
  }

  // out (n, k) += left (n, width) right' (width, k)
  template <typename Row>
  void add_products(const Row* const* left, const double* right, double* out) {
    Passes::add_all_products(left, task_.n, right, panel_.stride, task_.k, panel_.width, 1.0, out);
  }

  // x (k, width) -= coefficients' (k, n) rows (n, width)
  template <typename Row>
  void subtract_combination(const Row* const* rows, const double* coefficients, double* x) {
    Passes::combine_rows(rows, task_.n, coefficients, task_.k, panel_.width, out_, panel_.stride);
    for (index l = 0; l < task_.k; ++l) {
      for (index j = 0; j < panel_.width; ++j) x[l * panel_.stride + j] -= out_[l * panel_.stride + j];
    }
  }

  // The same with the panel's features.
  void add_scores(const double* right, double* out) {
    panel_.with_features([&](const auto* const* rows) { add_products(rows, right, out); });
  }
  void subtract_features(const double* coefficients, double* x) {
    panel_.with_features([&](const auto* const* rows) { subtract_combination(rows, coefficients, x); });
  }

  // dF = (diag(c) Y - A) P' - Q W on the panel.
  void write_feature_gradient(T* grad_features) {
    const index n = task_.n, k = task_.k, stride = panel_.stride;
    for (index l = 0; l < k; ++l) {
      row_of_[l] = y_ + l * stride;
      row_of_[k + l] = panel_.w + l * stride;
      for (index i = 0; i < n; ++i) {
        pair_[l * n + i] = residual_dual_[i * k + l];
        pair_[(k + l) * n + i] = -q_[i * k + l];
      }
    }
    Passes::combine_rows(row_of_, 2 * k, pair_, n, panel_.width, out_, stride);
    for (index i = 0; i < n; ++i) panel_.scatter(out_ + i * stride, grad_features + task_.sample[i] * task_.m);
  }

  // dc_i = (Y_i - Lambda_i) . (F P')_i; for absent samples this is the derivative to the right.
  void add_weight_gradient(const Batch<T>& batch, index number, double* grad_weight) {
    const index k = task_.k;
    for (index e = 0; e < task_.n * k; ++e) image_[e] = 0;
    add_scores(y_, image_);
    for (index i = 0; i < task_.n; ++i) {
      double total = 0;
      for (index l = 0; l < k; ++l) total += residual_dual_[i * k + l] * image_[i * k + l];
      grad_weight[task_.sample[i]] += total / task_.weight[i];
    }
    for (index i = 0; i < batch.n_samples; ++i) {
      if (batch.sample_weight[number * batch.n_samples + i] > 0) continue;
      gather_sample(batch, number, i);
      for (index l = 0; l < k; ++l) {
        double total = 0;
        for (index j = 0; j < panel_.width; ++j) total += out_[j] * y_[l * panel_.stride + j];
        grad_weight[i] += absent_residual(batch, number, i, l) * total;
      }
    }
  }

  // The explicit change of V by samples of weight zero whose weight grows.
  void add_absent_change(const JvpArguments<T>& arguments, index number, const double* dc) {
    const Batch<T>& batch = arguments.batch;
    for (index i = 0; i < batch.n_samples; ++i) {
      if (batch.sample_weight[number * batch.n_samples + i] > 0 || dc[i] == 0) continue;
      gather_sample(batch, number, i);
      for (index l = 0; l < task_.k; ++l) {
        const double change = dc[i] * absent_residual(batch, number, i, l);
        for (index j = 0; j < panel_.width; ++j) x_[l * panel_.stride + j] += change * out_[j];
      }
    }
  }

  // The panel's part of a sample that is absent, into `out_`.
  void gather_sample(const Batch<T>& batch, index number, index i) {
    panel_.gather(batch.features + number * batch.task_stride + i * batch.row_stride, out_);
  }

  double absent_residual(const Batch<T>& batch, index number, index i, index l) const {
    const double y = batch.labels[number * batch.n_samples + i] == l;
    return y - static_cast<double>(dual_[i * row_ + l]);
  }

  Task<T> task_;
  ActivePanel<T> panel_;
  FaceSystem<Passes, T> system_;
  const T* dual_ = nullptr;  // (n_samples, k) of this task
  index row_ = 0;            // from sample to sample
  double *df_, *x_, *y_, *out_, *residual_dual_, *right_, *q_, *image_, *pair_, *tangent_;
  const double** row_of_;
};

SPARSESVM_END
