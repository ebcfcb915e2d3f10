// The outer Newton step: a quadratic model of the dual around the current point, minimised over the simplices, then a line search.
//
// With lambda1 = 0 the dual is quadratic and the model is the n x n Gram matrix, the same for every class. Otherwise the model is
// the generalised Hessian over the candidates: a term (1 - t) / lambda2 per active column shared by the classes, and one rank-one
// term per active group (mathematics.md, sections 3 and 11).
#pragma once

#include <cmath>

#include "core/arena.h"
#include "core/dual_state.h"
#include "core/macros.h"
#include "core/quadratic.h"
#include "core/working_set.h"

SPARSESVM_BEGIN

// Dense models up to this many candidates; beyond it a first-order method is cheaper and the memory would be quadratic.
constexpr index max_model_size = 2048;

struct NewtonScratch {
  QuadraticScratch quadratic;
  index* start;       // (n + 1) candidates of each sample
  index* label;       // (n k)
  double* x;          // (n k)
  double* q;          // (n k)
  double* matrix;     // (max_size, max_size)
  double* gram;       // (n, n)
  double* panel;      // (max_size, panel_width)
  double* columns;    // (n, column_width) the features of a panel
  double* unit;       // (k, column_width) its unit blocks
  double* strip;      // (column_width)
  index* chosen;      // (panel_width) its groups
  index column_width; // at least one whole group
  double* direction;  // (n, k)
  double* slope;      // (groups) <v, dv> per group
  double* square;     // (groups) ||dv||^2 per group
  index max_size;
  bool has_gram;      // the Gram matrix of this task is in place

  static constexpr index panel_width = 256;

  static NewtonScratch take(Arena& arena, index n, index k, index groups, index group_size) {
    NewtonScratch s{};
    s.max_size = n * k < max_model_size ? n * k : max_model_size;
    s.quadratic = QuadraticScratch::take(arena, n, k, n * k, s.max_size);
    s.start = arena.take<index>(n + 1);
    s.label = arena.take<index>(n * k);
    s.x = arena.take<double>(n * k);
    s.q = arena.take<double>(n * k);
    s.matrix = arena.take<double>(s.max_size * s.max_size);
    const index gram_size = n < max_model_size ? n : max_model_size;
    s.gram = arena.take<double>(gram_size * gram_size);
    s.panel = arena.take<double>(s.max_size * panel_width);
    s.column_width = group_size > panel_width ? group_size : panel_width;
    s.columns = arena.take<double>(n * s.column_width);
    s.unit = arena.take<double>(k * s.column_width);
    s.strip = arena.take<double>(s.column_width);
    s.chosen = arena.take<index>(panel_width);
    s.direction = arena.take<double>(n * k);
    s.slope = arena.take<double>(groups);
    s.square = arena.take<double>(groups);
    return s;
  }
};

template <class Passes, typename T>
class NewtonStep {
 public:
  NewtonStep(const Task<T>& task, DualState<Passes, T>& state, WorkingSet<T>& set, NewtonScratch& scratch)
      : task_(task), state_(state), set_(set), s_(scratch) {}

  // Moves state.dual; expects state evaluated and certified there. False when the model is too large or gives no descent.
  bool step(double target_gap) {
    if (task_.lambda1 == 0) return gram_step(target_gap);
    if (!choose_candidates()) return false;
    build_hessian();
    fill_model();
    const double model_target = 0.1 * state_.gap > target_gap ? 0.1 * state_.gap : 0.1 * target_gap;
    const Candidates candidates{task_.n, s_.start, s_.label};
    const DenseHessian hessian{s_.matrix, candidates.count()};
    QuadraticModel<Passes, DenseHessian> model(hessian, candidates, task_.weight, s_.x, s_.q, s_.quadratic);
    model.minimise(model_target, 8);
    return line_search(candidates);
  }

 private:
  bool gram_step(double target_gap) {
    if (task_.n > max_model_size) return false;
    const index n = task_.n, k = task_.k;
    if (!s_.has_gram) {
      build_gram();
      s_.has_gram = true;
    }
    for (index i = 0; i <= n; ++i) s_.start[i] = i * k;
    for (index i = 0; i < n; ++i) {
      for (index l = 0; l < k; ++l) s_.label[i * k + l] = l;
    }
    fill_model();
    const Candidates candidates{n, s_.start, s_.label};
    const GramHessian hessian{s_.gram, n};
    QuadraticModel<Passes, GramHessian> model(hessian, candidates, task_.weight, s_.x, s_.q, s_.quadratic);
    model.minimise(0.1 * target_gap, 20);
    for (index a = 0; a < n * k; ++a) state_.dual[a] = s_.x[a];
    return true;
  }

