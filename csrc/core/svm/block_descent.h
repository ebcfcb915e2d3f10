// Block-coordinate descent on the dual: one sample's simplex at a time, over the working set.
//
// Each step minimises a quadratic model whose block Hessian is the exact curvature of the active columns plus a share of the safe
// bound L_i (every column that the step could activate). With lambda1 = 0 the bound is the curvature. docs/method.md, 3.
#pragma once

#include <cmath>

#include "core/linear_algebra/arena.h"
#include "core/macros.h"
#include "core/prox.h"
#include "core/svm/task.h"
#include "core/svm/working_set.h"

SPARSESVM_BEGIN

// Up to this many classes the block Hessian spans all of them, else those in use by the sample; the others have the safe bound.
constexpr index max_whole_way = 5;

// Above this many classes the block Hessian pays only for the exact hinge and where it lies far below the safe bound, as just below
// lambda1_max; measured with 12 to 40 classes.
constexpr index max_block_way = 10;

struct BlockScratch {
  double* scores;   // (k)
  double* block;    // (k, k)
  double* delta;    // (k)
  double* product;  // (k)
  double* change;   // (k) the pending delta in the precision of the working set
  index* used;      // (k) classes in the block Hessian

  static BlockScratch take(Arena& arena, index k) {
    return {arena.take<double>(k), arena.take<double>(k * k), arena.take<double>(k),
            arena.take<double>(k), arena.take<double>(k),     arena.take<index>(k)};
  }
};

// S: precision of the working set. The dual itself stays in double.
template <class Passes, typename T, typename S>
class BlockDescent {
 public:
  BlockDescent(const Task<T>& task, WorkingSet<S>& set, double* dual, BlockScratch& scratch)
      : task_(task),
        set_(set),
        dual_(dual),
        s_(scratch),
        change_(reinterpret_cast<S*>(scratch.change)),
        inverse_(1 / (task.lambda2 * set.scale * set.scale)) {}

  // How much rounding may disturb a score, which the hinge compares with one.
  double noise() const { return (sizeof(S) == 4 ? 6e-8 : 1e-16) * set_.largest_row_sum * inverse_; }

  // One pass over the samples, backward on odd passes; returns by how much their models say that the objective of the dual gained.
  double sweep(index pass) {
    gain_ = 0;
    for (index step = 0; step < task_.n; ++step) {
      const index i = pass % 2 == 0 ? step : task_.n - 1 - step;
      Passes::pause(set_.stride * task_.k);
      read_sample(i);
      const bool moved = update_sample(i);
      pending_ = moved ? set_.features + i * set_.stride : nullptr;
    }
    return gain_;
  }

 private:
  // Applies the pending change of the sample before to V and, in the same read, accumulates the scores and the curvature of sample
  // i.
  void read_sample(index i) {
    const index k = task_.k;
    for (index l = 0; l < k; ++l) s_.scores[l] = 0;
    for (index e = 0; e < k * k; ++e) s_.block[e] = 0;
    n_used_ = 0;
    const bool curved = task_.lambda1 > 0 && (k <= max_block_way || loose_);
    for (index l = 0; curved && l < k; ++l) {
      if (k <= max_whole_way || dual_[i * k + l] > 0) s_.used[n_used_++] = l;
    }
    double straight = 0, safe = 0;
    const S* f = set_.features + i * set_.stride;
    // How far one step of the sample can move a column with feature value 1: ||delta A_i|| <= sqrt(2) c_i.
    const double reach = 1.4142135623730951 * task_.weight[i];
    if (task_.group_size == 1) {
      if (task_.threshold.group_weight == nullptr) {
        read_columns(SameThreshold<S>{static_cast<S>(task_.lambda1 * set_.scale)}, f, reach, straight, safe);
      } else {
        read_columns(static_cast<const S*>(set_.threshold), f, reach, straight, safe);
      }
    } else {
      read_groups(f, reach, straight, safe);
    }
    loose_ = task_.smoothing == 0 && straight < 0.1 * safe;
    safe *= inverse_;
    const double smooth = task_.smoothing / task_.weight[i];
    for (index a = 0; a < k; ++a) {
      s_.scores[a] *= inverse_;
      for (index b = 0; b < a; ++b) s_.block[a * k + b] = s_.block[b * k + a] = s_.block[a * k + b] * inverse_;
      const bool used = n_used_ > 0 && (k <= max_whole_way || dual_[i * k + a] > 0);
      s_.block[a * k + a] = smooth + (used ? (s_.block[a * k + a] + straight) * inverse_ + 0.1 * safe : safe);
    }
  }

