// The vector-Jacobian product of a sparse regression, from its optimality conditions on the features in use.
#pragma once

#include "core/regression/task.h"

SPARSESVM_BEGIN

template <typename T>
class RegressionDiff {
 public:
  SPARSESVM_HD void take(Arena& arena, const RegressionBatch<T>& batch) {
    const index m = batch.n_features, q = batch.n_outputs;
    task_.take(arena, batch);
    max_active_ = batch.max_active;
    system_.take(arena, max_active_ * q);
    active_ = arena.template take<index>(m);
    column_ = arena.template take<const double*>(m);
    adjoint_ = arena.template take<double>(m * q);
    fitted_ = arena.template take<double>(q * task_.stride);
    const index iterative = max_active_ < m ? m * q : 0;
    right_ = arena.template take<double>(iterative);
    search_ = arena.template take<double>(iterative);
    image_ = arena.template take<double>(iterative);
    inverse_ = arena.template take<double>(iterative);
  }

  // With A the features in use, R = Y - F W' and P = H^-1 C_A for the cotangent C of the weights:
  //   dF_A = (R P' - F_A P W_A) / n,   dY = F_A P / n,   d lambda1 = -<P, U_A>,   d lambda2 = -<P, W_A>.
  template <class Team>
  SPARSESVM_HD void vjp(Team team, const RegressionVjpArguments<T>& a, index number) {
    task_.bind(team, a.batch, number);
    const index n = task_.n, m = task_.m, q = task_.q, stride = task_.stride;
    for (index j = team.rank(); j < m; j += team.size()) {
      for (index o = 0; o < q; ++o) task_.weights[j * q + o] = static_cast<double>(a.weights[(number * q + o) * m + j]);
    }
    team.sync();
    const index count = team.list(m, [this](index j) { return task_.is_active(j); }, active_);
    task_.compute_residual(team, active_, count);
    for (index k = team.rank(); k < count; k += team.size()) {
      column_[k] = task_.column[active_[k]];
      for (index o = 0; o < q; ++o) adjoint_[k * q + o] = static_cast<double>(a.grad_weights[(number * q + o) * m + active_[k]]);
    }
    team.sync();
    if (count <= max_active_) {
      system_.factor(team, task_, active_, count);
      system_.solve(team, adjoint_, count * q);
    } else {
      solve_iteratively(team, count);
    }
    fit(team, adjoint_, count);
    double by_lambda1 = 0, by_lambda2 = 0, missing = 0;
    for (index k = team.rank(); k < count; k += team.size()) {
      const double norm = task_.norm(active_[k]);
      for (index o = 0; o < q; ++o) {
        const double w = task_.weights[active_[k] * q + o];
        by_lambda1 -= adjoint_[k * q + o] * (w / norm);
        by_lambda2 -= adjoint_[k * q + o] * w;
        missing += w - w;
      }
    }
    by_lambda1 = team.sum(by_lambda1);
    by_lambda2 = team.sum(by_lambda2);
    missing = team.sum(missing);  // zero, or NaN where the task was not solved: so are its gradients, all of them
    if (team.rank() == 0) {
      a.grad_lambda1[number] = by_lambda1;
      a.grad_lambda2[number] = by_lambda2;
    }
    T* grad_targets = a.grad_targets + number * n * q;
    T* grad_features = a.grad_features + number * n * m;
    for (index i = 0; i < n; ++i) {
      for (index j = team.rank(); j < m; j += team.size()) grad_features[i * m + j] = 0;
      listen(team, m);
    }
    team.sync();
    for (index i = team.rank(); i < n; i += team.size()) {
      for (index o = 0; o < q; ++o) {
        grad_targets[i * q + o] = static_cast<T>(task_.inverse_n * fitted_[o * stride + i] + missing);
      }
    }
    for (index i = 0; i < n; ++i) {
      for (index k = team.rank(); k < count; k += team.size()) {
        double value = 0;
        for (index o = 0; o < q; ++o) {
          value += task_.residual[o * stride + i] * adjoint_[k * q + o] -
                   fitted_[o * stride + i] * task_.weights[active_[k] * q + o];
        }
        grad_features[i * m + active_[k]] = static_cast<T>(task_.inverse_n * value);
      }
      listen(team, 2 * q * count);
    }
  }