  // K = F F' / lambda2 + the diagonal of the smoothing term.
  void build_gram() {
    const index n = task_.n;
    for (index e = 0; e < n * n; ++e) s_.gram[e] = 0;
    const index width = NewtonScratch::panel_width;
    for (index first = 0; first < task_.m; first += width) {
      const index count = task_.m - first < width ? task_.m - first : width;
      for (index i = 0; i < n; ++i) {
        for (index j = 0; j < count; ++j) s_.panel[i * width + j] = static_cast<double>(task_.rows[i][first + j]);
      }
      Passes::add_rank_update(s_.panel, n, width, count, 1 / task_.lambda2, s_.gram, n);
    }
    for (index i = 0; i < n; ++i) {
      s_.gram[i * n + i] += task_.smoothing / task_.weight[i];
      for (index j = 0; j < i; ++j) s_.gram[j * n + i] = s_.gram[i * n + j];
    }
  }

  // Candidates: entries in use, and entries whose gradient is within delta of the best of their sample.
  bool choose_candidates() {
    double delta = state_.gap / task_.total_weight;
    delta = delta < 1e-6 ? 1e-6 : (delta > 0.5 ? 0.5 : delta);
    for (int attempt = 0; attempt < 3; ++attempt, delta *= 0.1) {
      if (collect_candidates(delta)) return true;
    }
    return false;
  }

  bool collect_candidates(double delta) {
    index count = 0;
    const index k = task_.k;
    for (index i = 0; i < task_.n; ++i) {
      s_.start[i] = count;
      const double* g = state_.gradient + i * k;
      double low = g[0];
      for (index l = 1; l < k; ++l) low = g[l] < low ? g[l] : low;
      for (index l = 0; l < k; ++l) {
        if (state_.dual[i * k + l] > 0 || g[l] - low < delta) {
          if (count == s_.max_size) return false;
          s_.label[count++] = l;
        }
      }
    }
    s_.start[task_.n] = count;
    return true;
  }

  void fill_model() {
    for (index i = 0; i < task_.n; ++i) {
      for (index a = s_.start[i]; a < s_.start[i + 1]; ++a) {
        s_.x[a] = state_.dual[i * task_.k + s_.label[a]];
        s_.q[a] = state_.gradient[i * task_.k + s_.label[a]];
      }
    }
  }

  void build_hessian() {
    const index n = task_.n, count = s_.start[n], g = task_.group_size, width = NewtonScratch::panel_width;
    for (index e = 0; e < n * n; ++e) s_.gram[e] = 0;
    for (index e = 0; e < count * count; ++e) s_.matrix[e] = 0;
    set_.load_v(task_, state_.v);
    set_.update_norms(task_);
    const index groups_per_panel = width > g ? width / g : 1;
    for (index first = 0; first < set_.n_groups;) {
      // The next active groups: their columns into `columns`, their unit blocks (times the root of t) into `unit`.
      index filled = 0;
      for (; first < set_.n_groups && filled < groups_per_panel; ++first) {
        if (set_.factor[first] > 0) s_.chosen[filled++] = first;
      }
      if (filled == 0) break;
      gather_panel(filled);
      for (index i = 0; i < n; ++i) {
        const double* f = s_.columns + i * s_.column_width;
        for (index a = s_.start[i]; a < s_.start[i + 1]; ++a) {
          const double* u = s_.unit + s_.label[a] * s_.column_width;
          double* row = s_.panel + a * width;
          if (g == 1) {
            for (index p = 0; p < filled; ++p) row[p] = f[p] * u[p];
          } else {
            for (index p = 0; p < filled; ++p) {
              double product = 0;
              for (index j = p * g; j < (p + 1) * g; ++j) product += f[j] * u[j];
              row[p] = product;
            }
          }
        }
      }
      // One rank-one term per active group: t / lambda2 b b', b_(i, l) = <f_i, u_l> over the group.
      Passes::add_rank_update(s_.panel, count, width, filled, 1.0, s_.matrix, count);
      // Term shared by the classes: sum over active columns of (1 - t) / lambda2 f_i f_i'.
      for (index i = 0; i < n; ++i) {
        double* f = s_.columns + i * s_.column_width;
        for (index j = 0; j < filled * g; ++j) f[j] *= s_.strip[j];
      }
      Passes::add_rank_update(s_.columns, n, s_.column_width, filled * g, 1.0, s_.gram, n);
    }
    const double inverse = 1 / task_.lambda2;
    for (index i = 0; i < n; ++i) {
      for (index a = s_.start[i]; a < s_.start[i + 1]; ++a) {
        for (index i2 = 0; i2 <= i; ++i2) {
          for (index b = s_.start[i2]; b < s_.start[i2 + 1] && b <= a; ++b) {
            double value = s_.matrix[a * count + b];
            if (s_.label[a] == s_.label[b]) value += s_.gram[i * n + i2];
            value *= inverse;
            if (a == b) value += task_.smoothing / task_.weight[i];
            s_.matrix[a * count + b] = s_.matrix[b * count + a] = value;
          }
        }
      }
    }
  }

