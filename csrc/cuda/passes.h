// Passes over features by a team: products with the feature matrix from both sides, and rank updates from panels of columns.
#pragma once

#include "cuda/task.h"
#include "cuda/team.h"

SPARSESVM_BEGIN
namespace gpu {

constexpr int class_tile = 5;  // accumulators per column: tasks of up to five classes read the features once

// out[l * m + j] = sum_i coefficients[i * k + l] rows[i][j] for the columns given; S is the precision of sums and result.
template <typename S, typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void combine_rows(Team block, Rows<T> rows, int n, const S* coefficients, int k, int m,
                                                  Range columns, S* out) {
  for (int first = 0; first < k; first += class_tile) {
    for (int j = columns.begin + block.rank(); j < columns.end; j += 2 * block.size()) {
      const bool both = j + block.size() < columns.end;
      const int j2 = both ? j + block.size() : j;
      S left[class_tile] = {}, right[class_tile] = {};
      for (int i = 0; i < n; ++i) {
        const T* row = rows[i];
        const S a = static_cast<S>(row[j]), b = static_cast<S>(row[j2]);
        SPARSESVM_UNROLL
        for (int c = 0; c < class_tile; ++c) {
          const S coefficient = first + c < k ? coefficients[i * k + first + c] : S(0);
          left[c] += coefficient * a;
          right[c] += coefficient * b;
        }
      }
      SPARSESVM_UNROLL
      for (int c = 0; c < class_tile; ++c) {
        if (first + c >= k) continue;
        out[static_cast<index>(first + c) * m + j] = left[c];
        if (both) out[static_cast<index>(first + c) * m + j2] = right[c];
      }
    }
  }
}

// The chunks' shares of rows W' for rows first_row .. first_row + n - 1: partial[(chunk * n + i) * k + l]. A warp takes four rows
// times one chunk.
template <typename S, typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void multiply_rows(Team block, const Task<T>& task, Rows<T> rows, int first_row, int n, const S* w,
                                                   S* partial) {
  const int k = task.k;
  constexpr int height = 4;
  const Range chunks = task.own_chunks(block);
  const int tiles = (n + height - 1) / height;
  for (int item = block.warp(); item < tiles * (chunks.end - chunks.begin); item += block.warps()) {
    const int chunk = chunks.begin + item / tiles, top = item % tiles * height;
    const Range columns = task.columns(task.groups_of_chunks({chunk, chunk + 1}));
    const T* row[height];
    SPARSESVM_UNROLL
    for (int r = 0; r < height; ++r) row[r] = rows[first_row + (top + r < n ? top + r : n - 1)];
    for (int first = 0; first < k; first += class_tile) {
      S sums[height * class_tile] = {};
      SPARSESVM_NO_UNROLL  // the sums leave no registers for more than one column's features
          for (int j = columns.begin + block.lane(); j < columns.end; j += lanes) {
        S value[class_tile];
        SPARSESVM_UNROLL
        for (int c = 0; c < class_tile; ++c) value[c] = w[static_cast<index>(first + c < k ? first + c : first) * task.m + j];
        SPARSESVM_UNROLL
        for (int r = 0; r < height; ++r) {
          const S feature = static_cast<S>(row[r][j]);
          SPARSESVM_UNROLL
          for (int c = 0; c < class_tile; ++c) sums[r * class_tile + c] += feature * value[c];
        }
      }
      const S total = block.warp_sums(sums);
      const int r = block.lane() / class_tile, l = first + block.lane() % class_tile;
      if (r < height && top + r < n && l < k) partial[(static_cast<index>(chunk) * n + top + r) * k + l] = total;
    }
  }
}

// Entry e of the sum over chunks, e = i * k + l.
template <typename S>
SPARSESVM_HD double add_chunks(const S* partial, int n_chunks, int n, int k, int e) {
  double total = 0;
  for (int chunk = 0; chunk < n_chunks; ++chunk) total += static_cast<double>(partial[static_cast<index>(chunk) * n * k + e]);
  return total;
}

// out[a * out_stride + b] += sum_p weight[p] panel[p * stride + a] panel[p * stride + b], both triangles, by `workers` threads of
// which this is `worker`. Each takes a tile of 4 x 4 entries at a time: rows ta + r * tiles, so that neighbours read neighbouring
// addresses.
SPARSESVM_HD SPARSESVM_NOINLINE inline void add_rank_update(int worker, int workers, const double* panel, int stride,
                                                            const double* weight, int length, int rows, double* out,
                                                            int out_stride) {
  const int tiles = (rows + 3) / 4;
  const int pairs = tiles * (tiles + 1) / 2;
  for (int pair = worker; pair < pairs; pair += workers) {
    int ta = static_cast<int>((sqrtf(8.0f * static_cast<float>(pair) + 1) - 1) * 0.5f);
    while (ta * (ta + 1) / 2 > pair) --ta;
    while ((ta + 1) * (ta + 2) / 2 <= pair) ++ta;
    const int tb = pair - ta * (ta + 1) / 2;
    int at[4], bt[4];
    SPARSESVM_UNROLL
    for (int r = 0; r < 4; ++r) {
      at[r] = ta + r * tiles < rows ? ta + r * tiles : rows - 1;
      bt[r] = tb + r * tiles < rows ? tb + r * tiles : rows - 1;
    }
    double sums[16] = {};
    for (int p = 0; p < length; ++p) {
      const double* column = panel + static_cast<index>(p) * stride;
      const double scale = weight[p];
      double a[4], b[4];
      SPARSESVM_UNROLL
      for (int r = 0; r < 4; ++r) {
        a[r] = scale * column[at[r]];
        b[r] = column[bt[r]];
      }
      SPARSESVM_UNROLL
      for (int e = 0; e < 16; ++e) sums[e] += a[e / 4] * b[e % 4];
    }
    SPARSESVM_UNROLL
    for (int e = 0; e < 16; ++e) {
      const int a = ta + e / 4 * tiles, b = tb + e % 4 * tiles;
      if (a >= rows || b >= rows) continue;
      out[static_cast<index>(a) * out_stride + b] += sums[e];
      if (ta != tb) out[static_cast<index>(b) * out_stride + a] += sums[e];
    }
  }
}

}  // namespace gpu
SPARSESVM_END
