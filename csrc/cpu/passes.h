// Register-tiled passes over features, the part of the CPU solver where the time goes. Compiled once per instruction set.
//
// GCC vector extensions: `Vec` is as wide as the instruction set allows; features are read in their storage type and widened to
// double in registers, so float32 inputs lose nothing but their own rounding.
#pragma once

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "core/basics.h"
#include "core/macros.h"
#include "cpu/full_passes.h"
#include "cpu/parallel.h"

SPARSESVM_BEGIN

#if defined(__AVX512F__)
constexpr int vector_lanes = 8;
constexpr int column_tile_vectors = 4;
#elif defined(__AVX__)
constexpr int vector_lanes = 4;
constexpr int column_tile_vectors = 2;
#else
constexpr int vector_lanes = 2;
constexpr int column_tile_vectors = 2;
#endif

typedef double Vec __attribute__((vector_size(8 * vector_lanes)));
typedef double VecUnaligned __attribute__((vector_size(8 * vector_lanes), aligned(8), may_alias));
typedef float FloatVec __attribute__((vector_size(8 * vector_lanes)));  // the same width, twice the lanes
typedef float FloatVecUnaligned __attribute__((vector_size(8 * vector_lanes), aligned(4), may_alias));
typedef float HalfVecUnaligned __attribute__((vector_size(4 * vector_lanes), aligned(4), may_alias));

SPARSESVM_INLINE Vec load(const double* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
SPARSESVM_INLINE Vec load(const float* p) { return __builtin_convertvector(*reinterpret_cast<const HalfVecUnaligned*>(p), Vec); }
SPARSESVM_INLINE void store(double* p, Vec v) { *reinterpret_cast<VecUnaligned*>(p) = v; }

// The sum of a vector, and those of four. Compilers without __builtin_shufflevector (GCC before 12) add lane by lane.
#if !__has_builtin(__builtin_shufflevector) || !defined(__AVX__)
SPARSESVM_INLINE double sum(Vec v) {
  double total = 0;
  for (int i = 0; i < vector_lanes; ++i) total += v[i];
  return total;
}
struct FourSums {
  double value[4];
  double operator[](int i) const { return value[i]; }
};
SPARSESVM_INLINE FourSums sum_four(Vec a, Vec b, Vec c, Vec d) { return {{sum(a), sum(b), sum(c), sum(d)}}; }
#else
typedef double FourSums __attribute__((vector_size(32)));
#if defined(__AVX512F__)
SPARSESVM_INLINE FourSums halves(Vec v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
}
SPARSESVM_INLINE FourSums sum_four(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  const Vec cd = __builtin_shufflevector(c, d, 0, 8, 2, 10, 4, 12, 6, 14) + __builtin_shufflevector(c, d, 1, 9, 3, 11, 5, 13, 7, 15);
  return halves(__builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15));
}
#else
SPARSESVM_INLINE FourSums halves(Vec v) { return v; }
SPARSESVM_INLINE FourSums sum_four(Vec a, Vec b, Vec c, Vec d) {
  const Vec ab = __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
  const Vec cd = __builtin_shufflevector(c, d, 0, 4, 2, 6) + __builtin_shufflevector(c, d, 1, 5, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}
#endif
SPARSESVM_INLINE double sum(Vec v) {
  const FourSums four = halves(v);
  const auto two = __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3);
  return two[0] + two[1];
}
#endif

// The first `count` entries, 0 < count < vector_lanes, and zeros.
#if defined(__AVX512F__)
SPARSESVM_INLINE Vec load_first(const double* p, index count) {
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_pd(static_cast<__mmask8>((1 << count) - 1), p));
}
SPARSESVM_INLINE Vec load_first(const float* p, index count) {
  return __builtin_convertvector(_mm256_maskz_loadu_ps(static_cast<__mmask8>((1 << count) - 1), p), Vec);
}
#else
template <typename T>
SPARSESVM_INLINE Vec load_first(const T* p, index count) {
  Vec v{};
  for (index i = 0; i < count; ++i) v[i] = static_cast<double>(p[i]);
  return v;
}
#endif

SPARSESVM_INLINE double root(double x) { return __builtin_sqrt(x); }
SPARSESVM_INLINE float root(float x) { return __builtin_sqrtf(x); }
SPARSESVM_INLINE double magnitude(double x) { return __builtin_fabs(x); }
SPARSESVM_INLINE float magnitude(float x) { return __builtin_fabsf(x); }

