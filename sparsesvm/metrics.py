"""How well a learnt representation recovers known factors: MCC, R and DCI.

All take `factors` (n_samples, n_factors) and `codes` (n_samples, n_codes), tensors or arrays: the true factors and the learnt
representation of the same samples, more than codes for the regressions of R and DCI. Constant columns correlate with nothing.
Computed in float64, in any unit. Needs `sparsesvm[bilevel]`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment

__all__ = ["DCI", "correlations", "dci", "importance_scores", "linear_r", "matching", "mcc", "sparsity"]

Array = npt.NDArray[np.float64]
Samples = torch.Tensor | npt.ArrayLike


def correlations(factors: Samples, codes: Samples) -> Array:
    """Absolute Pearson correlations, (n_factors, n_codes).

    Example:
        >>> from sparsesvm import metrics
        >>> metrics.correlations([[0.0], [1.0], [2.0]], [[3.0, 1.0], [2.0, 1.0], [1.0, 1.0]]).round(6)
        array([[1., 0.]])
    """
    z, h = _standardized(factors, "factors"), _standardized(codes, "codes")
    _check_same_samples(z, h)
    return np.minimum(np.abs(z.T @ h) / len(z), 1.0)


def matching(factors: Samples, codes: Samples) -> npt.NDArray[np.int64]:
    """The code assigned to each factor, (n_factors,): no code twice, with the largest total absolute correlation.

    Raises:
        ValueError: when there are fewer codes than factors.

    Example:
        >>> from sparsesvm import metrics
        >>> metrics.matching([[0, 1], [1, 3], [2, 2]], [[1, 0], [3, 1], [2, 2]])
        array([1, 0])
    """
    table = correlations(factors, codes)
    if table.shape[1] < table.shape[0]:
        raise ValueError(f"codes must have at least as many columns as factors, {table.shape[0]}; got {table.shape[1]}")
    return np.asarray(linear_sum_assignment(-table)[1], dtype=np.int64)


def mcc(factors: Samples, codes: Samples) -> float:
    """Mean correlation coefficient in [0, 1]: mean absolute Pearson correlation of factors and codes under the best one-to-one
    assignment (Hungarian algorithm). One iff every factor is, up to scale and sign, a code of its own.

    Example:
        >>> from sparsesvm import metrics
        >>> factors = [[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]]
        >>> round(metrics.mcc(factors, [[10 - b, 5 * a] for a, b in factors]), 6)  # order, sign and scale do not matter
        1.0
    """
    table = correlations(factors, codes)
    return float(table[np.arange(len(table)), matching(factors, codes)].mean())


def linear_r(factors: Samples, codes: Samples) -> float:
    """Linear identifiability in [0, 1]: mean over factors of the multiple correlation sqrt(R^2) of the factor's least-squares
    regression, with intercept, on all codes. An upper bound of `mcc`.

    Example:
        >>> import torch
        >>> from sparsesvm import metrics
        >>> factors = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> mixed = factors @ torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> round(metrics.linear_r(factors, mixed), 6), metrics.mcc(factors, mixed) < 0.9
        (1.0, True)
    """
    z, h = _standardized(factors, "factors"), _standardized(codes, "codes")
    residual = z - h @ _regress(z, h)
    total = (z**2).sum(0)
    explained = 1 - (residual**2).sum(0) / np.where(total > 0, total, 1)
    return float(np.sqrt(np.clip(np.where(total > 0, explained, 0), 0, 1)).mean())


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each in [0, 1]."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(factors: Samples, codes: Samples, *, weighted: bool = True) -> DCI:
    """Disentanglement, completeness and informativeness with linear importances.

    The importance of a code for a factor is the absolute coefficient of the factor's linear regression on the codes, both
    standardised. A code's disentanglement is one minus the entropy (base n_factors) of its importances over factors, a factor's
    completeness one minus the entropy (base n_codes) of its importances over codes; see `importance_scores` for the averages.
    Informativeness is the mean R^2 of the regressions, on the samples given, clipped to [0, 1].

    Args:
        weighted: True for the standard averages, weighted by each code's (factor's) share of all importance (Eastwood and
            Williams 2018); False for the plain means of Lachapelle et al. 2023, in which codes that are not used count in full.

    Example:
        >>> import torch
        >>> from sparsesvm import metrics
        >>> factors = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> scores = metrics.dci(factors, -2 * factors)
        >>> [round(score, 6) for score in scores]
        [1.0, 1.0, 1.0]
    """
    z, h = _standardized(factors, "factors"), _standardized(codes, "codes")
    coefficients = _regress(z, h)
    disentanglement, completeness = importance_scores(np.abs(coefficients), weighted=weighted)
    total = (z**2).sum(0)
    explained = 1 - ((z - h @ coefficients) ** 2).sum(0) / np.where(total > 0, total, 1)
    return DCI(disentanglement, completeness, float(np.clip(np.where(total > 0, explained, 0), 0, 1).mean()))


def importance_scores(importance: Samples, *, weighted: bool = True) -> tuple[float, float]:
    """Disentanglement and completeness of importances (n_codes, n_factors) >= 0, with any way of measuring them.

    A code (factor) without any importance scores zero. With a single factor every code in use is disentangled, with a single
    code every factor in use is complete.

    Example:
        >>> from sparsesvm import metrics
        >>> metrics.importance_scores([[1.0, 0.0], [0.0, 1.0]])
        (1.0, 1.0)
    """
    table = _as_array(importance, "importance")
    if (table < 0).any():
        raise ValueError(f"importance must be >= 0; got minimum {table.min():.3g}")
    table = table / (table.max() or 1.0)  # sums of the largest numbers leave their range
    return _mean_concentration(table, weighted), _mean_concentration(table.T, weighted)


def sparsity(weights: Samples) -> float:
    """Share of exact zeros among the weights of task predictors, (..., n_features).

    Example:
        >>> from sparsesvm import metrics
        >>> metrics.sparsity([[0.0, 1.0], [0.0, 0.0]])
        0.75
    """
    values = weights.detach() if isinstance(weights, torch.Tensor) else torch.from_numpy(np.array(weights))
    return float((values == 0).double().mean())


def _mean_concentration(table: Array, weighted: bool) -> float:
    """Mean over rows of one minus the entropy of the row's shares."""
    sums = table.sum(1)
    shares = table / np.where(sums > 0, sums, 1)[:, None]
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1) / np.log(max(table.shape[1], 2))
    scores = np.where(sums > 0, 1 - entropy, 0.0)
    if not weighted:
        return float(scores.mean())
    return float((scores * sums).sum() / sums.sum()) if sums.sum() > 0 else 0.0


