// The variables of a quadratic model of the dual: which (sample, class) pairs take part, and its Hessian over them.
#pragma once

#include "core/macros.h"
#include "core/svm/problem.h"

SPARSESVM_BEGIN

// Dense models up to this many candidates; beyond it other methods are cheaper and the memory would be quadratic.
constexpr index max_model_size = 2048;

// Those of sample i are start[i] .. start[i + 1] - 1.
struct Candidates {
  index n_samples;
  const index* start;
  const index* label;
  index count() const { return start[n_samples]; }

  // <x, q - min q> over one sample.
  double sample_gap(index i, const double* x, const double* q) const {
    double low = q[start[i]];
    for (index a = start[i] + 1; a < start[i + 1]; ++a) low = q[a] < low ? q[a] : low;
    double gap = 0;
    for (index a = start[i]; a < start[i + 1]; ++a) gap += x[a] * (q[a] - low);
    return gap;
  }

  // The model's gap at x with gradient q: zero exactly at the minimiser.
  double gap(const double* x, const double* q) const {
    double total = 0;
    for (index i = 0; i < n_samples; ++i) total += sample_gap(i, x, q);
    return total;
  }
};

// H stored as a full symmetric matrix over the candidates.
struct DenseHessian {
  const double* matrix;
  index stride;

  // Whether a face of this size is far larger than the rank of H, so that the model is linear along most of it: no place for Newton
  // steps. Sweeps shrink it.
  static bool is_linear(index /*size*/) { return false; }

  // Whether a face of this size is better factored than solved by conjugate gradients.
  static bool factor_pays(const Candidates& /*candidates*/, index /*size*/) { return true; }

  double entry(index a, index /*sample_a*/, index /*label_a*/, index b, index /*sample_b*/, index /*label_b*/) const {
    return matrix[a * stride + b];
  }
  // (e_a - e_b)' H (e_a2 - e_b2) for candidates a, b of one sample and a2, b2 of another.
  double difference(const Candidates& /*candidates*/, index /*i*/, index a, index b, index /*i2*/, index a2, index b2) const {
    return matrix[a * stride + a2] - matrix[a * stride + b2] - matrix[b * stride + a2] + matrix[b * stride + b2];
  }
  // q += H[:, first .. first + count] delta
  void add_columns(const Candidates& candidates, index sample, const double* delta, double* q) const {
    const index n = candidates.count();
    for (index a = candidates.start[sample]; a < candidates.start[sample + 1]; ++a) {
      const double scale = delta[a - candidates.start[sample]];
      if (scale == 0) continue;
      const double* row = matrix + a * stride;
      for (index b = 0; b < n; ++b) q[b] += scale * row[b];
    }
  }
  // image = H step
  void apply(const Candidates& candidates, const double* step, double* image) const {
    for (index a = 0; a < candidates.count(); ++a) image[a] = 0;
    for (index i = 0; i < candidates.n_samples; ++i) add_columns(candidates, i, step + candidates.start[i], image);
  }
};

// H = K (x) identity over the classes: lambda1 = 0, where all classes share the Gram matrix K of the samples. All entries are candidates.
template <class Passes>
struct GramHessian {
  const double* gram;
  index stride;
  index rank;          // at most
  double* transposed;  // (k, n) scratch

  bool is_linear(index size) const { return size > 2 * rank + 128; }

  // Some 200 products of n^2 k against size^3 / 3.
  static bool factor_pays(const Candidates& candidates, index size) {
    return size * size * size <= 600 * candidates.n_samples * candidates.count();
  }

  double entry(index /*a*/, index sample_a, index label_a, index /*b*/, index sample_b, index label_b) const {
    return label_a == label_b ? gram[sample_a * stride + sample_b] : 0.0;
  }
  double difference(const Candidates& candidates, index i, index a, index b, index i2, index a2, index b2) const {
    const index l = candidates.label[a], m = candidates.label[b], l2 = candidates.label[a2], m2 = candidates.label[b2];
    return gram[i * stride + i2] * ((l == l2) - (l == m2) - (m == l2) + (m == m2));
  }
  void add_columns(const Candidates& candidates, index sample, const double* delta, double* q) const {
    const index k = candidates.start[1];
    const double* row = gram + sample * stride;
    for (index i = 0; i < candidates.n_samples; ++i) {
      const double scale = row[i];
      double* target = q + i * k;
      for (index l = 0; l < k; ++l) target[l] += scale * delta[l];
    }
  }
  // image = H step
  void apply(const Candidates& candidates, const double* step, double* image) const {
    const index n = candidates.n_samples, k = candidates.start[1];
    for (index i = 0; i < n; ++i) {
      for (index l = 0; l < k; ++l) {
        transposed[l * n + i] = step[i * k + l];
        image[i * k + l] = 0;
      }
    }
    for (index i = 0; i < n; i += 4) {
      const double* rows[4];
      const index count = n - i < 4 ? n - i : 4;
      for (index a = 0; a < count; ++a) rows[a] = gram + (i + a) * stride;
      Passes::add_products(rows, count, transposed, n, k, n, 1.0, image + i * k, k);
    }
  }
};

SPARSESVM_END
