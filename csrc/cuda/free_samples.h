// The samples on which the smoothed hinge bends (core/svm/free_samples.h), their free dual entries, and products with the columns
// of a working set over them.
#pragma once

#include "cuda/passes.h"
#include "cuda/workspace.h"

SPARSESVM_BEGIN
namespace gpu {

// Lists the samples with two or more positive probabilities, and of each all its positive entries but the first, its base.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void collect_free(Team team, SolveWorkspace<T>& w) {
  const Task<T>& task = w.task;
  ProximalArrays<T>& s = w.proximal;
  const int k = task.k;
  team.sync_team();
  if (team.part() == 0) {
    for (int i = team.rank(); i < task.n; i += team.size()) {
      int support = 0;
      for (int l = 0; l < k; ++l) support += s.p[i * k + l] > 0;
      s.support[i] = support;
    }
    team.sync();
    const int count = list_where(team, task.n, [&](int i) { return s.support[i] > 1; }, s.free, task.counts);
    for (int f = team.rank(); f < count; f += team.size()) {
      const int support = s.support[s.free[f]];
      s.first[f] = support - 1;
      s.inverse[f] = 1.0 / support;
      s.free_weight[f] = task.weight[s.free[f]] / (task.smoothing + s.rho);
    }
    team.sync();
    add_before(team, s.first, count, task.counts);
    for (int f = team.rank(); f < count; f += team.size()) {
      int e = s.first[f], base = -1;
      for (int l = 0; l < k; ++l) {
        if (!(s.p[s.free[f] * k + l] > 0)) continue;
        if (base < 0) {
          base = l;
          continue;
        }
        s.coordinate_free[e] = f;
        s.coordinate_label[e++] = l;
      }
      s.base[f] = base;
    }
    if (team.rank() == 0) {
      s.count[0] = count;
      s.count[1] = s.first[count];
    }
  }
  team.sync_team();
  if (team.rank() == 0) {
    s.n_free = s.count[0];
    s.n_coordinates = s.count[1];
  }
  team.sync();
}

constexpr int column_tile = 4;  // columns that a warp sums up together, for class_tile classes each

// Groups of the working set: those listed, or its first ones.
struct Columns {
  const int* list;
  int count;
};

// Column c of the groups, over all samples.
template <typename T>
SPARSESVM_HD const T* column(const SolveWorkspace<T>& w, Columns set, int c) {
  const int g = w.task.g, at = set.list != nullptr ? set.list[c / g] * g + c % g : c;
  return w.proximal.columns + static_cast<index>(at) * w.task.n;
}

// out (count, k) = F x for x (columns, k), over the samples listed, or the first ones. Ends with a barrier of the team.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void score_columns(Team team, const SolveWorkspace<T>& w, Columns set, const double* x,
                                                   const int* samples, int count, double* out) {
  const int k = w.task.k, width = set.count * w.task.g;
  for (int e = team_rank(team); e < count * k; e += team_size(team)) {
    const int f = e % count, l = e / count, i = samples != nullptr ? samples[f] : f;
    double total = 0;
    for (int c = 0; c < width; ++c) total += static_cast<double>(column(w, set, c)[i]) * x[static_cast<index>(c) * k + l];
    out[f * k + l] = total;
  }
  team.sync_team();
}

// out (columns, k) = F' s for s (count, k). Ends with a barrier of the team.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void pull_columns(Team team, const SolveWorkspace<T>& w, Columns set, const double* s,
                                                  const int* samples, int count, double* out) {
  const int k = w.task.k, width = set.count * w.task.g, tiles = (width + column_tile - 1) / column_tile;
  for (int tile = team.part() * team.warps() + team.warp(); tile < tiles; tile += team.parts() * team.warps()) {
    const int top = tile * column_tile;
    const T* x[column_tile];
    SPARSESVM_UNROLL
    for (int c = 0; c < column_tile; ++c) x[c] = column(w, set, smaller(top + c, width - 1));
    for (int first = 0; first < k; first += class_tile) {
      double sums[column_tile * class_tile] = {};
      SPARSESVM_NO_UNROLL
      for (int f = team.lane(); f < count; f += lanes) {
        const int i = samples != nullptr ? samples[f] : f;
        double value[class_tile];
        SPARSESVM_UNROLL
        for (int l = 0; l < class_tile; ++l) value[l] = s[f * k + (first + l < k ? first + l : first)];
        SPARSESVM_UNROLL
        for (int e = 0; e < column_tile * class_tile; ++e) {
          sums[e] += static_cast<double>(x[e / class_tile][i]) * value[e % class_tile];
        }
      }
      const double total = team.warp_sums(sums);
      const int c = top + team.lane() / class_tile, l = first + team.lane() % class_tile;
      if (team.lane() < column_tile * class_tile && c < width && l < k) out[static_cast<index>(c) * k + l] = total;
    }
  }
  team.sync_team();
}

// image (columns, k) = F' S F x, S of a sample being w (diag(s) - s s' / |s|), s its support.
template <typename T, class Team>
SPARSESVM_HD SPARSESVM_NOINLINE void multiply_columns(Team team, const SolveWorkspace<T>& w, Columns set, const double* x,
                                                      double* image) {
  const ProximalArrays<T>& s = w.proximal;
  const int k = w.task.k;
  score_columns(team, w, set, x, s.free, s.n_free, s.bent);
  for (int f = team_rank(team); f < s.n_free; f += team_size(team)) {
    const double* p = s.p + s.free[f] * k;
    double* row = s.bent + f * k;
    double mean = 0;
    for (int l = 0; l < k; ++l) mean += p[l] > 0 ? row[l] : 0.0;
    mean *= s.inverse[f];
    for (int l = 0; l < k; ++l) row[l] = p[l] > 0 ? s.free_weight[f] * (row[l] - mean) : 0.0;
  }
  team.sync_team();
  pull_columns(team, w, set, s.bent, s.free, s.n_free, image);
}

}  // namespace gpu
SPARSESVM_END
