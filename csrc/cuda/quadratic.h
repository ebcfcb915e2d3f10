// The quadratic model of the dual: minimise <q, d> + d'Hd / 2 with x + d in a product of scaled simplices. By one block.
//
// Accelerated projected gradient steps on the model find the face, Newton steps on the face then solve the model there. On a device
// both beat what the CPU does, sweeps over one sample after another: their n steps depend on each other.
#pragma once

#include <cmath>

#include "core/prox.h"
#include "cuda/cholesky.h"
#include "cuda/panel.h"

SPARSESVM_BEGIN
namespace gpu {

// image = H (to - from) over the candidates, from may be null; zero for the references, whose rows of H are zero.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void multiply_model(Team block, const ModelArrays& s, int n, const double* to, const double* from,
                                                    double* image) {
  const int inner = s.start[n] - n;
  for (int i = block.rank(); i < n; i += block.size()) image[s.start[i]] = 0;
  for (int c = block.warp(); c < inner; c += block.warps()) {
    const double* row = s.matrix + static_cast<index>(c) * inner;
    double total = 0;
    for (int d = block.lane(); d < inner; d += lanes) {
      const int b = d + s.inner_sample[d] + 1;
      total += row[d] * (from != nullptr ? to[b] - from[b] : to[b]);
    }
    total = block.warp_sum(total);
    if (block.lane() == 0) image[c + s.inner_sample[c] + 1] = total;
  }
  block.sync();
}

// The model's gap at x: zero exactly at the minimiser.
template <class Team>
SPARSESVM_HD SPARSESVM_NOINLINE double model_gap(Team block, const ModelArrays& s, int n) {
  double total = 0;
  for (int i = block.rank(); i < n; i += block.size()) {
    double low = s.q[s.start[i]];
    for (int a = s.start[i] + 1; a < s.start[i + 1]; ++a) low = smaller(low, s.q[a]);
    for (int a = s.start[i]; a < s.start[i + 1]; ++a) total += s.x[a] * (s.q[a] - low);
  }
  return block.sum(total);
}

template <typename T, class Team>
class Quadratic {
 public:
  SPARSESVM_HD Quadratic(Team block, const Task<T>& task, const ModelArrays& model, double* factor_weight)
      : block_(block),
        task_(task),
        s_(model),
        factor_weight_(factor_weight),
        n_(task.n),
        count_(model.start[task.n]),
        inner_(count_ - n_) {}

  // Descends until the model's gap is at most `target` or `rounds` are spent; returns the gap reached.
  SPARSESVM_HD double minimise(double target, int rounds) {
    measure_curvature();
    double value = gap();
    for (int round = 0; round < rounds && value > target; ++round) {
      value = accelerate(first_burst * (1 + round / 4), value);
      if (value <= target) break;
      newton();
      value = gap();
    }
    return value;
  }

 private:
  static constexpr int first_burst = 60;  // with fewer, many Newton steps, each worth some ten of these, go to wrong faces

  // Entry of H for two candidates of given samples; the reference candidates' rows are zero.
  SPARSESVM_HD double entry(int a, int i, int b, int i2) const {
    const int row = a - i - 1, column = b - i2 - 1;
    if (a == s_.start[i] || b == s_.start[i2]) return 0;
    return s_.matrix[static_cast<index>(row) * inner_ + column];
  }

  SPARSESVM_HD double gap() const { return model_gap(block_, s_, n_); }
  SPARSESVM_HD void apply(const double* to, const double* from, double* image) { multiply_model(block_, s_, n_, to, from, image); }

  SPARSESVM_HD double product(const double* left, const double* right) const {
    double total = 0;
    for (int a = block_.rank(); a < count_; a += block_.size()) total += left[a] * right[a];
    return block_.sum(total);
  }

  // Largest curvature along steps that keep each sample's sum, by power iteration from a fixed start.
  SPARSESVM_HD void measure_curvature() {
    for (int a = block_.rank(); a < count_; a += block_.size())
      s_.image[a] = 1e-3 * static_cast<double>((static_cast<unsigned>(a) + 1) * 2654435761u >> 20);
    block_.sync();
    lipschitz_ = 0;
    for (int step = 0; step < 30; ++step) {
      double square = 0;
      for (int i = block_.rank(); i < n_; i += block_.size()) {
        double mean = 0;
        for (int a = s_.start[i]; a < s_.start[i + 1]; ++a) mean += s_.image[a];
        mean /= s_.start[i + 1] - s_.start[i];
        for (int a = s_.start[i]; a < s_.start[i + 1]; ++a) {
          s_.step[a] = s_.image[a] - mean;
          square += s_.step[a] * s_.step[a];
        }
      }
      const double length = sqrt(block_.sum(square));
      if (step > 0) {
        const bool settled = length <= 1.001 * lipschitz_;
        lipschitz_ = larger(lipschitz_, length);
        if (settled) break;
      }
      if (!(length > 0)) break;
      for (int a = block_.rank(); a < count_; a += block_.size()) s_.step[a] /= length;
      block_.sync();
      apply(s_.step, nullptr, s_.image);
    }
    lipschitz_ = lipschitz_ > 0 ? 1.05 * lipschitz_ : 1.0;
  }

