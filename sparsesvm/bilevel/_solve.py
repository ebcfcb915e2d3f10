"""The compiled sparse regression as torch operators and an autograd function; no maths.

Shapes: features (..., n, m), targets (..., n, q), lambda1 and lambda2 (...,) float64, weights (..., q, m).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sparsesvm import _checks, _ops
from sparsesvm._autograd import OnceDifferentiable, are_plain


def solve(
    features: Tensor, targets: Tensor, lambda1: Tensor, lambda2: Tensor, tol: float, max_iter: int, on_failure: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Check the values, solve, report failures. Returns the fields of `RegressionSolution`.

    On a CUDA device values are not looked at, as in `_ops.solve`.
    """
    _ops.check_report(features, on_failure)
    _checks.check_penalty_range("lambda1", lambda1)
    _checks.check_penalty_range("lambda2", lambda2)
    _checks.check_some_penalty_range(lambda1, lambda2)
    outputs = _solve_outputs(features, targets)
    weights, gap, objective, n_iter, status, active = outputs
    features, targets, lambda1, lambda2 = _readable(features, targets, lambda1, lambda2)
    _ops.launch(
        "solve_regression",
        "solve_regression",
        features,
        _sizes(features, targets, features.shape[-1]),
        *_addresses(features, targets, lambda1, lambda2),
        tol,
        max_iter,
        weights.data_ptr(),
        gap.data_ptr(),
        objective.data_ptr(),
        n_iter.data_ptr(),
        status.data_ptr(),
        active.data_ptr(),
    )
    _ops.report(status, gap, n_iter, on_failure, "regression", _NON_FINITE)
    return outputs


