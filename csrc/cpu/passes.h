// Register-tiled passes over features, the part of the CPU solver where the time goes. Compiled once per instruction set.
//
// GCC vector extensions: `Vec` is as wide as the instruction set allows; features are read in their storage type and widened to
// double in registers, so float32 inputs lose nothing but their own rounding.
#pragma once

#include <cmath>

#include "core/macros.h"
#include "core/problem.h"

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
typedef float FloatVecUnaligned __attribute__((vector_size(4 * vector_lanes), aligned(4), may_alias));

SPARSESVM_INLINE Vec load(const double* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
SPARSESVM_INLINE Vec load(const float* p) {
  return __builtin_convertvector(*reinterpret_cast<const FloatVecUnaligned*>(p), Vec);
}
SPARSESVM_INLINE void store(double* p, Vec v) { *reinterpret_cast<VecUnaligned*>(p) = v; }
SPARSESVM_INLINE double sum(Vec v) {
#if defined(__AVX512F__)
  const auto four = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#elif defined(__AVX__)
  const auto four = v;
#endif
#if defined(__AVX__)
  const auto two = __builtin_shufflevector(four, four, 0, 1) + __builtin_shufflevector(four, four, 2, 3);
#else
  const auto two = v;
#endif
  return two[0] + two[1];
}

struct Passes {
  // out[a * out_stride + b] += scale * <left[a], right + b * right_stride>, for rows of the given length.
  template <typename T>
  static void add_products(const T* const* left, index n_left, const double* right, index right_stride, index n_right, index length,
                           double scale, double* out, index out_stride) {
    for (index a = 0; a < n_left; a += 4) {
      const index rows = n_left - a < 4 ? n_left - a : 4;
      for (index b = 0; b < n_right; b += 4) {
        const index columns = n_right - b < 4 ? n_right - b : 4;
        double* target = out + a * out_stride + b;
        const double* base = right + b * right_stride;
        switch (rows) {
          case 1: products_by_columns<1>(left + a, base, right_stride, columns, length, scale, target, out_stride); break;
          case 2: products_by_columns<2>(left + a, base, right_stride, columns, length, scale, target, out_stride); break;
          case 3: products_by_columns<3>(left + a, base, right_stride, columns, length, scale, target, out_stride); break;
          default: products_by_columns<4>(left + a, base, right_stride, columns, length, scale, target, out_stride);
        }
      }
    }
  }

  // Lower triangle (in blocks of four) of out += scale * rows rows', for `n` rows of the given length.
  static void add_rank_update(const double* rows, index n, index stride, index length, double scale, double* out, index out_stride) {
    for (index a = 0; a < n; a += 4) {
      const double* left[4];
      const index height = n - a < 4 ? n - a : 4;
      for (index i = 0; i < height; ++i) left[i] = rows + (a + i) * stride;
      add_products(left, height, rows, stride, a + height, length, scale, out + a * out_stride, out_stride);
    }
  }

  // out[l * out_stride + j] = sum_i coefficients[i * k + l] * rows[i][j]: the k x m matrix C'F, one read of the features.
  template <typename T>
  static void combine_rows(const T* const* rows, index n, const double* coefficients, index k, index m, double* out, index out_stride) {
    constexpr index tile = column_tile_vectors * vector_lanes;
    index j = 0;
    for (; j + tile <= m; j += tile) {
      for (index l = 0; l < k;) {
        const index classes = k - l <= 5 ? k - l : (k - l == 6 ? 3 : (k - l < 10 ? 4 : 5));
        double* target = out + l * out_stride + j;
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
    for (; j < m; ++j) {
      for (index l = 0; l < k; ++l) {
        double total = 0;
        for (index i = 0; i < n; ++i) total += coefficients[i * k + l] * static_cast<double>(rows[i][j]);
        out[l * out_stride + j] = total;
      }
    }
  }

  // What one block step reads from the columns of the working set: with f the features of the sample and V the k x width block,
  //   scores[l]        += sum_j factor_j f_j V_lj                  (factor: block soft-thresholding)
  //   block[a * k + b] += sum_j (1 - factor_j) / norm_j^2 f_j^2 V_aj V_bj, b <= a, over active columns, when `use_block`
  //   straight         += sum_j factor_j f_j^2
  //   safe             += sum_j f_j^2 over the columns with norm_j + reach |f_j| > lambda1
  // The number of classes is a template argument where it is small, so that the accumulators stay in registers; Classes = 0 reads k.
  template <int Classes>
  static void read_columns(const double* f, const double* v, index stride, index width, double lambda1, double reach, bool use_block,
                           index k, double* scores, double* block, double& straight, double& safe) {
    constexpr index tile = 64;
    double factor[tile], bend[tile];
    for (index first = 0; first < width; first += tile) {
      const index count = width - first < tile ? width - first : tile;
      const double* features = f + first;
      const double* columns = v + first;
      for (index j = 0; j < count; ++j) bend[j] = 0;
      for (index l = 0; l < (Classes > 0 ? Classes : k); ++l) {
        const double* row = columns + l * stride;
        for (index j = 0; j < count; ++j) bend[j] += row[j] * row[j];
      }
      double straight_sum = 0, safe_sum = 0;
#pragma omp simd reduction(+ : straight_sum, safe_sum)
      for (index j = 0; j < count; ++j) {
        const double square = bend[j], norm = std::sqrt(square), length = features[j] * features[j];
        const bool on = norm > lambda1;
        const double share = on ? 1 - lambda1 / (on ? norm : 1.0) : 0.0;
        factor[j] = share * features[j];
        bend[j] = on ? (1 - share) * length / (on ? square : 1.0) : 0.0;
        straight_sum += share * length;
        safe_sum += norm + reach * std::fabs(features[j]) > lambda1 ? length : 0.0;
      }
      straight += straight_sum;
      safe += safe_sum;
      if (Classes > 0) {
        accumulate_tile<Classes>(columns, stride, count, factor, bend, use_block, scores, block);
      } else {
        for (index a = 0; a < k; ++a) {
          const double* row = columns + a * stride;
          double total = 0;
#pragma omp simd reduction(+ : total)
          for (index j = 0; j < count; ++j) total += factor[j] * row[j];
          scores[a] += total;
          for (index b = 0; use_block && b <= a; ++b) {
            const double* other = columns + b * stride;
            double product = 0;
#pragma omp simd reduction(+ : product)
            for (index j = 0; j < count; ++j) product += bend[j] * row[j] * other[j];
            block[a * k + b] += product;
          }
        }
      }
    }
  }

 private:
  template <int Classes>
  static SPARSESVM_INLINE void accumulate_tile(const double* columns, index stride, index count, const double* factor, const double* bend,
                                               bool use_block, double* scores, double* block) {
    constexpr int size = Classes > 0 ? Classes : 1;
    Vec score[size], curvature[size * (size + 1) / 2];
    for (int a = 0; a < size; ++a) score[a] = Vec{};
    for (int e = 0; e < size * (size + 1) / 2; ++e) curvature[e] = Vec{};
    index j = 0;
    for (; j + vector_lanes <= count; j += vector_lanes) {
      Vec row[size];
      const Vec weight = load(factor + j), turn = load(bend + j);
      for (int a = 0; a < size; ++a) {
        row[a] = load(columns + a * stride + j);
        score[a] += weight * row[a];
      }
      if (!use_block) continue;
      for (int a = 0; a < size; ++a) {
        const Vec turned = turn * row[a];
        for (int b = 0; b <= a; ++b) curvature[a * (a + 1) / 2 + b] += turned * row[b];
      }
    }
    for (int a = 0; a < size; ++a) {
      double total = sum(score[a]);
      for (index rest = j; rest < count; ++rest) total += factor[rest] * columns[a * stride + rest];
      scores[a] += total;
      if (!use_block) continue;
      for (int b = 0; b <= a; ++b) {
        double product = sum(curvature[a * (a + 1) / 2 + b]);
        for (index rest = j; rest < count; ++rest) product += bend[rest] * columns[a * stride + rest] * columns[b * stride + rest];
        block[a * size + b] += product;
      }
    }
  }

  template <int Rows, typename T>
  static SPARSESVM_INLINE void products_by_columns(const T* const* left, const double* right, index right_stride, index columns,
                                                   index length, double scale, double* out, index out_stride) {
    switch (columns) {
      case 1: products_block<Rows, 1>(left, right, right_stride, length, scale, out, out_stride); break;
      case 2: products_block<Rows, 2>(left, right, right_stride, length, scale, out, out_stride); break;
      case 3: products_block<Rows, 3>(left, right, right_stride, length, scale, out, out_stride); break;
      default: products_block<Rows, 4>(left, right, right_stride, length, scale, out, out_stride);
    }
  }

  template <int Rows, int Columns, typename T>
  static SPARSESVM_INLINE void products_block(const T* const* left, const double* right, index right_stride, index length,
                                              double scale, double* out, index out_stride) {
    Vec acc[Rows][Columns];
    for (int a = 0; a < Rows; ++a)
      for (int b = 0; b < Columns; ++b) acc[a][b] = Vec{};
    index j = 0;
    for (; j + vector_lanes <= length; j += vector_lanes) {
      Vec columns[Columns];
      for (int b = 0; b < Columns; ++b) columns[b] = load(right + b * right_stride + j);
      for (int a = 0; a < Rows; ++a) {
        const Vec row = load(left[a] + j);
        for (int b = 0; b < Columns; ++b) acc[a][b] += row * columns[b];
      }
    }
    for (int a = 0; a < Rows; ++a) {
      for (int b = 0; b < Columns; ++b) {
        double total = sum(acc[a][b]);
        for (index rest = j; rest < length; ++rest) total += static_cast<double>(left[a][rest]) * right[b * right_stride + rest];
        out[a * out_stride + b] += scale * total;
      }
    }
  }

  template <int Classes, typename T>
  static SPARSESVM_INLINE void combine_tile(const T* const* rows, index n, const double* coefficients, index k, index j, double* out,
                                            index out_stride) {
    Vec acc[Classes][column_tile_vectors];
    for (int l = 0; l < Classes; ++l)
      for (int u = 0; u < column_tile_vectors; ++u) acc[l][u] = Vec{};
    for (index i = 0; i < n; ++i) {
      Vec features[column_tile_vectors];
      for (int u = 0; u < column_tile_vectors; ++u) features[u] = load(rows[i] + j + u * vector_lanes);
      for (int l = 0; l < Classes; ++l) {
        const double c = coefficients[i * k + l];
        for (int u = 0; u < column_tile_vectors; ++u) acc[l][u] += c * features[u];
      }
    }
    for (int l = 0; l < Classes; ++l)
      for (int u = 0; u < column_tile_vectors; ++u) store(out + l * out_stride + u * vector_lanes, acc[l][u]);
  }
};

SPARSESVM_END
