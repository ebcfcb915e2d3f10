// Dense matrices from columns of features, a panel of groups at a time.
#pragma once

#include <cmath>

#include "cuda/passes.h"
#include "cuda/workspace.h"

SPARSESVM_BEGIN
namespace gpu {

// Transposes the features of `filled` groups, from list[first] on, into the panel.
template <typename T, class Team>
SPARSESVM_HD void load_columns(Team team, const Task<T>& task, const PanelArrays& panel, int first, int filled) {
  const int n = task.n, g = task.g;
  const int total = filled * g * n;
  for (int e = team_rank(team); e < total; e += team_size(team)) {
    const int c = e / n, i = e % n;
    const index from = static_cast<index>(panel.list[first + c / g]) * g + c % g;
    panel.column[e] = static_cast<double>(task.rows[i][from]);
  }
}

// Lists all groups, or those with flags[b] == wanted; every block gets the number. Ends with a barrier of the team.
template <typename T, class Team>
SPARSESVM_HD int list_groups(Team team, const Task<T>& task, const PanelArrays& panel, const char* flags, char wanted) {
  team.sync_team();
  if (team.part() == 0) {
    const int count = list_flagged(team, flags, wanted, task.n_groups, panel.list, task.counts);
    if (team.rank() == 0) panel.count[0] = count;
  }
  team.sync_team();
  return panel.count[0];
}

// Largest eigenvalue of a symmetric positive semidefinite matrix by power iteration from a fixed start, with 2 % to spare; `x` and
// `y` have `size` entries. By one block.
template <class Team>
SPARSESVM_HD double largest_eigenvalue(Team block, const double* matrix, int size, double* x, double* y) {
  for (int i = block.rank(); i < size; i += block.size())
    x[i] = 1 + 1e-3 * static_cast<double>(static_cast<unsigned>(i) * 2654435761u >> 20);
  double value = 0;
  for (int step = 0; step < 60; ++step) {
    block.sync();
    double norm = 0;
    for (int i = block.rank(); i < size; i += block.size()) norm += x[i] * x[i];
    norm = sqrt(block.sum(norm));
    if (!(norm > 0)) break;
    for (int i = block.warp(); i < size; i += block.warps()) {
      double total = 0;
      for (int j = block.lane(); j < size; j += lanes) total += matrix[static_cast<index>(i) * size + j] * x[j];
      total = block.warp_sum(total);
      if (block.lane() == 0) y[i] = total / norm;
    }
    block.sync();
    double next = 0;
    for (int i = block.rank(); i < size; i += block.size()) {
      next += y[i] * y[i];
      x[i] = y[i];
    }
    next = sqrt(block.sum(next));
    const bool settled = fabs(next - value) <= 1e-4 * next;
    value = next;
    if (settled) break;
  }
  return 1.02 * value;
}

}  // namespace gpu
SPARSESVM_END