  void gather_panel(index filled) {
    const index g = task_.group_size;
    for (index p = 0; p < filled; ++p) {
      const double factor = set_.factor[s_.chosen[p]];
      const double scale = std::sqrt(1 - factor) / set_.norm[s_.chosen[p]], root = std::sqrt(factor);
      for (index j = 0; j < g; ++j) {
        s_.strip[p * g + j] = root;
        for (index l = 0; l < task_.k; ++l) {
          s_.unit[l * s_.column_width + p * g + j] = scale * set_.v[l * set_.width + s_.chosen[p] * g + j];
        }
      }
    }
    for (index i = 0; i < task_.n; ++i) {
      const double* from = set_.features + i * set_.width;
      double* to = s_.columns + i * s_.column_width;
      for (index p = 0; p < filled; ++p) {
        for (index j = 0; j < g; ++j) to[p * g + j] = from[s_.chosen[p] * g + j];
      }
    }
  }

  // Exact-enough minimiser of the dual along x - dual, by the sign of the derivative only (no differences of large values).
  bool line_search(const Candidates& candidates) {
    const index k = task_.k;
    double linear = 0, smooth_slope = 0, smooth_curvature = 0;
    for (index e = 0; e < task_.n * k; ++e) s_.direction[e] = 0;
    for (index i = 0; i < task_.n; ++i) {
      for (index a = candidates.start[i]; a < candidates.start[i + 1]; ++a) {
        const index l = candidates.label[a], e = i * k + l;
        const double d = s_.x[a] - state_.dual[e], y = task_.label[i] == l;
        s_.direction[e] = d;
        linear += y * d;
        smooth_slope += task_.smoothing * (state_.dual[e] / task_.weight[i] - y) * d;
        smooth_curvature += task_.smoothing / task_.weight[i] * d * d;
      }
    }
    // state.w becomes dV' = d'F up to sign; it is recomputed by the next evaluation.
    double* dv = state_.w;
    Passes::combine_rows(task_.rows, task_.n, s_.direction, k, task_.m, dv, task_.m);
    const index g = task_.group_size, m = task_.m;
    for (index b = 0; b < task_.n_groups; ++b) s_.slope[b] = s_.square[b] = 0;
    for (index l = 0; l < k; ++l) {
      const double *v = state_.v + l * m, *d = dv + l * m;
      if (g == 1) {
        for (index j = 0; j < m; ++j) {
          s_.slope[j] -= v[j] * d[j];
          s_.square[j] += d[j] * d[j];
        }
      } else {
        for (index b = 0; b < task_.n_groups; ++b) {
          for (index j = b * g; j < (b + 1) * g; ++j) {
            s_.slope[b] -= v[j] * d[j];
            s_.square[b] += d[j] * d[j];
          }
        }
      }
    }
    const auto derivative = [&](double t) {
      double total = 0;
      for (index b = 0; b < task_.n_groups; ++b) {
        const double square = state_.norm[b] * state_.norm[b] + t * (2 * s_.slope[b] + t * s_.square[b]);
        const double norm = square > 0 ? std::sqrt(square) : 0.0;
        total += soft_threshold_factor(norm, task_.lambda1) * (s_.slope[b] + t * s_.square[b]);
      }
      return linear + smooth_slope + t * smooth_curvature + total / task_.lambda2;
    };
    const double at_zero = derivative(0);
    if (!(at_zero < 0)) return false;
    double length = 1;
    double at_one = derivative(1);
    if (at_one > -0.1 * at_zero) length = root_on_unit_interval(derivative, at_zero, at_one);
    if (length == 1) {
      for (index i = 0; i < task_.n; ++i) {
        for (index a = candidates.start[i]; a < candidates.start[i + 1]; ++a) {
          state_.dual[i * k + candidates.label[a]] = s_.x[a];
        }
      }
    } else {
      for (index e = 0; e < task_.n * k; ++e) state_.dual[e] += length * s_.direction[e];
    }
    return length > 0;
  }

  // Regula falsi (Illinois) for an increasing function with f(0) < 0 < f(1), until |f| <= 0.1 |f(0)|.
  template <class Function>
  static double root_on_unit_interval(const Function& f, double at_zero, double at_one) {
    double low = 0, high = 1, f_low = at_zero, f_high = at_one;
    int side = 0;
    for (int step = 0; step < 40; ++step) {
      const double t = (low * f_high - high * f_low) / (f_high - f_low);
      const double value = f(t);
      if (std::fabs(value) <= -0.1 * at_zero) return t;
      if (value > 0) {
        high = t;
        f_high = value;
        if (side > 0) f_low *= 0.5;
        side = 1;
      } else {
        low = t;
        f_low = value;
        if (side < 0) f_high *= 0.5;
        side = -1;
      }
    }
    return low;
  }

  const Task<T>& task_;
  DualState<Passes, T>& state_;
  WorkingSet<T>& set_;
  NewtonScratch& s_;
};

SPARSESVM_END