  template <class Threshold>
  void read_columns(Threshold threshold, const S* f, double reach, double& straight, double& safe) {
    const index k = task_.k;
    const auto read = k == 2   ? Passes::template read_columns<2, S, Threshold>
                      : k == 3 ? Passes::template read_columns<3, S, Threshold>
                      : k == 4 ? Passes::template read_columns<4, S, Threshold>
                      : k == 5 ? Passes::template read_columns<5, S, Threshold>
                               : Passes::template read_columns<0, S, Threshold>;
    read(pending_, change_, f, set_.v, set_.stride, set_.stride, threshold, static_cast<S>(reach), s_.used, n_used_, k, s_.scores, s_.block,
         straight, safe);
  }

  void read_groups(const S* f, double reach, double& straight, double& safe) {
    const index k = task_.k, g = task_.group_size;
    if (pending_ != nullptr) {
      for (index l = 0; l < k; ++l) {
        S* row = set_.v + l * set_.stride;
        for (index j = 0; j < set_.width; ++j) row[j] -= change_[l] * pending_[j];
      }
    }
    for (index p = 0; p < set_.n_groups; ++p) {
      S square_sum = 0, length_sum = 0;
      for (index l = 0; l < k; ++l) {
        const S* row = set_.v + l * set_.stride + p * g;
#pragma omp simd reduction(+ : square_sum)
        for (index j = 0; j < g; ++j) square_sum += row[j] * row[j];
      }
#pragma omp simd reduction(+ : length_sum)
      for (index j = p * g; j < (p + 1) * g; ++j) length_sum += f[j] * f[j];
      const double square = static_cast<double>(square_sum), length = static_cast<double>(length_sum), norm = std::sqrt(square);
      const double threshold = task_.threshold(set_.group[p]) * set_.scale;
      if (norm + reach * std::sqrt(length) > threshold) safe += length;
      if (!(norm > threshold)) continue;
      const double factor = soft_threshold_factor(norm, threshold);
      straight += factor * length;
      for (index l = 0; l < k; ++l) {
        const S *row = set_.v + l * set_.stride + p * g, *features = f + p * g;
        S product = 0;
#pragma omp simd reduction(+ : product)
        for (index j = 0; j < g; ++j) product += features[j] * row[j];
        s_.product[l] = static_cast<double>(product);
        s_.scores[l] += factor * s_.product[l];
      }
      const double bend = (1 - factor) / square;
      for (index a = 0; a < n_used_; ++a) {
        const index row = s_.used[a];
        const double turned = bend * s_.product[row];
        for (index b = 0; b <= a; ++b) s_.block[row * k + s_.used[b]] += turned * s_.product[s_.used[b]];
      }
    }
  }

  bool update_sample(index i) {
    const index k = task_.k;
    double* x = dual_ + i * k;
    double largest = 0;
    for (index l = 0; l < k; ++l) {
      const double y = task_.label[i] == l;
      s_.scores[l] = y - s_.scores[l];
      if (task_.smoothing > 0) s_.scores[l] += task_.smoothing * (x[l] / task_.weight[i] - y);
      largest = std::fabs(s_.scores[l]) > largest ? std::fabs(s_.scores[l]) : largest;
      s_.delta[l] = -x[l];
    }
    gain_ += descend_simplex(s_.block, k, x, s_.scores, k, 1e-14 * largest);
    bool moved = false;
    for (index l = 0; l < k; ++l) {
      s_.delta[l] += x[l];
      change_[l] = static_cast<S>(s_.delta[l]);
      moved = moved || s_.delta[l] != 0;
    }
    return moved;
  }

  const Task<T>& task_;
  WorkingSet<S>& set_;
  double* dual_;
  BlockScratch& s_;
  S* change_;
  double gain_ = 0;             // of the sweep
  double inverse_;              // 1 / lambda2 in the units of the working set
  bool loose_ = false;          // the safe bound of the last sample is far above its curvature
  index n_used_ = 0;            // classes in the block Hessian of the sample
  const S* pending_ = nullptr;  // features of the sample whose change V does not yet hold
};

SPARSESVM_END
