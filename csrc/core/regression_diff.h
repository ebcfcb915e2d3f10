// The vector-Jacobian product of a sparse regression, from its optimality conditions on the features in use.
#pragma once

#include "core/regression_task.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class RegressionDiff {
 public:
  RegressionDiff(const RegressionBatch<T>& batch, Arena& arena)
      : task_(RegressionTask<Passes, T>::take(arena, batch)), system_(arena, batch.max_active * batch.n_outputs) {
    active_ = arena.template take<index>(task_.m);
    adjoint_ = arena.template take<double>(batch.max_active * task_.q);
    fitted_ = arena.template take<double>(task_.q * task_.stride);
  }

  // With A the features in use, R = Y - F W' and P = H^-1 C_A for the cotangent C of the weights:
  //   dF_A = (R P' - F_A P W_A) / n,   dY = F_A P / n,   d lambda1 = -<P, U_A>,   d lambda2 = -<P, W_A>.
  void vjp(const RegressionVjpArguments<T>& a, index number) {
    task_.bind(a.batch, number);
    const index n = task_.n, m = task_.m, q = task_.q;
    index count = 0;
    for (index j = 0; j < m; ++j) {
      for (index o = 0; o < q; ++o) task_.weights[j * q + o] = static_cast<double>(a.weights[(number * q + o) * m + j]);
      if (task_.is_active(j)) active_[count++] = j;
    }
    task_.compute_residual(active_, count);
    if (count > 0) system_.factor(task_, active_, count);
    for (index k = 0; k < count; ++k) {
      for (index o = 0; o < q; ++o) adjoint_[k * q + o] = static_cast<double>(a.grad_weights[(number * q + o) * m + active_[k]]);
    }
    if (count > 0) system_.solve(adjoint_);
    for (index i = 0; i < q * task_.stride; ++i) fitted_[i] = 0;
    double grad_lambda1 = 0, grad_lambda2 = 0;
    for (index k = 0; k < count; ++k) {
      const double norm = task_.norm(active_[k]);
      for (index o = 0; o < q; ++o) {
        const double w = task_.weights[active_[k] * q + o];
        task_.add_column(fitted_ + o * task_.stride, active_[k], adjoint_[k * q + o]);
        grad_lambda1 -= adjoint_[k * q + o] * (w / norm);
        grad_lambda2 -= adjoint_[k * q + o] * w;
      }
    }
    a.grad_lambda1[number] = grad_lambda1;
    a.grad_lambda2[number] = grad_lambda2;
    T* grad_targets = a.grad_targets + number * n * q;
    T* grad_features = a.grad_features + number * n * m;
    for (index i = 0; i < n * m; ++i) grad_features[i] = 0;
    for (index i = 0; i < n; ++i) {
      for (index o = 0; o < q; ++o) grad_targets[i * q + o] = static_cast<T>(task_.inverse_n * fitted_[o * task_.stride + i]);
      for (index k = 0; k < count; ++k) {
        double value = 0;
        for (index o = 0; o < q; ++o) {
          value += task_.residual[o * task_.stride + i] * adjoint_[k * q + o] -
                   fitted_[o * task_.stride + i] * task_.weights[active_[k] * q + o];
        }
        grad_features[i * m + active_[k]] = static_cast<T>(task_.inverse_n * value);
      }
    }
  }

 private:
  RegressionTask<Passes, T> task_;
  ActiveSystem<Passes> system_;
  index* active_;
  double* adjoint_;
  double* fitted_;
};

SPARSESVM_END
