// The second-order model of the dual where lambda1 > 0: dense over the candidates, and with the kinks that matter.
//
// Along a step d of the dual, V moves by dV = -d'F. Group G costs (||V_G|| - lambda1)_+^2 / (2 lambda2). To second order an active
// group gives a term shared by the classes, with weight (1 - t) / lambda2 on each of its columns, and one rank-one term t / lambda2
// along its unit block u (t = lambda1 / norm; docs/method.md, 4). But the cost has a kink where the norm crosses
// lambda1, and near the largest useful lambda1 a step crosses many. So the rank-one term is kept as
//
//     (c_G)_+^2 / (2 t lambda2),  c_G = norm - lambda1 + t <u, dV_G>,
//
// for all groups: `build` takes the pieces on which the current point lies, and `refine` moves to those of the model's minimiser.
//
// A step keeps the sum of each sample's entries, so only differences within a sample matter: the first candidate of each sample is
// its reference, the products <f_i, u_l - u_reference> of the others are all that is multiplied out, and the reference's rows and
// columns of H are zero. The model's gradient is then right up to a constant per sample.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/svm/dual_state.h"
#include "core/svm/quadratic.h"
#include "core/svm/task.h"

SPARSESVM_BEGIN

struct KinkedModelScratch {
  double* matrix;      // (max_size, max_size)
  double* gram;        // (n, n)
  double* panel;       // (max_size, panel_width) sqrt(t) <f_i, u_l - u_reference> of each candidate and group of a panel
  double* columns;     // (n, column_width) the features of a panel
  double* unit;        // (k, column_width) its unit blocks times sqrt(t)
  index* chosen;       // (panel_width) its groups
  double* value;       // (panel_width) change of the gradient along each of its columns
  index* flipped;      // (groups) those that the last refinement moved to their other piece
  double* along;       // (groups) <v_G, dV_G>
  char* on;            // (groups) pieces with c_G > 0
  index column_width;  // at least one whole group

  static constexpr index panel_width = 256;

  static KinkedModelScratch take(Arena& arena, index n, index k, index groups, index group_size, index max_size) {
    KinkedModelScratch s{};
    s.matrix = arena.take<double>(max_size * max_size);
    s.gram = arena.take<double>(n * n);
    s.panel = arena.take<double>(max_size * panel_width);
    s.column_width = group_size > panel_width ? group_size : panel_width;
    s.columns = arena.take<double>(n * s.column_width);
    s.unit = arena.take<double>(k * s.column_width);
    s.chosen = arena.take<index>(panel_width);
    s.value = arena.take<double>(panel_width);
    s.flipped = arena.take<index>(groups);
    s.along = arena.take<double>(groups);
    s.on = arena.take<char>(groups);
    return s;
  }
};

template <class Passes, typename T>
class KinkedModel {
 public:
  KinkedModel(const Task<T>& task, const DualState<Passes, T>& state, const Candidates& candidates, KinkedModelScratch& scratch)
      : task_(task), state_(state), c_(candidates), s_(scratch), count_(candidates.count()) {
    const index g = task.group_size;
    groups_per_panel_ = KinkedModelScratch::panel_width > g ? KinkedModelScratch::panel_width / g : 1;
  }

  DenseHessian hessian() const { return {s_.matrix, count_}; }

  // The pieces of the current point.
  void build() {
    const index n = task_.n, g = task_.group_size, compact = count_ - n;
    for (index e = 0; e < n * n; ++e) s_.gram[e] = 0;
    for (index e = 0; e < compact * compact; ++e) s_.matrix[e] = 0;
    for (index b = 0; b < task_.n_groups; ++b) s_.on[b] = state_.norm[b] > task_.threshold(b);
    const double inverse = 1 / task_.lambda2;
    for (index next = 0; next < task_.n_groups;) {
      index filled = 0;
      for (; next < task_.n_groups && filled < groups_per_panel_; ++next) {
        if (s_.on[next]) s_.chosen[filled++] = next;
      }
      if (filled == 0) break;
      fill_panel(filled, compact);
      Passes::add_rank_update(s_.panel, compact, KinkedModelScratch::panel_width, filled, inverse, s_.matrix, compact);
      double* root = s_.unit;  // the unit blocks have done their work
      for (index p = 0; p < filled; ++p) {
        for (index j = p * g; j < (p + 1) * g; ++j) root[j] = std::sqrt(1 - clipped(s_.chosen[p]));
      }
      for (index i = 0; i < n; ++i) {
        for (index j = 0; j < filled * g; ++j) s_.columns[i * s_.column_width + j] *= root[j];
      }
      Passes::add_rank_update(s_.columns, n, s_.column_width, filled * g, inverse, s_.gram, n);
    }
    expand();
    add_shared_terms();
    mirror();
  }

