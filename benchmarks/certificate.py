"""An independent duality gap in plain numpy, from the problem and an answer alone: nothing here knows the solver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.problems import Problem

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Certificate:
    """Bounds on the minimum of a problem, in units of the objective.

    Attributes:
        primal: the objective at the weights.
        dual: a lower bound on the minimum, from the dual given.
        total: the sum of the sample weights, which is the objective of the exact hinge at W = 0; `tol` is relative to it.
        rounding: how far the bounds may be off since weights and dual came rounded to their type and all sums are of float64.
    """

    primal: float
    dual: float
    total: float
    rounding: float

    @property
    def gap(self) -> float:
        """The duality gap relative to `total`, to be compared with `tol`."""
        return (self.primal - self.dual) / self.total

    def confirms(self, tol: float) -> bool:
        """Whether a gap of at most `tol` is true up to rounding."""
        return bool(self.gap <= tol + self.rounding / self.total)


def certify(problem: Problem, weights: ArrayLike, dual: ArrayLike) -> Certificate:
    """Certify `weights` (n_way, n_features) by `dual` (n_samples, n_way), a probability vector per sample up to rounding.

    The features are those the answer was found for: already rounded to float32 when the solver saw them so. For lambda2 = 0 the
    dual is moved towards the labels by the share min(1, lambda1 / max_G (||V_G|| / w_G)), which makes it feasible.
    """
    unit, unit_of_weights = (np.finfo(np.asarray(given).dtype).eps for given in (dual, weights))
    weights, dual = np.asarray(weights, dtype=np.float64), np.asarray(dual, dtype=np.float64)
    c, one_hot = problem.sample_weight[:, None], np.eye(problem.n_way)[problem.labels]
    smoothing = problem.dual_reg / problem.lambda2 if problem.dual_reg > 0 else 0.0
    margins = problem.features @ weights.T - one_hot
    response = _best_response(margins, one_hot, smoothing)
    loss = ((response - one_hot) * margins).sum(1) - smoothing / 2 * ((response - one_hot) ** 2).sum(1)
    norms = _group_norms(weights, problem.group_size)
    threshold = problem.lambda1 * (np.ones(len(norms)) if problem.group_weight is None else problem.group_weight)
    primal = problem.sample_weight @ loss + threshold @ norms + problem.lambda2 / 2 * (weights**2).sum()
    # What rounded weights add to it: each moved by half a unit, independently, in two scores of a sample.
    change = unit_of_weights / 2 * np.abs(weights)
    scores = np.sqrt(problem.features**2 @ (change**2).T)
    rounding = 2 * problem.sample_weight @ scores.max(1) + threshold @ _group_norms(change, problem.group_size)
    rounding += problem.lambda2 * np.sqrt(((weights * change) ** 2).sum())

    dual = np.maximum(dual, 0)
    dual /= dual.sum(1, keepdims=True)
    correlation = (c * (one_hot - dual)).T @ problem.features
    norms = _group_norms(correlation, problem.group_size)
    # What the rounded dual changes in V, each entry by half a unit, and with it in the bound; all roundings independent.
    change = unit / 2 * np.sqrt(((c * dual) ** 2).T @ problem.features**2)
    if problem.lambda2 > 0:
        excess = np.maximum(norms - threshold, 0)
        penalty = (excess**2).sum() / (2 * problem.lambda2)
        slope = np.repeat(excess, problem.group_size) / problem.lambda2
        rounding += np.sqrt(((slope * change) ** 2).sum()) + (change**2).sum() / (2 * problem.lambda2)
    else:
        share = min(1.0, 1 / (norms / threshold).max()) if norms.max() > 0 else 1.0
        unscaled = (c * one_hot * (1 - dual)).sum()
        dual = one_hot + share * (dual - one_hot)
        penalty = 0.0
        reach = np.sqrt((change**2).sum(0).reshape(-1, problem.group_size).sum(1)) / threshold
        rounding += min(reach.max(), 1 - share) * unscaled
    value = (c * (one_hot * (1 - dual))).sum() - smoothing / 2 * (c * (dual - one_hot) ** 2).sum() - penalty
    rounding += unit * np.sqrt(((c * dual) ** 2).sum()) + 1e2 * np.finfo(float).eps * (abs(primal) + abs(value) + penalty)
    return Certificate(float(primal), float(value), float(problem.sample_weight.sum()), float(3 * rounding))


def _best_response(margins: Array, one_hot: Array, smoothing: float) -> Array:
    """The probability vectors q that maximise <q, margins> - smoothing / 2 ||q - one_hot||^2, row by row."""
    if smoothing == 0:
        return np.eye(margins.shape[1])[margins.argmax(1)]
    x = one_hot + margins / smoothing
    x = x - x.max(1, keepdims=True)  # so that the thresholds below lose no digits
    ordered = -np.sort(-x, axis=1)
    thresholds = (np.cumsum(ordered, axis=1) - 1) / np.arange(1, x.shape[1] + 1)
    last = (ordered > thresholds).sum(1) - 1
    response: Array = np.maximum(x - np.take_along_axis(thresholds, last[:, None], axis=1), 0)
    return response


def _group_norms(columns: Array, group_size: int) -> Array:
    norms: Array = np.sqrt((columns**2).sum(0).reshape(-1, group_size).sum(1))
    return norms
