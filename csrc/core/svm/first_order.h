// Accelerated projected gradient on the dual with restart: the method where a dense model is too large or stalls.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/prox.h"
#include "core/svm/dual_state.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

struct FirstOrderScratch {
  double* previous;   // (n, k) last iterate
  double* point;      // (n, k) extrapolated point
  double* direction;  // (n) power iteration
  double* image;      // (m)
  double lipschitz;   // of the dual gradient; 0 = not yet known

  static FirstOrderScratch take(Arena& arena, index n, index m, index k) {
    FirstOrderScratch s{};
    s.previous = arena.take<double>(n * k);
    s.point = arena.take<double>(n * k);
    s.direction = arena.take<double>(n);
    s.image = arena.take<double>(m);
    return s;
  }
};

template <class Passes, typename T>
class FirstOrder {
 public:
  FirstOrder(const Task<T>& task, DualState<Passes, T>& state, FirstOrderScratch& scratch) : task_(task), state_(state), s_(scratch) {
    if (s_.lipschitz == 0) s_.lipschitz = gradient_bound();
  }

  // Runs `iterations` steps from state.dual and leaves the result there (not evaluated).
  void run(index iterations) {
    const index size = task_.n * task_.k;
    double* x = state_.dual;
    for (index e = 0; e < size; ++e) s_.point[e] = x[e];
    double momentum = 1;
    const double step = 1 / s_.lipschitz;
    for (index iteration = 0; iteration < iterations; ++iteration) {
      state_.evaluate(task_, s_.point);
      for (index e = 0; e < size; ++e) {
        s_.previous[e] = x[e];
        x[e] = s_.point[e] - step * state_.gradient[e];
      }
      double uphill = 0;  // <gradient, x - previous> > 0: momentum no longer helps
      for (index i = 0; i < task_.n; ++i) project_simplex(x + i * task_.k, task_.k, task_.weight[i]);
      for (index e = 0; e < size; ++e) uphill += state_.gradient[e] * (x[e] - s_.previous[e]);
      if (uphill > 0) momentum = 1;
      const double next = 0.5 * (1 + std::sqrt(1 + 4 * momentum * momentum));
      const double carry = uphill > 0 ? 0.0 : (momentum - 1) / next;
      momentum = next;
      for (index e = 0; e < size; ++e) s_.point[e] = x[e] + carry * (x[e] - s_.previous[e]);
    }
  }

 private:
  // Largest eigenvalue of F F' / lambda2 by power iteration from a fixed start, with 2 % to spare, plus the smoothing term.
  double gradient_bound() {
    double value = 0;
    unsigned seed = 12345;
    for (index i = 0; i < task_.n; ++i) {
      seed = seed * 1664525u + 1013904223u;
      s_.direction[i] = 1 + 1e-9 * static_cast<double>(seed >> 8);
    }
    for (int step = 0; step < 60; ++step) {
      double norm = 0;
      for (index i = 0; i < task_.n; ++i) norm += s_.direction[i] * s_.direction[i];
      norm = std::sqrt(norm);
      if (!(norm > 0)) break;
      for (index i = 0; i < task_.n; ++i) s_.direction[i] /= norm;
      Passes::combine_rows(task_.rows, task_.n, s_.direction, 1, task_.m, s_.image, task_.m);
      double next = 0;
      for (index j = 0; j < task_.m; ++j) next += s_.image[j] * s_.image[j];
      const bool settled = std::fabs(next - value) <= 1e-4 * next;
      value = next;
      if (settled) break;
      for (index i = 0; i < task_.n; ++i) {
        s_.direction[i] = 0;
        Passes::add_products(task_.rows + i, 1, s_.image, 0, 1, task_.m, 1.0, s_.direction + i, 1);
      }
    }
    double bound = 1.02 * value / task_.lambda2;
    double smooth = 0;
    for (index i = 0; i < task_.n; ++i) {
      const double own = task_.smoothing / task_.weight[i];
      smooth = own > smooth ? own : smooth;
    }
    bound += smooth;
    return bound > 0 ? bound : 1.0;
  }

  const Task<T>& task_;
  DualState<Passes, T>& state_;
  FirstOrderScratch& s_;
};

SPARSESVM_END