// A vector of S in S's own precision.
template <typename S>
struct Native;
template <>
struct Native<double> {
  using vector = Vec;
  static constexpr index lanes = vector_lanes;
  template <typename T>
  static SPARSESVM_INLINE Vec read(const T* p) { return load(p); }
  template <typename T>
  static SPARSESVM_INLINE Vec read_first(const T* p, index count) { return load_first(p, count); }
  static SPARSESVM_INLINE void write(double* p, Vec v) { store(p, v); }
  static SPARSESVM_INLINE double total(Vec v) { return sum(v); }
  static SPARSESVM_INLINE FourSums four_totals(Vec a, Vec b, Vec c, Vec d) { return sum_four(a, b, c, d); }
};
template <>
struct Native<float> {
  using vector = FloatVec;
  static constexpr index lanes = 2 * vector_lanes;
  static SPARSESVM_INLINE FloatVec read(const float* p) { return *reinterpret_cast<const FloatVecUnaligned*>(p); }
  static SPARSESVM_INLINE FloatVec read_first(const float* p, index count) {
    alignas(8 * vector_lanes) float lane[lanes] = {};
    for (index i = 0; i < count; ++i) lane[i] = p[i];
    return *reinterpret_cast<FloatVec*>(lane);
  }
  static SPARSESVM_INLINE void write(float* p, FloatVec v) { *reinterpret_cast<FloatVecUnaligned*>(p) = v; }
  static SPARSESVM_INLINE Vec folded(FloatVec v) {
    alignas(8 * vector_lanes) float lane[lanes];
    *reinterpret_cast<FloatVec*>(lane) = v;
    return load(lane) + load(lane + vector_lanes);
  }
  static SPARSESVM_INLINE double total(FloatVec v) { return sum(folded(v)); }
  static SPARSESVM_INLINE FourSums four_totals(FloatVec a, FloatVec b, FloatVec c, FloatVec d) {
    return sum_four(folded(a), folded(b), folded(c), folded(d));
  }
};

struct Passes {
  // Calls body(part) for all parts, on several threads where the work is worth it.
  template <class Body>
  static void over_parts(index parts, index work, const Body& body) {
    sparsesvm::over_parts(parts, work, body);
  }

  // Where a call may be given up, which must come every few milliseconds: in the passes, and in loops that go long without one. `work`
  // is the number of multiplications since.
  static void pause(index work) { sparsesvm::pause(work); }

  // To be called by each pass over all features of a large task.
  static void count_full_pass() { sparsesvm::full_passes.fetch_add(1, std::memory_order_relaxed); }

  // out[a * out_stride + b] += scale * <left[a], right + b * right_stride>, for rows of the given length; in the precision of `right`.
  template <typename T, typename S>
  static void add_products(const T* const* left, index n_left, const S* right, index right_stride, index n_right, index length,
                           double scale, double* out, index out_stride) {
    constexpr index worth_pausing = 1024;  // a hundred times what it takes
    if (n_left * n_right * length >= worth_pausing) pause(n_left * n_right * length);
    for (index a = 0; a < n_left; a += 4) {
      const index rows = n_left - a < 4 ? n_left - a : 4;
      for (index b = 0; b < n_right; b += 4) {
        const index columns = n_right - b < 4 ? n_right - b : 4;
        double* target = out + a * out_stride + b;
        const S* base = right + b * right_stride;
        switch (rows) {
          case 1: products_by_columns<1>(left + a, base, right_stride, columns, length, scale, target, out_stride); break;
          case 2: products_by_columns<2>(left + a, base, right_stride, columns, length, scale, target, out_stride); break;
          case 3: products_by_columns<3>(left + a, base, right_stride, columns, length, scale, target, out_stride); break;
          default: products_by_columns<4>(left + a, base, right_stride, columns, length, scale, target, out_stride);
        }
      }
    }
  }

