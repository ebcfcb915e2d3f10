// Block-coordinate descent on the dual: one sample's simplex at a time, over the working set.
//
// Each step minimises a quadratic model whose block Hessian is the exact curvature of the active columns plus a share of the safe
// bound L_i (every column that the step could activate). mathematics.md, sections 1 and 2 ("BCD block-H + WS").
#pragma once

#include <cmath>

#include "core/arena.h"
#include "core/dual_state.h"
#include "core/macros.h"
#include "core/prox.h"
#include "core/working_set.h"

SPARSESVM_BEGIN

// Above this many classes the block Hessian costs more than it saves, and the safe bound alone is used.
constexpr index max_block_way = 10;

struct BlockScratch {
  double* scores;   // (k)
  double* block;    // (k, k)
  double* delta;    // (k)
  double* product;  // (k)

  static BlockScratch take(Arena& arena, index k) {
    BlockScratch s;
    s.scores = arena.take<double>(k);
    s.block = arena.take<double>(k * k);
    s.delta = arena.take<double>(k);
    s.product = arena.take<double>(k);
    return s;
  }
};

template <class Passes, typename T>
class BlockDescent {
 public:
  BlockDescent(const Task<T>& task, DualState<Passes, T>& state, WorkingSet<T>& set, BlockScratch& scratch)
      : task_(task), state_(state), set_(set), s_(scratch), use_block_(task.k <= max_block_way) {}

  // One pass over the samples, backward on odd passes.
  void sweep(index pass) {
    bool pending = false;
    index previous = 0;
    for (index step = 0; step < task_.n; ++step) {
      const index i = pass % 2 == 0 ? step : task_.n - 1 - step;
      const double bound = read_sample(i, pending ? previous : -1);
      pending = update_sample(i, bound);
      previous = i;
    }
    if (pending) subtract(previous);
  }

 private:
  // Applies the pending change of `previous` to V and, in the same read, accumulates the scores and the curvature of sample i.
  // Returns the safe bound L_i.
  double read_sample(index i, index previous) {
    const index k = task_.k;
    for (index l = 0; l < k; ++l) s_.scores[l] = 0;
    for (index e = 0; e < k * k; ++e) s_.block[e] = 0;
    double straight = 0, safe = 0;
    if (previous >= 0) subtract(previous);
    if (task_.group_size == 1) {
      const double* f = set_.features + i * set_.width;
      const auto read = k == 2   ? Passes::template read_columns<2>
                        : k == 3 ? Passes::template read_columns<3>
                        : k == 4 ? Passes::template read_columns<4>
                        : k == 5 ? Passes::template read_columns<5>
                                 : Passes::template read_columns<0>;
      read(f, set_.v, set_.width, set_.width, task_.lambda1, reach(i), use_block_, k, s_.scores, s_.block, straight, safe);
    } else {
      read_groups(i, straight, safe);
    }
    const double inverse = 1 / task_.lambda2;
    safe *= inverse;
    const double smooth = task_.smoothing / task_.weight[i];
    for (index a = 0; a < k; ++a) {
      s_.scores[a] *= inverse;
      if (use_block_) {
        for (index b = 0; b < a; ++b) s_.block[a * k + b] = s_.block[b * k + a] = s_.block[a * k + b] * inverse;
        s_.block[a * k + a] = (s_.block[a * k + a] + straight) * inverse + 0.1 * safe + smooth;
      } else {
        s_.block[a * k + a] = safe + smooth;
      }
    }
    return safe;
  }

  // How far one step of sample i can move a column with feature value 1: ||delta A_i|| <= sqrt(2) c_i.
  double reach(index i) const { return 1.4142135623730951 * task_.weight[i]; }

  void read_groups(index i, double& straight, double& safe) {
    const index k = task_.k, g = task_.group_size;
    const double* f = set_.features + i * set_.width;
    for (index p = 0; p < set_.n_groups; ++p) {
      double square = 0, length = 0;
      for (index j = p * g; j < (p + 1) * g; ++j) {
        length += f[j] * f[j];
        for (index l = 0; l < k; ++l) square += set_.v[l * set_.width + j] * set_.v[l * set_.width + j];
      }
      const double norm = std::sqrt(square);
      if (norm + reach(i) * std::sqrt(length) > task_.lambda1) safe += length;
      if (!(norm > task_.lambda1)) continue;
      const double factor = soft_threshold_factor(norm, task_.lambda1);
      straight += factor * length;
      for (index l = 0; l < k; ++l) {
        double product = 0;
        for (index j = p * g; j < (p + 1) * g; ++j) product += f[j] * set_.v[l * set_.width + j];
        s_.product[l] = product;
        s_.scores[l] += factor * product;
      }
      if (!use_block_) continue;
      const double bend = (1 - factor) / square;
      for (index a = 0; a < k; ++a) {
        for (index b = 0; b <= a; ++b) s_.block[a * k + b] += bend * s_.product[a] * s_.product[b];
      }
    }
  }

  bool update_sample(index i, double bound) {
    const index k = task_.k;
    double* x = state_.dual + i * k;
    if (!(bound > 0)) bound = 0;
    double largest = 0;
    for (index l = 0; l < k; ++l) {
      const double y = task_.label[i] == l;
      s_.scores[l] = y - s_.scores[l];
      if (task_.smoothing > 0) s_.scores[l] += task_.smoothing * (x[l] / task_.weight[i] - y);
      largest = std::fabs(s_.scores[l]) > largest ? std::fabs(s_.scores[l]) : largest;
      s_.delta[l] = -x[l];
    }
    descend_simplex(s_.block, k, x, s_.scores, k, 1e-14 * largest, 4 * k);
    bool moved = false;
    for (index l = 0; l < k; ++l) {
      s_.delta[l] += x[l];
      moved = moved || s_.delta[l] != 0;
    }
    return moved;
  }

  void subtract(index i) {
    const double* f = set_.features + i * set_.width;
    for (index l = 0; l < task_.k; ++l) {
      const double change = s_.delta[l];
      if (change == 0) continue;
      double* row = set_.v + l * set_.width;
      for (index j = 0; j < set_.width; ++j) row[j] -= change * f[j];
    }
  }

  const Task<T>& task_;
  DualState<Passes, T>& state_;
  WorkingSet<T>& set_;
  BlockScratch& s_;
  bool use_block_;
};

SPARSESVM_END
