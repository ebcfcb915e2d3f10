// Exact derivatives of the weights at the solution, vector-Jacobian and Jacobian-vector products (core/svm/implicit_diff.h;
// docs/method.md, 6).
#pragma once

#include <cmath>

#include "cuda/face_system.h"
#include "cuda/passes.h"

SPARSESVM_BEGIN
namespace gpu {

template <typename T, class Team>
class ImplicitDiff {
 public:
  // `d` is this block's copy, with sizes set and arrays taken.
  SPARSESVM_HD ImplicitDiff(Team team, DiffWorkspace<T>& d) : team_(team), d_(d), task_(d.task) {}

  SPARSESVM_HD void vjp(const VjpArguments<T>& arguments, index number) {
    prepare(arguments.batch, arguments.solution, number);
    const int n = task_.n, all = task_.n_samples, k = task_.k, m = task_.m;
    const Range groups = task_.own_groups(team_), columns = task_.columns(groups);
    const T* cotangent = arguments.grad_weights + number * task_.n_way * m;
    apply_link_derivative(team_, d_, cotangent, d_.p);  // P = D C / lambda2
    team_.sync();
    multiply(task_.rows, 0, n, d_.p);
    for (int e = team_rank(team_); e < n * k; e += team_size(team_)) d_.right[e] = add_chunks(d_.partial, task_.n_chunks, n, k, e);
    FaceSystem<T, Team> system(team_, d_);
    system.prepare(dual_);
    system.solve(d_.right, d_.q);
    system.remove_flat(d_.residual);
    combine_rows(team_, task_.rows, n, d_.q, k, m, columns, d_.x);
    team_.sync();
    for (int b = groups.begin + team_.rank(); b < groups.end; b += team_.size()) subtract_from(cotangent, b);  // C' = C - Q'F
    team_.sync();
    apply_link_derivative(team_, d_, d_.x, d_.p);  // P = D C' / lambda2
    team_.sync();
    write_feature_gradient(arguments.grad_features + number * all * m, columns);
    multiply(task_.rows, 0, all, d_.p);
    double* by_weight = arguments.grad_sample_weight + number * all;
    for (int i = team_rank(team_); i < all; i += team_size(team_)) {
      double total = 0;  // dc_i = (Y_i - Lambda_i) . (F P')_i; for absent samples the derivative to the right
      for (int l = 0; l < k; ++l) total += per_weight(i, l) * add_chunks(d_.partial, task_.n_chunks, all, k, i * k + l);
      by_weight[task_.sample[i]] = total;
    }
    double by_lambda1 = 0, by_lambda2 = 0;
    for (int b = team_.rank(); b < task_.n_groups; b += team_.size()) {
      by_lambda1 -= task_.threshold.weight(b) * d_.by_group[2 * b];
      by_lambda2 -= d_.by_group[2 * b + 1];
    }
    for (int e = team_.rank(); e < n * k; e += team_.size()) by_lambda2 += task_.smoothing * d_.q[e] * per_weight(e / k, e % k);
    by_lambda1 = team_.sum(by_lambda1);
    by_lambda2 = team_.sum(by_lambda2);
    if (team_.part() == 0 && team_.rank() == 0) {
      arguments.grad_lambda1[number] = by_lambda1 / task_.lambda2;
      arguments.grad_lambda2[number] = by_lambda2 / task_.lambda2;
    }
  }