  // The same for all pairs of many rows and long ones: out (n_left, n_right) += scale * left right', a panel of columns at a time.
  template <typename T, typename S>
  static void add_all_products(const T* const* left, index n_left, const S* right, index right_stride, index n_right, index length,
                               double scale, double* out) {
    constexpr index panel = 1024;  // columns of `right` that stay in the first-level cache
    constexpr index block = 16;    // rows of a part
    over_parts((n_left + block - 1) / block, n_left * n_right * length, [=](index part) {
      const index last = (part + 1) * block < n_left ? (part + 1) * block : n_left;
      for (index j = 0; j < length; j += panel) {
        const index width = length - j < panel ? length - j : panel;
        for (index a = part * block; a < last; a += 4) {
          const T* rows[4];
          const index count = last - a < 4 ? last - a : 4;
          for (index b = 0; b < count; ++b) rows[b] = left[a + b] + j;
          add_products(rows, count, right + j, right_stride, n_right, width, scale, out + a * n_right, n_right);
        }
      }
    });
  }

  // Lower triangle (in blocks of four) of out += scale * rows rows', for `n` rows of the given length.
  static void add_rank_update(const double* rows, index n, index stride, index length, double scale, double* out, index out_stride) {
    const index blocks = (n + 3) / 4;
    over_parts(blocks, n * n / 2 * length, [=](index part) {
      const index a = 4 * (blocks - 1 - part);  // the longest rows first
      const double* left[4];
      const index height = n - a < 4 ? n - a : 4;
      for (index i = 0; i < height; ++i) left[i] = rows + (a + i) * stride;
      add_products(left, height, rows, stride, a + height, length, scale, out + a * out_stride, out_stride);
    });
  }

  // out[l * out_stride + j] = sum_i coefficients[i * k + l] * rows[i][j]: the k x m matrix C'F, one read of the features; in the
  // precision of `out`.
  template <typename T, typename S>
  static void combine_rows(const T* const* rows, index n, const double* coefficients, index k, index m, S* out, index out_stride) {
    constexpr index tile = column_tile_vectors * Native<S>::lanes;
    constexpr index tiles = 2;  // of a part
    const index whole = m / tile;
    over_parts((whole + tiles - 1) / tiles, n * k * m, [=](index part) {
      const index last = (part + 1) * tiles < whole ? (part + 1) * tiles : whole;
      for (index j = part * tiles * tile; j < last * tile; j += tile) {
        for (index l = 0; l < k;) {
          const index classes = k - l <= 5 ? k - l : (k - l == 6 ? 3 : (k - l < 10 ? 4 : 5));
          S* target = out + l * out_stride + j;
          switch (classes) {
            case 1: combine_tile<1>(rows, n, coefficients + l, k, j, target, out_stride); break;
            case 2: combine_tile<2>(rows, n, coefficients + l, k, j, target, out_stride); break;
            case 3: combine_tile<3>(rows, n, coefficients + l, k, j, target, out_stride); break;
            case 4: combine_tile<4>(rows, n, coefficients + l, k, j, target, out_stride); break;
            default: combine_tile<5>(rows, n, coefficients + l, k, j, target, out_stride);
          }
          l += classes;
        }
      }
    });
    for (index j = whole * tile; j < m; ++j) {
      for (index l = 0; l < k; ++l) {
        double total = 0;
        for (index i = 0; i < n; ++i) total += coefficients[i * k + l] * static_cast<double>(rows[i][j]);
        out[l * out_stride + j] = static_cast<S>(total);
      }
    }
  }

  // What one block step reads from the columns of the working set, after V -= change' previous (the pending update of the sample
  // before; `previous` may be null). With f the features of the sample and V the k x width block,
  //   scores[l]        += sum_j factor_j f_j V_lj                  (factor: block soft-thresholding)
  //   block[a * k + b] += sum_j (1 - factor_j) / norm_j^2 f_j^2 V_aj V_bj, b <= a, over active columns, for a and b among `used`
  //   straight         += sum_j factor_j f_j^2
  //   safe             += sum_j f_j^2 over the columns with norm_j + reach |f_j| > threshold_j
  // The number of classes is a template argument where it is small, so that the accumulators stay in registers, and all or none
  // are used; Classes = 0 reads k.
  // Columns are padded with zeros to whole vectors, which change nothing.
  // Threshold: `const S*`, or SameThreshold<S>, which needs no reading.
  template <int Classes, typename S, class Threshold>
  static void read_columns(const S* previous, const S* change, const S* f, S* v, index stride, index width, Threshold thresholds, S reach,
                           const index* used, index n_used, index k, double* scores, double* block, double& straight, double& safe) {
    constexpr index tile = 256;
    alignas(64) S factor[tile], bend[tile];
    for (index first = 0; first < width; first += tile) {
      const index count = width - first < tile ? width - first : tile;
      const S* features = f + first;
      S* columns = v + first;
      const Threshold threshold = thresholds + first;
      update_columns<Classes>(previous == nullptr ? nullptr : previous + first, change, columns, stride, count, k, bend);
      S straight_sum = 0, safe_sum = 0;
#pragma omp simd reduction(+ : straight_sum, safe_sum)
      for (index j = 0; j < count; ++j) {
        const S square = bend[j], norm = root(square), length = features[j] * features[j];
        const bool on = norm > threshold[j];
        const S clipped = on ? threshold[j] / norm : S(1);  // t
        factor[j] = (1 - clipped) * features[j];
        bend[j] = on ? clipped * length / square : S(0);
        straight_sum += (1 - clipped) * length;
        safe_sum += norm + reach * magnitude(features[j]) > threshold[j] ? length : S(0);
      }
      straight += static_cast<double>(straight_sum);
      safe += static_cast<double>(safe_sum);
      accumulate_columns<Classes>(columns, stride, count, factor, bend, used, n_used, k, scores, block);
    }
  }