  // A burst of accelerated steps with restart. Should the bound on the curvature fail, nothing moves and the bound grows.
  SPARSESVM_HD double accelerate(int iterations, double before) {
    double* previous = s_.projected;
    for (int a = block_.rank(); a < count_; a += block_.size()) s_.origin[a] = s_.point[a] = s_.x[a];
    block_.sync();
    double momentum = 1;
    const double step = 1 / lipschitz_;
    for (int iteration = 0; iteration < iterations; ++iteration) {
      apply(s_.point, s_.origin, s_.image);
      double uphill = 0;
      for (int i = block_.rank(); i < n_; i += block_.size()) {
        const int first = s_.start[i], last = s_.start[i + 1];
        for (int a = first; a < last; ++a) {
          previous[a] = s_.x[a];
          s_.x[a] = s_.point[a] - step * (s_.q[a] + s_.image[a]);
        }
        project_simplex(s_.x + first, last - first, task_.weight[i]);
        for (int a = first; a < last; ++a) uphill += (s_.q[a] + s_.image[a]) * (s_.x[a] - previous[a]);
      }
      uphill = block_.sum(uphill);
      if (uphill > 0) momentum = 1;
      const double next = 0.5 * (1 + sqrt(1 + 4 * momentum * momentum));
      const double carry = uphill > 0 ? 0.0 : (momentum - 1) / next;
      momentum = next;
      for (int a = block_.rank(); a < count_; a += block_.size()) s_.point[a] = s_.x[a] + carry * (s_.x[a] - previous[a]);
      block_.sync();
    }
    apply(s_.x, s_.origin, s_.image);
    double change = 0;
    for (int a = block_.rank(); a < count_; a += block_.size()) change += (s_.x[a] - s_.origin[a]) * (s_.q[a] + 0.5 * s_.image[a]);
    change = block_.sum(change);
    if (!(change <= 1e-12 * before)) {
      for (int a = block_.rank(); a < count_; a += block_.size()) s_.x[a] = s_.origin[a];
      block_.sync();
      lipschitz_ *= 2;
      return before;
    }
    for (int a = block_.rank(); a < count_; a += block_.size()) s_.q[a] += s_.image[a];
    block_.sync();
    return gap();
  }

  // A step towards the minimiser on the face of the entries now positive: all of it if that is feasible, else the better of the
  // part up to the boundary and its projection on the simplices. Nothing moves where the face is minimal or too large.
  SPARSESVM_HD void newton() {
    collect();
    if (free_ == 0 || free_ > s_.max_inner) return;
    for (int f = block_.rank(); f < free_; f += block_.size()) {
      s_.slope[f] = s_.q[s_.base[s_.free_sample[f]]] - s_.q[s_.free[f]];
    }
    block_.sync();
    factor();
    solve_upper(block_, s_.reduced, free_, free_ + 1, s_.solution);
    double decrease = 0;
    for (int f = block_.rank(); f < free_; f += block_.size()) decrease += s_.slope[f] * s_.solution[f];
    decrease = block_.sum(decrease);
    if (!(decrease > 0)) return;
    expand();
    double longest = 1;
    for (int a = block_.rank(); a < count_; a += block_.size()) {
      if (s_.step[a] < 0 && s_.x[a] + longest * s_.step[a] < 0) longest = s_.x[a] / -s_.step[a];
    }
    longest = -block_.max(-longest);
    const bool whole = longest >= 1;
    const double* step = s_.step;
    if (!whole) {
      project();
      apply(s_.projected, nullptr, s_.image);
      const double slope = product(s_.q, s_.projected), curvature = product(s_.image, s_.projected);
      const double length = slope < 0 ? (curvature > -slope ? -slope / curvature : 1.0) : 0.0;
      if (-length * (slope + 0.5 * length * curvature) > decrease * longest * (1 - 0.5 * longest)) {
        step = s_.projected;
        longest = length;
      }
    }
    move(step, whole ? 1.0 : longest);
  }