  // Moves the gradient q to the pieces on which the step `direction` (n, k) ends; `dv` (k, m) is scratch. False when it is on them
  // already. The matrix follows with `update`, where that is worth it.
  bool refine(const double* direction, double* dv, double* q) {
    Passes::combine_rows(task_.rows, task_.n, direction, task_.k, task_.m, dv, task_.m);
    project_change(dv);
    n_flipped_ = 0;
    for (index b = 0; b < task_.n_groups; ++b) {
      if ((value(b) > 0) == (s_.on[b] != 0)) continue;
      s_.on[b] = !s_.on[b];
      s_.flipped[n_flipped_++] = b;
    }
    for (index first = 0; first < n_flipped_; first += groups_per_panel_) {
      const index filled = load_flipped(first);
      double* change = s_.value;
      for (index p = 0; p < filled; ++p) {
        const index group = s_.chosen[p];
        change[p] = (s_.on[group] ? 1 : -1) * value(group) / (task_.lambda2 * std::sqrt(clipped(group)));
      }
      for (index a = 0; a < count_; ++a) {
        const double* product = s_.panel + a * KinkedModelScratch::panel_width;
        double total = 0;
        for (index p = 0; p < filled; ++p) total += change[p] * product[p];
        q[a] -= total;
      }
    }
    return n_flipped_ > 0;
  }

  // Adds the rank-one terms of the groups that the last `refine` found on, and takes away those of the others.
  void update() {
    const index width = KinkedModelScratch::panel_width;
    const double inverse = 1 / task_.lambda2;
    for (index first = 0; first < n_flipped_; first += groups_per_panel_) {
      const index filled = load_flipped(first);
      Passes::add_rank_update(s_.panel, count_, width, n_on_, inverse, s_.matrix, count_);
      Passes::add_rank_update(s_.panel + n_on_, count_, width, filled - n_on_, -inverse, s_.matrix, count_);
    }
    mirror();
  }

 private:
  // t = lambda1 / norm, at most one.
  double clipped(index group) const {
    const double threshold = task_.threshold(group);
    return state_.norm[group] > threshold ? threshold / state_.norm[group] : 1.0;
  }

  // c_G at the end of the step.
  double value(index group) const {
    const double norm = state_.norm[group];
    return norm - task_.threshold(group) + (norm > 0 ? clipped(group) * s_.along[group] / norm : 0.0);
  }

  // along = <v_G, dV_G> with dV = -dv.
  void project_change(const double* dv) {
    const index m = task_.m, g = task_.group_size;
    for (index b = 0; b < task_.n_groups; ++b) s_.along[b] = 0;
    for (index l = 0; l < task_.k; ++l) {
      const double *v = state_.v + l * m, *d = dv + l * m;
      if (g == 1) {
        for (index j = 0; j < m; ++j) s_.along[j] -= v[j] * d[j];
      } else {
        for (index b = 0; b < task_.n_groups; ++b) {
          for (index j = b * g; j < (b + 1) * g; ++j) s_.along[b] -= v[j] * d[j];
        }
      }
    }
  }

