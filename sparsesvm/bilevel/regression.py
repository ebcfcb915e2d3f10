"""The inner problem of bi-level learning: batched sparse and ridge regression, differentiable in data and penalties."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsesvm import _checks, _ops
from sparsesvm._backends import USABLE_DEVICES
from sparsesvm.bilevel import _solve

__all__ = ["RegressionSolution", "lambda_max", "ridge_regression", "sparse_regression"]


class RegressionSolution(NamedTuple):
    """The solved regressions; `...` are the task dimensions of the features.

    Attributes:
        weights: (..., n_features) for targets (..., n_samples), (..., n_outputs, n_features) for targets
            (..., n_samples, n_outputs); exact zeros outside the active features. Differentiable with respect to features,
            targets, lambda1 and lambda2.
        gap: (...,) float64, the duality gap: an upper bound on the objective's distance from its minimum, absolute.
        objective: (...,) float64, the objective at the weights.
        n_iter: (...,) int64, working sets that were tried.
        status: (...,) int8, a `sparsesvm.StatusCode`.
        active: (..., n_features) bool, features with weights other than zero.
    """

    weights: Tensor
    gap: Tensor
    objective: Tensor
    n_iter: Tensor
    status: Tensor
    active: Tensor


torch.serialization.add_safe_globals([RegressionSolution])  # for torch.load with its default, weights_only


def sparse_regression(
    features: Tensor,
    targets: Tensor,
    *,
    lambda1: float | Tensor | None = None,
    lambda_ratio: float | Tensor | None = None,
    lambda2: float | Tensor = 0.0,
    tol: float = 1e-10,
    max_iter: int = 100,
    on_failure: str = "warn",
) -> RegressionSolution:
    """Lasso, elastic net or, with several outputs, group Lasso, one per task; exactly differentiable.

    Minimises over W (n_outputs x n_features), for each task with features F and targets Y,
        1 / (2 n_samples) ||Y - F W'||^2 + lambda1 sum_j ||W_:j|| + lambda2 / 2 ||W||^2.
    A feature's weights for all outputs are zero together. There is no intercept: centre features and targets if one is wanted.

    The loss is a mean over samples, as in scikit-learn: `Lasso(alpha)` is lambda1 = alpha; `ElasticNet(alpha, l1_ratio=r)`
    and, for several outputs, `MultiTaskElasticNet` are lambda1 = alpha r, lambda2 = alpha (1 - r).

    Args:
        features: (..., n_samples, n_features), float32 or float64 (half precision is upcast); differentiable.
        targets: (..., n_samples) or (..., n_samples, n_outputs), same dtype; differentiable.
        lambda1: number or tensor (...,), >= 0; differentiable. Exactly one of lambda1 and lambda_ratio is given.
        lambda_ratio: in [0, 1], stands for lambda1 = lambda_ratio * `lambda_max`; the gradient treats lambda_max as a
            constant.
        lambda2: number or tensor (...,), >= 0; differentiable. Positive where lambda1 is zero.
        tol: relative; a task has converged when its gap <= tol * ||Y||^2 / (2 n_samples), the objective at W = 0. The
            arithmetic is float64 also for float32 features.
        max_iter: limit on the number of working sets of each task.
        on_failure: "warn" (`ConvergenceWarning`), "raise" (`ConvergenceError`) or "ignore" when a task did not converge.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what was given.
        ConvergenceError: with on_failure="raise".
        NotImplementedError: when the weights are differentiated twice.

    Where active features are linearly dependent the weights are not unique: the gradient keeps the weight of a feature that
    depends on earlier ones fixed. A feature exactly on its threshold counts as inactive.

    On a CUDA device a block of threads solves each task, on the current stream and without waiting for the device, but where
    on_failure is "warn" or "raise": a CUDA graph can capture calls with "ignore". Tensors are not looked into there: a task with
    NaN, infinity, a penalty out of range or both penalties zero has status NON_FINITE, weights NaN and gradients NaN, other tasks
    are unharmed; and the gradient of a task that did not converge does not warn. With more than 2,048 weights in use the gradient
    comes from conjugate gradients, which for dependent features take the smallest change. This path is compiled and its logic
    tested on emulated blocks; it has not yet run on a device.

    Source: Lachapelle et al. 2023 (arXiv 2211.14666), the inner problem of the bi-level formulation. Formulas and
    certificate: docs/bilevel.md.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel import sparse_regression
        >>> features, targets = 2 * torch.eye(4), torch.tensor([1.0, -1.0, 0.1, 0.0])
        >>> sparse_regression(features, targets, lambda_ratio=0.5).weights
        tensor([ 0.2500, -0.2500,  0.0000,  0.0000])
    """
    features, targets, vector = _check_data(features, targets)
    _checks.check_device(features, USABLE_DEVICES)
    if (lambda1 is None) == (lambda_ratio is None):
        got = "neither" if lambda1 is None else "both"
        raise ValueError(f"exactly one of lambda1 and lambda_ratio is required; got {got}")
    _checks.check_penalty("lambda2", lambda2, features)
    tol, max_iter = _checks.check_number("tol", tol), _checks.check_integer("max_iter", max_iter, minimum=0)
    _checks.check_on_failure(on_failure)
    if lambda1 is not None:
        _checks.check_penalty("lambda1", lambda1, features)
        _checks.check_some_penalty("lambda1", lambda1, lambda2)
    else:
        assert lambda_ratio is not None
        _checks.check_ratio(lambda_ratio, features, "lambda_ratio")
        _checks.check_some_penalty("lambda_ratio", lambda_ratio, lambda2)
        largest = _largest_correlation(features.detach(), targets.detach())
        _check_representable(largest)
        # Zero where no feature is correlated with the targets: there any positive penalty keeps the weights at zero.
        lambda1 = lambda_ratio * largest.clamp(min=1e-200)
    penalties = _ops.per_task(lambda1, features), _ops.per_task(lambda2, features)
    solution = RegressionSolution(*_solve.apply(features, targets, *penalties, tol, max_iter, on_failure))
    return solution._replace(weights=solution.weights.squeeze(-2)) if vector else solution


def lambda_max(features: Tensor, targets: Tensor) -> Tensor:
    """The smallest lambda1 at which all weights are zero, max_j ||F_:j' Y|| / n_samples, for any lambda2: (...,).

    Args:
        features, targets: as in `sparse_regression`.

    Raises:
        TypeError, ValueError: as in `sparse_regression`.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel import lambda_max
        >>> lambda_max(2 * torch.eye(4), torch.tensor([1.0, -1.0, 0.1, 0.0]))
        tensor(0.5000)
    """
    features, targets, _ = _check_data(features, targets)
    exact = _largest_correlation(features, targets)
    _check_representable(exact)
    largest = exact.to(features.dtype)
    if not largest.is_cuda and ((largest == 0) != (exact == 0)).any() | largest.isinf().any():
        raise ValueError(
            f"features and targets must be of torch.float64 where lambda_max leaves {features.dtype}; convert with .double()"
        )
    return largest


def ridge_regression(
    features: Tensor, targets: Tensor, *, lambda2: float | Tensor | None = None, lambda_ratio: float | Tensor | None = None
) -> Tensor:
    """Ridge regression in closed form, one per task: weights shaped as in `RegressionSolution`.

    Minimises 1 / (2 n_samples) ||Y - F W'||^2 + lambda2 / 2 ||W||^2; scikit-learn's `Ridge(alpha, fit_intercept=False)` has
    alpha = n_samples * lambda2. Plain torch: differentiable any number of times.

    Args:
        features, targets: as in `sparse_regression`.
        lambda2: number or tensor (...,), > 0. Exactly one of lambda2 and lambda_ratio is given.
        lambda_ratio: > 0, stands for lambda2 = lambda_ratio * ||F||^2 / n_samples, the squared norm treated as a constant.

    Raises:
        TypeError, ValueError: naming the argument, what was required and what was given.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel import ridge_regression
        >>> ridge_regression(2 * torch.eye(4), torch.tensor([1.0, -1.0, 0.1, 0.0]), lambda2=1.0)
        tensor([ 0.2500, -0.2500,  0.0250,  0.0000])
    """
    features, targets, vector = _check_data(features, targets)
    if (lambda2 is None) == (lambda_ratio is None):
        got = "neither" if lambda2 is None else "both"
        raise ValueError(f"exactly one of lambda2 and lambda_ratio is required; got {got}")
    n_samples, n_features = features.shape[-2:]
    exact = features.double()  # products of large and of small single-precision numbers leave its range
    if lambda2 is not None:
        _checks.check_penalty("lambda2", lambda2, features, positive=True)
        if isinstance(lambda2, Tensor):
            _checks.check_penalty_range("lambda2", lambda2, positive=True)
    else:
        assert lambda_ratio is not None
        _checks.check_penalty("lambda_ratio", lambda_ratio, features, positive=True)
        if isinstance(lambda_ratio, Tensor):
            _checks.check_penalty_range("lambda_ratio", lambda_ratio, positive=True)
        lambda2 = lambda_ratio * exact.detach().square().sum((-2, -1)) / n_samples
    ridge = lambda2 if not isinstance(lambda2, Tensor) else lambda2.double()[..., None, None]
    identity = torch.eye(min(n_samples, n_features), dtype=torch.float64, device=features.device)
    name = "lambda2" if lambda_ratio is None else "lambda_ratio"
    if n_features <= n_samples:
        moments = exact.mT @ exact / n_samples + ridge * identity
        weights = _checks.solve_linear(moments, exact.mT @ targets.double() / n_samples, name).mT
    else:
        kernel = exact @ exact.mT / n_samples + ridge * identity
        weights = (exact.mT @ _checks.solve_linear(kernel, targets.double() / n_samples, name)).mT
    weights = weights.to(features.dtype)
    _check_representable(weights)
    return weights.squeeze(-2) if vector else weights


def _check_data(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Features and targets (..., n_samples, n_outputs) in at least single precision; whether the targets came as a vector."""
    _checks.check_features(features)
    if not isinstance(targets, Tensor):
        raise TypeError(f"targets must be a torch.Tensor; got {type(targets).__name__}. Convert with torch.as_tensor.")
    if targets.dtype != features.dtype:
        raise TypeError(
            f"targets must have the dtype of features, {features.dtype}; got {targets.dtype}. "
            "Convert with targets.to(features.dtype)."
        )
    if targets.device != features.device:
        raise TypeError(f"targets must be on the device of features, {features.device}; got {targets.device}")
    samples = tuple(features.shape[:-1])
    vector = tuple(targets.shape) == samples
    if not vector and (tuple(targets.shape[:-1]) != samples or targets.shape[-1] == 0):
        raise ValueError(
            f"targets must have shape {samples} or {(*samples, 'n_outputs')} to match features {tuple(features.shape)}; "
            f"got {tuple(targets.shape)}"
        )
    if vector:
        targets = targets.unsqueeze(-1)
    if features.element_size() < 4:
        features, targets = features.float(), targets.float()
    return features, targets, vector


def _largest_correlation(features: Tensor, targets: Tensor) -> Tensor:
    """max_j ||F_:j' Y|| / n, rounded up by the bound on the rounding error; in float64, which products of large and of small
    single-precision numbers do not leave."""
    n_samples = features.shape[-2]
    correlation = features.double().mT @ targets.double() / n_samples
    largest: Tensor = correlation.norm(dim=-1).amax(-1)
    return largest * (1 + 4 * n_samples * torch.finfo(torch.float64).eps)


def _check_representable(values: Tensor) -> None:
    _checks.check_finite("features and targets, and what comes of their products,", values, "rescale what overflows")