  SPARSESVM_HD void jvp(const JvpArguments<T>& arguments, index number) {
    prepare(arguments.batch, arguments.solution, number);
    const int n = task_.n, all = task_.n_samples, k = task_.k, m = task_.m;
    const Range groups = task_.own_groups(team_), columns = task_.columns(groups);
    const Rows<T> df{arguments.tangent_features + number * all * m, m, task_.sample};
    const double* dc = arguments.tangent_sample_weight + number * all;
    const double d1 = arguments.tangent_lambda1[number], d2 = arguments.tangent_lambda2[number];
    FaceSystem<T, Team> system(team_, d_);
    system.prepare(dual_);
    system.remove_flat(d_.residual);
    // Explicit change of V at fixed dual: (diag(c) Y - A)' dF + (dc (Y - Lambda))' F.
    combine_rows(team_, df, n, d_.residual, k, m, columns, d_.x);
    for (int e = team_rank(team_); e < n * k; e += team_size(team_)) {
      d_.q[e] = per_weight(e / k, e % k) * dc[task_.sample[e / k]];
    }
    team_.sync_team();
    combine_rows(team_, task_.rows, n, d_.q, k, m, columns, d_.p);
    team_.sync();
    for (int j = columns.begin + team_.rank(); j < columns.end; j += team_.size()) {
      for (int l = 0; l < k; ++l) {
        const index e = static_cast<index>(l) * m + j;
        double total = d_.x[e] + d_.p[e];
        for (int i = n; i < all; ++i) {  // samples of weight zero whose weight grows
          const double change = dc[task_.sample[i]];
          if (change != 0) total += change * per_weight(i, l) * static_cast<double>(task_.rows[i][j]);
        }
        d_.x[e] = total;
      }
    }
    team_.sync();
    apply_link_derivative(team_, d_, d_.x, d_.p);
    team_.sync();
    for (int b = groups.begin + team_.rank(); b < groups.end; b += team_.size()) {
      for (int l = 0; l < k; ++l) {
        for (int j = b * task_.g; j < (b + 1) * task_.g; ++j) {
          const index e = static_cast<index>(l) * m + j;
          d_.p[e] -= d_.w[e] * (task_.threshold.weight(b) * d_.inverse[b] * d1 + d2) / task_.lambda2;
        }
      }
    }
    team_.sync();
    multiply(task_.rows, 0, n, d_.p);
    for (int e = team_rank(team_); e < n * k; e += team_size(team_)) {
      d_.right[e] = add_chunks(d_.partial, task_.n_chunks, n, k, e) -
                    task_.smoothing / task_.lambda2 * d2 * per_weight(e / k, e % k);
    }
    multiply(df, 0, n, d_.w);
    for (int e = team_rank(team_); e < n * k; e += team_size(team_)) d_.right[e] += add_chunks(d_.partial, task_.n_chunks, n, k, e);
    // Unlike that of the other product it need not be in the range of the system. Overwrites x, p stays.
    system.remove_flat(d_.right);
    system.solve(d_.right, d_.q);
    combine_rows(team_, task_.rows, n, d_.q, k, m, columns, d_.x);
    team_.sync();
    apply_link_derivative(team_, d_, d_.x, d_.x);
    team_.sync();
    T* out = arguments.tangent_weights + number * task_.n_way * m;
    for (int l = 0; l < k; ++l) {
      for (int j = columns.begin + team_.rank(); j < columns.end; j += team_.size()) {
        const index e = static_cast<index>(l) * m + j;
        out[e] = static_cast<T>(d_.p[e] - d_.x[e]);
      }
    }
  }

