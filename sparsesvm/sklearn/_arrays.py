"""Arrays as the solvers take them: groups in consecutive columns, features centred and of one common scale."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

Groups = int | Sequence[int] | Sequence[Sequence[int]]

_MOST_PADDING = 16  # columns for a feature
_MUCH_MEMORY = 1e9  # bytes
_PER_COLUMN = 500  # numbers that the solver takes for a column, of some 20 classes


class Scaled(NamedTuple):
    """Features (x - mean) / scale as the solver takes them, and the way back.

    Attributes:
        features: (n_samples, width); width is that of the groups, all as wide as the largest, filled up with zero columns.
        columns: (n_features,), where each feature went.
        group_size: width of a group.
        mean: (n_features,), zeros where nothing was subtracted.
        scale: the root-mean-square norm of the samples less the mean.
        evenness: median variance of the features over mean variance; 1 of a sparse matrix, as of features that share a unit.
    """

    features: Tensor
    columns: NDArray[np.int64]
    group_size: int
    mean: NDArray[np.float64]
    scale: float
    evenness: float

    def coefficients(self, weights: Tensor, bias: Tensor | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients (..., n_classes, n_features) and intercepts (..., n_classes) of x itself."""
        coef = weights.double().cpu().numpy()[..., self.columns] / self.scale
        intercept = np.zeros(coef.shape[:-1]) if bias is None else bias.double().cpu().numpy() - coef @ self.mean
        return coef, intercept


def scale(X: Any, weight: NDArray[np.float64], groups: Groups, center: bool, device: str) -> Scaled:
    """Of an array or a CSR matrix (n_samples, n_features); the latter is scaled but not centred, which would fill it."""
    columns, group_size = place_groups(groups, X.shape[1])
    width = group_size * (int(columns.max()) // group_size + 1)
    n_values = width * (_PER_COLUMN if sparse.issparse(X) else X.shape[0])
    if width > _MOST_PADDING * X.shape[1] and 8 * n_values > _MUCH_MEMORY:
        raise ValueError(
            f"groups must not differ so much in size: each takes the memory of the largest, with {group_size} features, which "
            f"makes {width / X.shape[1]:.0f} times that of X. Split the largest."
        )
    share = weight / weight.sum()
    if sparse.issparse(X):
        return _scale_sparse(X, share, columns, group_size, width, device)
    mean = np.einsum("i,ij->j", share, X, dtype=np.float64) if center else np.zeros(X.shape[1])
    dense = X - mean.astype(X.dtype)
    if not np.array_equal(columns, np.arange(width)):
        dense, narrow = np.zeros((X.shape[0], width), X.dtype), dense
        dense[:, columns] = narrow
    variance = np.einsum("i,ij,ij->j", share, dense, dense, dtype=np.float64)[columns]
    size = np.sqrt(variance.sum()) or 1.0
    dense /= X.dtype.type(size)
    evenness = _evenness(variance, variance > (10 * np.finfo(X.dtype).eps * mean) ** 2, columns // group_size)
    return Scaled(torch.from_numpy(dense).to(device), columns, group_size, mean, float(size), evenness)


def _evenness(variance: NDArray[np.float64], varies: NDArray[np.bool_], group: NDArray[np.int64]) -> float:
    """Of features that vary, each taken as the mean of its group; what rounding leaves of a constant is no variance."""
    if not varies.any():
        return 1.0
    variance, group = variance[varies], group[varies]
    each = (np.bincount(group, variance) / np.maximum(np.bincount(group), 1))[group]
    return float(np.median(each) / each.mean())


def _scale_sparse(
    X: Any, share: NDArray[np.float64], columns: NDArray[np.int64], group_size: int, width: int, device: str
) -> Scaled:
    spread = float(share @ np.asarray(X.multiply(X).sum(1), dtype=np.float64).ravel())
    size = np.sqrt(spread) if spread > 0 else 1.0
    placed = sparse.csr_matrix((X.data / X.dtype.type(size), columns[X.indices], X.indptr), (X.shape[0], width), copy=False)
    placed.sum_duplicates()
    start, column = (torch.from_numpy(part.astype(np.int64)) for part in (placed.indptr, placed.indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        features = torch.sparse_csr_tensor(start, column, torch.from_numpy(placed.data), placed.shape, check_invariants=False)
    return Scaled(features.to(device), columns, group_size, np.zeros(X.shape[1]), float(size), 1.0)


def take(features: Tensor, columns: Tensor) -> Tensor:
    """Columns of features (n_samples, width), in the order given."""
    if features.layout == torch.strided:
        return features[:, columns]
    place = torch.full((features.shape[1],), -1)
    place[columns] = torch.arange(len(columns))
    column = place[features.col_indices()]
    kept = column >= 0
    start = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])[features.crow_indices()]
    return torch.sparse_csr_tensor(
        start, column[kept], features.values()[kept], (len(features), len(columns)), check_invariants=False
    )


def place_groups(groups: Groups, n_features: int) -> tuple[NDArray[np.int64], int]:
    """The column of each feature when every group takes as many as the largest has, and that number."""
    if isinstance(groups, (int, Integral)):
        if groups < 1 or n_features % groups:
            raise ValueError(f"groups must divide the {n_features} features of X where it is one size; got {groups}")
        return np.arange(n_features), int(groups)
    members = [np.atleast_1d(np.asarray(group)) for group in groups]
    if not members or any(group.dtype.kind not in "iu" or group.ndim != 1 for group in members):
        raise ValueError(f"groups must be a size, a list of sizes or a list of lists of feature numbers; got {groups!r}")
    if np.ndim(groups[0]) == 0:
        sizes = np.concatenate(members)
        if (sizes < 1).any() or sizes.sum() != n_features:
            raise ValueError(f"groups must hold positive sizes with sum {n_features}, the features of X; got sum {sizes.sum()}")
        members = np.split(np.arange(n_features), np.cumsum(sizes)[:-1])
    features = np.concatenate(members)
    if not np.array_equal(np.sort(features), np.arange(n_features)):
        raise ValueError(f"groups must hold each of the {n_features} features of X once; got {len(features)} entries")
    size = max(len(group) for group in members)
    columns = np.empty(n_features, dtype=np.int64)
    for number, group in enumerate(members):
        columns[group] = number * size + np.arange(len(group))
    return columns, size