def _standardized(values: Samples, name: str) -> Array:
    """Columns with mean zero and variance one; constant ones zero."""
    array = _as_array(values, name)
    largest = np.abs(array).max(0)
    array = array / np.where(largest > 0, largest, 1.0)  # squares of the largest and the smallest numbers leave their range
    array = array - array.mean(0)
    scale = array.std(0)
    constant = scale <= 1e-12  # what rounding leaves of a constant column is no signal
    return np.where(constant, 0.0, array / np.where(constant, 1.0, scale))


def _regress(z: Array, h: Array) -> Array:
    """Coefficients (n_codes, n_factors) of the factors' least-squares regressions on the codes, both standardised."""
    _check_same_samples(z, h)
    coefficients, _, rank, _ = np.linalg.lstsq(h, z, rcond=None)
    if len(z) <= rank + 1:
        raise ValueError(
            f"codes must have a smaller rank than their samples less one, {len(z) - 1}; got {rank}: a regression fits any factor "
            "on so many. Use more samples."
        )
    return np.asarray(coefficients)


def _as_array(values: Samples, name: str) -> Array:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    array = np.asarray(values)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have shape (rows, columns), neither zero; got {array.shape}")
    if np.iscomplexobj(array) or np.ma.is_masked(values):
        raise ValueError(f"{name} must be real numbers without a mask; got {array.dtype}")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got NaN or infinity")
    return array


def _check_same_samples(factors: Array, codes: Array) -> None:
    if len(factors) != len(codes):
        raise ValueError(f"codes must hold the samples of factors, {len(factors)}; got {len(codes)}")
    if len(factors) < 3:
        raise ValueError(f"factors and codes must hold at least 3 samples, as any two correlate fully; got {len(factors)}")