 private:
  // Task, weights, active groups and residual. With lambda1 = 0 the link is linear and every group counts, also one that is zero on
  // the whole support set.
  SPARSESVM_HD void prepare(const Batch<T>& batch, const SolutionView<T>& solution, index number) {
    bind(team_, task_, batch, number);
    const bool differentiable = task_.lambda2 > 0;
    team_.sync();
    if (team_.rank() == 0 && !differentiable) task_.lambda2 = __builtin_nan("");  // and NaN is what comes out everywhere
    team_.sync();
    const int k = task_.k, m = task_.m;
    dual_ = solution.dual + number * task_.n_samples * task_.n_way;
    const T* weights = solution.weights + number * task_.n_way * m;
    const Range groups = task_.own_groups(team_);
    for (int b = groups.begin + team_.rank(); b < groups.end; b += team_.size()) {
      double square = 0;
      for (int l = 0; l < k; ++l) {
        for (int j = b * task_.g; j < (b + 1) * task_.g; ++j) {
          const index e = static_cast<index>(l) * m + j;
          d_.w[e] = static_cast<double>(weights[e]);
          square += d_.w[e] * d_.w[e];
        }
      }
      const double norm = sqrt(square), shrunk = task_.lambda2 * norm;
      const bool positive = !(norm <= 0);  // NaN stays visible
      d_.active[b] = positive || task_.lambda1 == 0 || !differentiable;
      d_.inverse[b] = positive ? 1 / norm : 0.0;
      d_.keep[b] = task_.lambda1 > 0 ? shrunk / (task_.threshold(b) + shrunk) : 1.0;
    }
    for (int e = team_rank(team_); e < task_.n * k; e += team_size(team_))
      d_.residual[e] = task_.weight[e / k] * slack(e / k, e % k);
    team_.sync_team();
  }

  // What V_l gains per unit of a sample's weight, times its features: Y - Lambda less what `remove_flat` took.
  SPARSESVM_HD double per_weight(int i, int l) const {
    return i < task_.n ? d_.residual[i * task_.k + l] / task_.weight[i] : slack(i, l);
  }

  // Y - Lambda
  SPARSESVM_HD double slack(int i, int l) const {
    return task_.one_hot(i, l) - static_cast<double>(dual_[static_cast<index>(task_.sample[i]) * task_.n_way + l]);
  }

  // The chunks' shares of rows right', complete for every block.
  SPARSESVM_HD void multiply(Rows<T> rows, int first, int n, const double* right) {
    team_.sync_team();
    multiply_rows(team_, task_, rows, first, n, right, d_.partial);
    team_.sync_team();
  }

  // x = cotangent - x on an active group, zero elsewhere, and what the group adds to the gradients of the penalties.
  SPARSESVM_HD void subtract_from(const T* cotangent, int b) {
    double unit = 0, along = 0;
    for (int l = 0; l < task_.k; ++l) {
      for (int j = b * task_.g; j < (b + 1) * task_.g; ++j) {
        const index e = static_cast<index>(l) * task_.m + j;
        d_.x[e] = d_.active[b] ? static_cast<double>(cotangent[e]) - d_.x[e] : 0.0;
        along += d_.w[e] * d_.x[e];
      }
    }
    unit = along * d_.inverse[b];
    d_.by_group[2 * b] = unit;
    d_.by_group[2 * b + 1] = along;
  }

  // dF = (diag(c) Y - A) P - Q W, and zero for absent samples.
  SPARSESVM_HD void write_feature_gradient(T* gradient, Range columns) {
    const int n = task_.n, k = task_.k, m = task_.m;
    constexpr int height = 4;
    for (int j = columns.begin + team_.rank(); j < columns.end; j += team_.size()) {
      for (int top = 0; top < n; top += height) {
        double total[height] = {};
        for (int l = 0; l < k; ++l) {
          const double p = d_.p[static_cast<index>(l) * m + j], w = d_.w[static_cast<index>(l) * m + j];
          SPARSESVM_UNROLL
          for (int r = 0; r < height; ++r) {
            const int e = smaller(top + r, n - 1) * k + l;
            total[r] += d_.residual[e] * p - d_.q[e] * w;
          }
        }
        SPARSESVM_UNROLL
        for (int r = 0; r < height; ++r) {
          if (top + r < n) gradient[static_cast<index>(task_.sample[top + r]) * m + j] = static_cast<T>(total[r]);
        }
      }
      for (int i = n; i < task_.n_samples; ++i) gradient[static_cast<index>(task_.sample[i]) * m + j] = 0;
    }
  }

  Team team_;
  DiffWorkspace<T>& d_;
  Task<T>& task_;
  const T* dual_ = nullptr;  // (n_samples, k) of this task
};

}  // namespace gpu
SPARSESVM_END