 private:
  // V -= change' previous on a tile, and the squared norms of its columns.
  template <int Classes, typename S>
  static SPARSESVM_INLINE void update_columns(const S* previous, const S* change, S* columns, index stride, index count, index k,
                                              S* square) {
    using N = Native<S>;
    const index classes = Classes > 0 ? Classes : k;
    for (index j = 0; j < count; j += N::lanes) {
      typename N::vector total{};
      if (previous == nullptr) {
        for (index l = 0; l < classes; ++l) {
          const auto value = N::read(columns + l * stride + j);
          total += value * value;
        }
      } else {
        const auto feature = N::read(previous + j);
        for (index l = 0; l < classes; ++l) {
          const auto value = N::read(columns + l * stride + j) - change[l] * feature;
          N::write(columns + l * stride + j, value);
          total += value * value;
        }
      }
      N::write(square + j, total);
    }
  }

  template <int Classes, typename S>
  static SPARSESVM_INLINE void accumulate_columns(const S* columns, index stride, index count, const S* factor, const S* bend,
                                                  const index* used, index n_used, index k, double* scores, double* block) {
    using N = Native<S>;
    if constexpr (Classes > 0) {
      typename N::vector score[Classes] = {}, curvature[Classes * (Classes + 1) / 2] = {};
      for (index j = 0; j < count; j += N::lanes) {
        typename N::vector row[Classes];
        const auto weight = N::read(factor + j), turn = N::read(bend + j);
        for (int a = 0; a < Classes; ++a) {
          row[a] = N::read(columns + a * stride + j);
          score[a] += weight * row[a];
        }
        if (n_used == 0) continue;
        for (int a = 0; a < Classes; ++a) {
          const auto turned = turn * row[a];
          for (int b = 0; b <= a; ++b) curvature[a * (a + 1) / 2 + b] += turned * row[b];
        }
      }
      for (int a = 0; a < Classes; ++a) {
        scores[a] += N::total(score[a]);
        for (int b = 0; n_used > 0 && b <= a; ++b) block[a * Classes + b] += N::total(curvature[a * (a + 1) / 2 + b]);
      }
    } else {
      for (index a = 0; a < k; a += 4) {
        const index rows = k - a < 4 ? k - a : 4;
        add_scores(columns + a * stride, stride, rows, count, factor, scores + a);
      }
      for (index a = 0; a < n_used; a += 4) {
        const index rows = n_used - a < 4 ? n_used - a : 4;
        for (index b = 0; b <= a; b += 4) {
          const index others = n_used - b < 4 ? n_used - b : 4;
          add_curvature(columns, stride, used + a, rows, used + b, others, count, bend, block, k);
        }
      }
    }
  }

  // scores[a] += <factor, row a>, for up to four rows.
  template <typename S>
  static SPARSESVM_INLINE void add_scores(const S* columns, index stride, index rows, index count, const S* factor, double* scores) {
    using N = Native<S>;
    typename N::vector total[4] = {};
    const S* row[4];
    for (index a = 0; a < 4; ++a) row[a] = columns + (a < rows ? a : 0) * stride;
    for (index j = 0; j < count; j += N::lanes) {
      const auto weight = N::read(factor + j);
      for (index a = 0; a < 4; ++a) total[a] += weight * N::read(row[a] + j);
    }
    const FourSums sums = N::four_totals(total[0], total[1], total[2], total[3]);
    for (index a = 0; a < rows; ++a) scores[a] += sums[a];
  }

