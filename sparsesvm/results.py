"""What a solve returns: the solution, its status codes, and how a failure is reported."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["ConvergenceError", "ConvergenceWarning", "NoFeaturesWarning", "RegularizationPath", "Solution", "StatusCode"]


class ConvergenceWarning(UserWarning):
    """A task stopped before its duality gap reached the tolerance, or a gradient is not exact or not the only one."""


class NoFeaturesWarning(UserWarning):
    """A `lambda1_ratio` below 1 left every task of a call without features."""


class ConvergenceError(RuntimeError):
    """A task stopped before its duality gap reached the tolerance, with `on_failure="raise"`."""


class StatusCode(IntEnum):
    """How a task ended; `sentence` says it in words."""

    CONVERGED = 0
    MAX_ITER = 1
    STALLED = 2
    NON_FINITE = 3
    NOT_IDENTIFIED = 4
    NOT_UNIQUE = 5

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    StatusCode.CONVERGED: "the duality gap is within the tolerance",
    StatusCode.MAX_ITER: "stopped at the iteration limit; raise max_iter, tol or lambda2",
    StatusCode.STALLED: "stopped where rounding allows no further progress; raise tol or lambda2",
    StatusCode.NON_FINITE: (
        "the features of present samples, or a regression's targets, hold NaN or infinity, or on a CUDA device labels, "
        "weights or penalties are out of range; the weights are NaN"
    ),
    StatusCode.NOT_IDENTIFIED: (
        "the duality gap is within the tolerance, but which groups or dual entries are active is not decided there, as at a kink "
        "or where the dual is not unique: the gradient is one of several"
    ),
    StatusCode.NOT_UNIQUE: (
        "the duality gap is within the tolerance, but with lambda2 = 0 other weights may do as well: they have no gradient"
    ),
}


def unconverged(status: Tensor) -> Tensor:
    """Where the duality gap stayed above the tolerance."""
    return (status != StatusCode.CONVERGED) & (status < StatusCode.NOT_IDENTIFIED)


class Solution(NamedTuple):
    """The solved tasks; `...` are the task dimensions of the features.

    Attributes:
        weights: (..., n_way, n_features), exact zeros outside the active groups; differentiable with respect to
            features, lambda1, lambda2 and sample_weight.
        dual: (..., n_support, n_way), a probability vector per sample; where it is not unique, one of them.
        gap: (...,) float64, the duality gap at (weights, dual): an upper bound on the objective's distance from its
            minimum, absolute, in units of the objective.
        objective: (...,) float64, the objective at the weights: a sum over samples plus penalties.
        n_iter: (...,) int64, outer iterations.
        status: (...,) int8, a `StatusCode`.
        active: (..., n_features / group_size) bool, groups with weights other than zero.
    """

    weights: Tensor
    dual: Tensor
    gap: Tensor
    objective: Tensor
    n_iter: Tensor
    status: Tensor
    active: Tensor

    def __repr__(self) -> str:
        return f"Solution({_summary(self)})"


class RegularizationPath(NamedTuple):
    """Solutions along decreasing lambda1; every field has a leading axis of the penalties.

    Attributes:
        lambda1: (n_lambdas, ...), decreasing.
        solution: `Solution` with fields (n_lambdas, ..., *).
    """

    lambda1: Tensor
    solution: Solution

    def __repr__(self) -> str:
        return f"RegularizationPath({self.lambda1.shape[0]} penalties: {_summary(self.solution)})"


def _summary(solution: Solution) -> str:
    """One line; of tensors that cannot be looked at, their shapes."""
    *tasks, n_way, n_features = solution.weights.shape
    text = f"{math.prod(tasks)} task{'s' if math.prod(tasks) != 1 else ''}, {n_way} classes, {n_features} features"
    try:
        share, largest = float(solution.active.double().mean()), float(solution.gap.max())
        counts = torch.bincount(solution.status.flatten().long(), minlength=1).tolist()
    except RuntimeError:  # mapped, compiling, or no task
        return text
    text += f"; {100 * share:.3g} % active; largest gap {largest:.1e}"
    states = {StatusCode(code).name.lower(): count for code, count in enumerate(counts) if count}
    if set(states) == {"converged"}:
        return f"{text}; all converged" if math.prod(tasks) != 1 else f"{text}; converged"
    return f"{text}; " + ", ".join(f"{count} {name}" for name, count in states.items())


torch.serialization.add_safe_globals([Solution, RegularizationPath, StatusCode])  # for torch.load with its default, weights_only