  // x += length * step, with the entries that vanish exactly zero, and q with it.
  SPARSESVM_HD void move(const double* step, double length) {
    apply(step, nullptr, s_.image);
    for (int a = block_.rank(); a < count_; a += block_.size()) {
      const double moved = s_.x[a] + length * step[a];
      s_.x[a] = moved > 1e-15 * s_.x[a] ? moved : 0.0;
      s_.q[a] += length * s_.image[a];
    }
    block_.sync();
  }

  // Lists the face: each sample's largest entry is eliminated, its other positive ones are free.
  SPARSESVM_HD void collect() {
    for (int i = block_.rank(); i < n_; i += block_.size()) {
      int base = s_.start[i], positive = 0;
      for (int a = s_.start[i]; a < s_.start[i + 1]; ++a) {
        base = s_.x[a] > s_.x[base] ? a : base;
        positive += s_.x[a] > 0;
      }
      s_.base[i] = base;
      s_.first_free[i] = positive > 0 ? positive - 1 : 0;
    }
    block_.sync();
    free_ = add_before(block_, s_.first_free, n_, task_.counts);
    if (free_ > s_.max_inner) return;
    for (int i = block_.rank(); i < n_; i += block_.size()) {
      int f = s_.first_free[i];
      for (int a = s_.start[i]; a < s_.start[i + 1]; ++a) {
        if (a == s_.base[i] || !(s_.x[a] > 0)) continue;
        s_.free[f] = a;
        s_.free_sample[f++] = i;
      }
    }
    block_.sync();
  }

  // The reduced matrix, with the slope beside it, factored. A small multiple of Z'Z lets the step go a long way, not infinitely
  // far, where the model is linear.
  SPARSESVM_HD void factor() {
    const int stride = free_ + 1;
    double trace = 0;
    for (int e = block_.rank(); e < free_ * free_; e += block_.size()) {
      const int f = e / free_, h = e % free_;
      const int i = s_.free_sample[f], i2 = s_.free_sample[h];
      const int a = s_.free[f], b = s_.free[h], base = s_.base[i], base2 = s_.base[i2];
      const double value = entry(a, i, b, i2) - entry(a, i, base2, i2) - entry(base, i, b, i2) + entry(base, i, base2, i2);
      s_.reduced[static_cast<index>(f) * stride + h] = value;
      trace += f == h ? value : 0.0;
    }
    const double ridge = 1e-12 * block_.sum(trace) / free_;
    for (int f = block_.rank(); f < free_; f += block_.size()) {
      for (int h = s_.first_free[s_.free_sample[f]]; h < s_.first_free[s_.free_sample[f] + 1]; ++h)
        s_.reduced[static_cast<index>(f) * stride + h] += f == h ? 2 * ridge : ridge;
    }
    append_column(block_, s_.reduced, free_, s_.slope);
    factor_cholesky(block_, s_.reduced, free_, stride, 0.01 * ridge, factor_weight_);
  }

  // From reduced coordinates to a step over the candidates.
  SPARSESVM_HD void expand() {
    for (int i = block_.rank(); i < n_; i += block_.size()) {
      for (int a = s_.start[i]; a < s_.start[i + 1]; ++a) s_.step[a] = 0;
      double total = 0;
      for (int f = s_.first_free[i]; f < s_.first_free[i + 1]; ++f) {
        s_.step[s_.free[f]] = s_.solution[f];
        total += s_.solution[f];
      }
      if (s_.first_free[i] < s_.first_free[i + 1]) s_.step[s_.base[i]] = -total;
    }
    block_.sync();
  }

  // projected = (projection of x + step on the simplices) - x.
  SPARSESVM_HD void project() {
    for (int i = block_.rank(); i < n_; i += block_.size()) {
      const int first = s_.start[i], last = s_.start[i + 1];
      for (int a = first; a < last; ++a) s_.projected[a] = s_.x[a] + s_.step[a];
      project_simplex(s_.projected + first, last - first, task_.weight[i]);
      for (int a = first; a < last; ++a) s_.projected[a] -= s_.x[a];
    }
    block_.sync();
  }

  Team block_;
  const Task<T>& task_;
  const ModelArrays& s_;
  double* factor_weight_;
  int n_, count_, inner_;
  int free_ = 0;          // entries on the face
  double lipschitz_ = 1;  // of the model's gradient
};

template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void minimise_model(Team block, const Task<T>& task, const ModelArrays& model,
                                                    double* factor_weight, double target, int rounds) {
  Quadratic<T, Team>(block, task, model, factor_weight).minimise(target, rounds);
}

}  // namespace gpu
SPARSESVM_END
