// The last part of a Newton step: how far to go along a direction of the dual. Only derivatives are compared, no differences of large
// values.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/linear_algebra/root.h"
#include "core/macros.h"
#include "core/svm/dual_state.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

struct LineSearchScratch {
  double* direction;  // (n, k) of the search
  double* base;       // (groups) squared norm of the blocks of V before the step
  double* slope;      // (groups) <v, dv> there
  double* square;     // (groups) ||dv||^2

  static LineSearchScratch take(Arena& arena, index n, index k, index groups) {
    LineSearchScratch s{};
    s.direction = arena.take<double>(n * k);
    s.base = arena.take<double>(groups);
    s.slope = arena.take<double>(groups);
    s.square = arena.take<double>(groups);
    return s;
  }
};

template <class Passes, typename T>
class LineSearch {
 public:
  LineSearch(const Task<T>& task, DualState<Passes, T>& state, LineSearchScratch& scratch) : task_(task), state_(state), s_(scratch) {}

  // Takes the whole step along `direction`, which stays feasible, or where that overshoots the exact-enough minimiser along it; leaves
  // the state evaluated. Expects it so. False, and nothing moved, when the direction does not descend.
  bool run() {
    const double at_zero = slope();
    if (!(at_zero < 0)) return false;
    move();
    state_.evaluate(task_, state_.dual);
    const double at_one = slope();
    if (!(at_one > -0.1 * at_zero)) return true;
    shorten(at_zero, at_one);
    state_.evaluate(task_, state_.dual);
    return true;
  }

 private:
  double slope() const {
    double total = 0;
    for (index e = 0; e < task_.n * task_.k; ++e) total += state_.gradient[e] * s_.direction[e];
    return total;
  }

  // To the end of the direction. Rounding must not add up in the sums that the certificate relies on.
  void move() {
    const index k = task_.k;
    for (index i = 0; i < task_.n; ++i) {
      double* row = state_.dual + i * k;
      double total = 0;
      for (index l = 0; l < k; ++l) {
        const double moved = row[l] + s_.direction[i * k + l];
        row[l] = moved > 0 ? moved : 0.0;
        total += row[l];
      }
      const double scale = task_.weight[i] / total;
      for (index l = 0; l < k; ++l) row[l] *= scale;
    }
  }

  // Moves the dual back along the direction to a zero of the derivative.
  void shorten(double at_zero, double at_one) {
    const index k = task_.k, m = task_.m, g = task_.group_size;
    double* step = state_.w;  // direction' F = -dV
    Passes::combine_rows(task_.rows, task_.n, s_.direction, k, m, step, m);
    for (index b = 0; b < task_.n_groups; ++b) s_.base[b] = s_.slope[b] = s_.square[b] = 0;
    for (index l = 0; l < k; ++l) {
      for (index b = 0; b < task_.n_groups; ++b) {
        for (index e = l * m + b * g; e < l * m + (b + 1) * g; ++e) {
          const double before = state_.v[e] + step[e];
          s_.base[b] += before * before;
          s_.slope[b] -= before * step[e];
          s_.square[b] += step[e] * step[e];
        }
      }
    }
    // What is linear in the length: the labels' term and the smoothing. <gradient, direction> at both ends holds them too.
    double linear = 0, smooth_curvature = 0;
    for (index i = 0; i < task_.n; ++i) {
      for (index l = 0; l < k; ++l) {
        const double d = s_.direction[i * k + l], y = task_.label[i] == l, smooth = task_.smoothing / task_.weight[i];
        linear += y * d + task_.smoothing * ((state_.dual[i * k + l] - d) / task_.weight[i] - y) * d;
        smooth_curvature += smooth * d * d;
      }
    }
    const auto derivative = [&](double t) {
      double total = 0;
      for (index b = 0; b < task_.n_groups; ++b) {
        const double square = s_.base[b] + t * (2 * s_.slope[b] + t * s_.square[b]);
        const double norm = square > 0 ? std::sqrt(square) : 0.0;
        total += soft_threshold_factor(norm, task_.threshold(b)) * (s_.slope[b] + t * s_.square[b]);
      }
      return linear + t * smooth_curvature + total / task_.lambda2;
    };
    const double back = 1 - root_on_unit_interval(derivative, at_zero, at_one);
    for (index e = 0; e < task_.n * k; ++e) {
      const double moved = state_.dual[e] - back * s_.direction[e];
      state_.dual[e] = moved > 0 ? moved : 0.0;
    }
  }

  const Task<T>& task_;
  DualState<Passes, T>& state_;
  LineSearchScratch& s_;
};

SPARSESVM_END