  // block[a * k + b] += <bend, row a row b>, for up to four a and four b.
  template <typename S>
  static SPARSESVM_INLINE void add_curvature(const S* columns, index stride, const index* left, index rows, const index* right,
                                             index others, index count, const S* bend, double* block, index k) {
    using N = Native<S>;
    typename N::vector total[4][4] = {};
    const S *row[4], *other[4];
    for (index a = 0; a < 4; ++a) {
      row[a] = columns + left[a < rows ? a : 0] * stride;
      other[a] = columns + right[a < others ? a : 0] * stride;
    }
    for (index j = 0; j < count; j += N::lanes) {
      const auto turn = N::read(bend + j);
      typename N::vector value[4];
      for (index b = 0; b < 4; ++b) value[b] = N::read(other[b] + j);
      for (index a = 0; a < 4; ++a) {
        const auto turned = turn * N::read(row[a] + j);
        for (index b = 0; b < 4; ++b) total[a][b] += turned * value[b];
      }
    }
    for (index a = 0; a < rows; ++a) {
      const FourSums sums = N::four_totals(total[a][0], total[a][1], total[a][2], total[a][3]);
      for (index b = 0; b < others; ++b) block[left[a] * k + right[b]] += sums[b];
    }
  }

  template <int Rows, typename T, typename S>
  static SPARSESVM_INLINE void products_by_columns(const T* const* left, const S* right, index right_stride, index columns,
                                                   index length, double scale, double* out, index out_stride) {
    switch (columns) {
      case 1: products_block<Rows, 1>(left, right, right_stride, length, scale, out, out_stride); break;
      case 2: products_block<Rows, 2>(left, right, right_stride, length, scale, out, out_stride); break;
      case 3: products_block<Rows, 3>(left, right, right_stride, length, scale, out, out_stride); break;
      default: products_block<Rows, 4>(left, right, right_stride, length, scale, out, out_stride);
    }
  }

  template <int Rows, int Columns, typename T, typename S>
  static SPARSESVM_INLINE void products_block(const T* const* left, const S* right, index right_stride, index length, double scale,
                                              double* out, index out_stride) {
    using N = Native<S>;
    typename N::vector acc[Rows][4] = {};  // columns that are not there stay zero
    index j = 0;
    for (; j + N::lanes <= length; j += N::lanes) {
      typename N::vector columns[Columns];
      for (int b = 0; b < Columns; ++b) columns[b] = N::read(right + b * right_stride + j);
      for (int a = 0; a < Rows; ++a) {
        const auto row = N::read(left[a] + j);
        for (int b = 0; b < Columns; ++b) acc[a][b] += row * columns[b];
      }
    }
    if (j < length) {
      const index rest = length - j;
      typename N::vector columns[Columns];
      for (int b = 0; b < Columns; ++b) columns[b] = N::read_first(right + b * right_stride + j, rest);
      for (int a = 0; a < Rows; ++a) {
        const auto row = N::read_first(left[a] + j, rest);
        for (int b = 0; b < Columns; ++b) acc[a][b] += row * columns[b];
      }
    }
    for (int a = 0; a < Rows; ++a) {
      const FourSums total = N::four_totals(acc[a][0], acc[a][1], acc[a][2], acc[a][3]);
      for (int b = 0; b < Columns; ++b) out[a * out_stride + b] += scale * total[b];
    }
  }

  template <int Classes, typename T, typename S>
  static SPARSESVM_INLINE void combine_tile(const T* const* rows, index n, const double* coefficients, index k, index j, S* out,
                                            index out_stride) {
    using N = Native<S>;
    typename N::vector acc[Classes][column_tile_vectors] = {};
    for (index i = 0; i < n; ++i) {
      typename N::vector features[column_tile_vectors];
      for (int u = 0; u < column_tile_vectors; ++u) features[u] = N::read(rows[i] + j + u * N::lanes);
      for (int l = 0; l < Classes; ++l) {
        const S c = static_cast<S>(coefficients[i * k + l]);
        for (int u = 0; u < column_tile_vectors; ++u) acc[l][u] += c * features[u];
      }
    }
    for (int l = 0; l < Classes; ++l)
      for (int u = 0; u < column_tile_vectors; ++u) N::write(out + l * out_stride + u * N::lanes, acc[l][u]);
  }
};

SPARSESVM_END
