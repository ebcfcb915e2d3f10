// The solver for features in compressed sparse rows: the proximal method alone.
#pragma once

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/proximal_solver.h"
#include "core/svm/sparse_features.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

template <class Passes, typename T>
class SparseSolver {
 public:
  SparseSolver(const Batch<T>& batch, Arena& arena) : task_(Task<T>::take(arena, batch)), proximal_(batch, arena) {}

  void solve(const SolveArguments<T>& arguments, index number) {
    task_.bind(arguments.batch, number);
    index iterations = 0;
    const double target = arguments.tol * task_.total_weight;
    const Status status = proximal_.solve(arguments, number, task_, target, arguments.max_iter, iterations);
    proximal_.write(arguments, number, status, iterations);
  }

 private:
  Task<T> task_;
  ProximalSolver<Passes, T, SparseFeatures> proximal_;
};

SPARSESVM_END