def vjp(
    features: Tensor,
    targets: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    weights: Tensor,
    status: Tensor,
    active: Tensor,
    grad_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, targets, lambda1 and lambda2 for a cotangent of the weights."""
    _ops.warn_of_inexact(status, "regression")
    outputs = _vjp_outputs(features, targets)
    grad_features, grad_targets, grad_lambda1, grad_lambda2 = outputs
    features, targets, lambda1, lambda2 = _readable(features, targets, lambda1, lambda2)
    weights, grad_weights = weights.contiguous(), grad_weights.contiguous()
    _ops.launch(
        "regression_vjp",
        "regression_vjp",
        features,
        _sizes(features, targets, _max_active(active, targets.shape[-1])),
        *_addresses(features, targets, lambda1, lambda2),
        weights.data_ptr(),
        grad_weights.data_ptr(),
        grad_features.data_ptr(),
        grad_targets.data_ptr(),
        grad_lambda1.data_ptr(),
        grad_lambda2.data_ptr(),
    )
    return outputs


solve_op = torch.library.custom_op("sparsesvm::solve_regression", solve, mutates_args=(), device_types=("cpu", "cuda"))
vjp_op = torch.library.custom_op("sparsesvm::regression_vjp", vjp, mutates_args=(), device_types=("cpu", "cuda"))


@solve_op.register_fake
def _(
    features: Tensor, targets: Tensor, lambda1: Tensor, lambda2: Tensor, tol: float, max_iter: int, on_failure: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _solve_outputs(features, targets)


@vjp_op.register_fake
def _(
    features: Tensor,
    targets: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    weights: Tensor,
    status: Tensor,
    active: Tensor,
    grad_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _vjp_outputs(features, targets)


for _op in (solve_op, vjp_op):
    _op.register_vmap(lambda info, in_dims, *args, _op=_op: _ops.map_tasks(_op, info, in_dims, args))


def apply(
    features: Tensor, targets: Tensor, lambda1: Tensor, lambda2: Tensor, tol: float, max_iter: int, on_failure: str
) -> tuple[Tensor, ...]:
    """The fields of `RegressionSolution`, recorded for the gradient where one is wanted."""
    tensors = (features, targets, lambda1, lambda2)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        fields: tuple[Tensor, ...] = Solve.apply(*tensors, tol, max_iter, on_failure)  # type: ignore[no-untyped-call]
        return fields
    function = solve if are_plain(*tensors) else solve_op
    return function(*tensors, tol, max_iter, on_failure)


class Solve(Function):
    """The solution map."""

    @staticmethod
    def forward(
        features: Tensor, targets: Tensor, lambda1: Tensor, lambda2: Tensor, tol: float, max_iter: int, on_failure: str
    ) -> Any:
        function = solve if are_plain(features, targets, lambda1, lambda2) else solve_op
        return function(features, targets, lambda1, lambda2, tol, max_iter, on_failure)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        weights, gap, objective, n_iter, status, active = output
        ctx.save_for_backward(*inputs[:4], weights, status, active)
        ctx.mark_non_differentiable(gap, objective, n_iter, status, active)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor | None, *_: None) -> Any:
        if grad_weights is None:
            return (None,) * 7
        arguments = (*ctx.saved_tensors, grad_weights)
        if torch.compiler.is_compiling():
            function: Any = vjp_op
        elif torch.is_grad_enabled() or not are_plain(*arguments):
            function = Vjp.apply
        else:
            function = vjp
        gradients = (*function(*arguments), None, None, None)
        return tuple(g if need else None for g, need in zip(gradients, ctx.needs_input_grad, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _ops.map_tasks(Solve.apply, info, in_dims, args)


class Vjp(OnceDifferentiable):
    """Its derivative, which cannot be differentiated again."""

    @staticmethod
    def forward(
        features: Tensor,
        targets: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        weights: Tensor,
        status: Tensor,
        active: Tensor,
        grad_weights: Tensor,
    ) -> Any:
        return vjp_op(features, targets, lambda1, lambda2, weights, status, active, grad_weights)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _ops.map_tasks(Vjp.apply, info, in_dims, args)


_NON_FINITE = (
    "features and targets must be finite; {} holds NaN or infinity, or overflows. "
    "torch.nan_to_num replaces such values; rescale what overflows."
)


def _solve_outputs(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    *tasks, _, n_features = features.shape
    return (
        features.new_empty((*tasks, targets.shape[-1], n_features)),
        features.new_empty(tasks, dtype=torch.float64),
        features.new_empty(tasks, dtype=torch.float64),
        features.new_empty(tasks, dtype=torch.int64),
        features.new_empty(tasks, dtype=torch.int8),
        features.new_empty((*tasks, n_features), dtype=torch.bool),
    )


def _vjp_outputs(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tasks = features.shape[:-2]
    return (
        features.new_empty(features.shape),
        features.new_empty(targets.shape),
        features.new_empty(tasks, dtype=torch.float64),
        features.new_empty(tasks, dtype=torch.float64),
    )


def _readable(features: Tensor, targets: Tensor, lambda1: Tensor, lambda2: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same values where the solver can read them: features with one task dimension, in any order of tasks and samples."""
    features = features.flatten(0, -3) if features.dim() > 2 else features.unsqueeze(0)
    features = features if features.stride(-1) == 1 else features.contiguous()
    return features, targets.contiguous(), lambda1.contiguous(), lambda2.contiguous()


def _sizes(features: Tensor, targets: Tensor, max_active: int) -> tuple[bool, int, int, int, int, int]:
    """Of features with one task dimension."""
    n_tasks, n_samples, n_features = features.shape
    assert n_tasks == math.prod(targets.shape[:-2])
    return features.dtype == torch.float64, n_tasks, n_samples, n_features, targets.shape[-1], max_active


def _max_active(active: Tensor, n_outputs: int) -> int:
    """Features in use for which the derivative needs room: of any task, or, on a device that one would wait for, as many as a
    matrix of 2,048 variables holds."""
    if active.is_cuda:
        return min(active.shape[-1], max(2048 // n_outputs, 1))
    return int(active.sum(-1).max()) if active.numel() else 0


def _addresses(features: Tensor, targets: Tensor, lambda1: Tensor, lambda2: Tensor) -> tuple[int, int, int, int, int, int]:
    strides = features.stride(0), features.stride(1)
    return features.data_ptr(), *strides, targets.data_ptr(), lambda1.data_ptr(), lambda2.data_ptr()