  // Columns, unit blocks and their products, of the chosen groups; `rows` of the panel are count - n without the references, or count.
  void fill_panel(index filled, index rows) {
    const index k = task_.k, m = task_.m, g = task_.group_size, width = s_.column_width;
    for (index p = 0; p < filled; ++p) {
      const index from = s_.chosen[p] * g;
      const double scale = std::sqrt(clipped(s_.chosen[p])) / state_.norm[s_.chosen[p]];
      for (index l = 0; l < k; ++l) {
        for (index j = 0; j < g; ++j) s_.unit[l * width + p * g + j] = scale * state_.v[l * m + from + j];
      }
    }
    double* product = s_.panel;
    for (index i = 0; i < task_.n; ++i) {
      const T* row = task_.rows[i];
      double* f = s_.columns + i * width;
      if (g == 1) {
        for (index p = 0; p < filled; ++p) f[p] = static_cast<double>(row[s_.chosen[p]]);
      } else {
        for (index p = 0; p < filled; ++p) {
          for (index j = 0; j < g; ++j) f[p * g + j] = static_cast<double>(row[s_.chosen[p] * g + j]);
        }
      }
      if (rows == count_) {
        for (index p = 0; p < filled; ++p) product[p] = 0;
        product += KinkedModelScratch::panel_width;
      }
      const double* reference = s_.unit + c_.label[c_.start[i]] * width;
      for (index a = c_.start[i] + 1; a < c_.start[i + 1]; ++a) {
        const double* u = s_.unit + c_.label[a] * width;
        if (g == 1) {
          for (index p = 0; p < filled; ++p) product[p] = f[p] * (u[p] - reference[p]);
        } else {
          for (index p = 0; p < filled; ++p) {
            double total = 0;
            for (index j = p * g; j < (p + 1) * g; ++j) total += f[j] * (u[j] - reference[j]);
            product[p] = total;
          }
        }
        product += KinkedModelScratch::panel_width;
      }
    }
  }

  // The panel of the next flipped groups, those that came on before the others; returns how many.
  index load_flipped(index first) {
    const index filled = n_flipped_ - first < groups_per_panel_ ? n_flipped_ - first : groups_per_panel_;
    n_on_ = 0;
    index off = filled;
    for (index p = 0; p < filled; ++p) {
      const index group = s_.flipped[first + p];
      s_.chosen[s_.on[group] ? n_on_++ : --off] = group;
    }
    fill_panel(filled, count_);
    return filled;
  }

  // From the lower triangle without references to that with them, in place, from the end.
  void expand() {
    const index compact = count_ - task_.n;
    for (index i = task_.n - 1; i >= 0; --i) {
      for (index a = c_.start[i + 1] - 1; a >= c_.start[i]; --a) {
        double* row = s_.matrix + a * count_;
        const double* from = s_.matrix + (a - i - 1) * compact;
        for (index i2 = i; i2 >= 0; --i2) {
          const index last = c_.start[i2 + 1] - 1 < a ? c_.start[i2 + 1] - 1 : a;
          for (index b = last; b > c_.start[i2]; --b) row[b] = a == c_.start[i] ? 0.0 : from[b - i2 - 1];
          row[c_.start[i2]] = 0;
        }
      }
    }
  }

  // What the classes share, and the smoothing term, into the lower triangle, as differences to the references.
  void add_shared_terms() {
    for (index i = 0; i < task_.n; ++i) {
      const index base = c_.label[c_.start[i]];
      for (index a = c_.start[i] + 1; a < c_.start[i + 1]; ++a) {
        double* row = s_.matrix + a * count_;
        const index label = c_.label[a];
        for (index i2 = 0; i2 <= i; ++i2) {
          const double shared = s_.gram[i * task_.n + i2] + (i == i2 ? task_.smoothing / task_.weight[i] : 0.0);
          const index base2 = c_.label[c_.start[i2]];
          const double both = (base == base2) - (label == base2);
          for (index b = c_.start[i2] + 1; b < c_.start[i2 + 1] && b <= a; ++b) {
            row[b] += shared * ((label == c_.label[b]) - (base == c_.label[b]) + both);
          }
        }
      }
    }
  }

  // The upper triangle from the lower, in blocks that stay in the cache.
  void mirror() {
    constexpr index block = 16;
    for (index top = 0; top < count_; top += block) {
      const index bottom = top + block < count_ ? top + block : count_;
      for (index left = 0; left <= top; left += block) {
        for (index a = top; a < bottom; ++a) {
          const index right = left + block < a ? left + block : a;
          for (index b = left; b < right; ++b) s_.matrix[b * count_ + a] = s_.matrix[a * count_ + b];
        }
      }
    }
  }

  const Task<T>& task_;
  const DualState<Passes, T>& state_;
  const Candidates& c_;
  KinkedModelScratch& s_;
  index count_, groups_per_panel_;
  index n_flipped_ = 0, n_on_ = 0;
};

SPARSESVM_END