 private:
  // fitted = F_A X'
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE void fit(Team team, const double* x, index count) {
    const index q = task_.q, stride = task_.stride;
    for (index o = 0; o < q; ++o) {
      for (index i = team.rank(); i < stride; i += team.size()) fitted_[o * stride + i] = 0;
    }
    for (index k = 0; k < count; ++k) {
      for (index o = 0; o < q; ++o) task_.add_column(team, fitted_ + o * stride, active_[k], x[k * q + o]);
      listen(team, q * stride);
    }
    team.sync();
  }

  // image = H search
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE void apply(Team team, index count) {
    const index q = task_.q;
    fit(team, search_, count);
    team.products(column_, count, fitted_, task_.stride, q, task_.stride, task_.inverse_n, image_, q);
    for (index k = team.rank(); k < count; k += team.size()) {
      const double* w = task_.weights + active_[k] * q;
      const double norm = task_.norm(active_[k]);
      double along = 0;
      for (index o = 0; o < q; ++o) along += w[o] / norm * search_[k * q + o];
      for (index o = 0; o < q; ++o) {
        image_[k * q + o] += task_.lambda2 * search_[k * q + o];
        if (q > 1) image_[k * q + o] += task_.lambda1 / norm * (search_[k * q + o] - w[o] / norm * along);
      }
    }
    team.sync();
  }

  // Conjugate gradients for more features in use than a matrix is kept for, scaled by the diagonal. From zero the iterates stay in
  // the range of H: where it is singular, theirs is the smallest solution in that scale, in place of leaving variables out.
  template <class Team>
  SPARSESVM_HD SPARSESVM_NOINLINE void solve_iteratively(Team team, index count) {
    const index q = task_.q, size = count * q;
    for (index i = team.rank(); i < size; i += team.size()) {
      const index j = active_[i / q];
      double diagonal = task_.squared_norm[j] + task_.lambda2;
      if (q > 1) {
        const double norm = task_.norm(j), unit = task_.weights[j * q + i % q] / norm;
        diagonal += task_.lambda1 / norm * (1 - unit * unit);
      }
      inverse_[i] = diagonal > 0 ? 1 / diagonal : 0;
      right_[i] = adjoint_[i];
      search_[i] = inverse_[i] * right_[i];
      adjoint_[i] = 0;
    }
    team.sync();
    double left = weighted(team, right_, size);
    const double enough = 1e-26 * left;
    for (index step = 0; step < 2 * size && left > enough; ++step) {
      apply(team, count);
      double curvature = 0;
      for (index i = team.rank(); i < size; i += team.size()) curvature += search_[i] * image_[i];
      curvature = team.sum(curvature);
      if (!(curvature > 0)) return;
      const double length = left / curvature, before = left;
      for (index i = team.rank(); i < size; i += team.size()) {
        adjoint_[i] += length * search_[i];
        right_[i] -= length * image_[i];
      }
      left = weighted(team, right_, size);
      const double kept = left / before;
      for (index i = team.rank(); i < size; i += team.size()) search_[i] = inverse_[i] * right_[i] + kept * search_[i];
      team.sync();
    }
  }

  // x' diag(H)^-1 x; every thread reads what it wrote itself.
  template <class Team>
  SPARSESVM_HD double weighted(Team team, const double* x, index size) const {
    double total = 0;
    for (index i = team.rank(); i < size; i += team.size()) total += x[i] * inverse_[i] * x[i];
    return team.sum(total);
  }

  RegressionTask<T> task_;
  ActiveSystem system_;
  index max_active_;
  index* active_;
  const double** column_;
  double* adjoint_;  // (m, q) of the features in use, side by side
  double* fitted_;   // (q, stride)
  double* right_;    // (m, q) what is left of the right-hand side, and further vectors of conjugate gradients
  double* search_;
  double* image_;
  double* inverse_;
};

SPARSESVM_END
