"""The solution map as an autograd function.

Functions rather than `register_autograd`, because only these work under torch.func; each derivative is a Function of its
own with a vmap rule, so that vmap, jacrev and jacfwd batch it. While compiling, torch rejects Functions with a `jvp`:
`Solve` serves there, `SolveWithJvp` in eager mode.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sparsesvm import _ops

_SECOND_ORDER = (
    "second derivatives of the solution are not implemented: weights can be differentiated once. "
    "Drop create_graph=True or the outer derivative, or use sparsesvm.reference for tiny problems."
)


class Solve(Function):
    @staticmethod
    def forward(
        features: Tensor,
        labels: Tensor,
        sample_weight: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        init_dual: Tensor | None,
        n_way: int,
        group_size: int,
        dual_reg: float,
        tol: float,
        max_iter: int,
        on_failure: str,
    ) -> Any:
        solve = _ops.solve if _is_eager(features) else _ops.solve_op
        return solve(
            features,
            labels,
            sample_weight,
            lambda1,
            lambda2,
            init_dual,
            n_way,
            group_size,
            dual_reg,
            tol,
            max_iter,
            on_failure,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        features, labels, sample_weight, lambda1, lambda2, _, _, group_size, dual_reg, _, _, _ = inputs
        weights, dual, gap, objective, n_iter, status, active = output
        ctx.save_for_backward(features, labels, sample_weight, lambda1, lambda2, weights, dual, status)
        ctx.mark_non_differentiable(dual, gap, objective, n_iter, status, active)
        ctx.options = (group_size, dual_reg)

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor, *_: Tensor | None) -> Any:
        gradients = Vjp.apply(*ctx.saved_tensors, grad_weights, *ctx.options)
        grad_features, grad_sample_weight, grad_lambda1, grad_lambda2 = gradients
        by_input = (grad_features, None, grad_sample_weight, grad_lambda1, grad_lambda2)
        wanted = (g if need else None for g, need in zip(by_input, ctx.needs_input_grad, strict=False))
        return (*wanted, *(None,) * 7)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _vmap(Solve, info, in_dims, args)


class SolveWithJvp(Solve):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        Solve.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:5], output[0], output[1], output[5])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        features, _, sample_weight, lambda1, lambda2 = ctx.saved_tensors[:5]
        given = (tangents[0], tangents[2], tangents[3], tangents[4])
        like = (features, sample_weight, lambda1, lambda2)
        filled = [torch.zeros_like(x) if t is None else t for t, x in zip(given, like, strict=True)]
        tangent_weights = Jvp.apply(*ctx.saved_tensors, *filled, *ctx.options)
        return (tangent_weights, None, None, None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _vmap(SolveWithJvp, info, in_dims, args)


class _OnceDifferentiable(Function):
    """A derivative: its own derivative raises."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(_SECOND_ORDER)


class Vjp(_OnceDifferentiable):
    @staticmethod
    def forward(
        features: Tensor,
        labels: Tensor,
        sample_weight: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        weights: Tensor,
        dual: Tensor,
        status: Tensor,
        grad_weights: Tensor,
        group_size: int,
        dual_reg: float,
    ) -> Any:
        return _ops.vjp_op(
            features,
            labels,
            sample_weight,
            lambda1,
            lambda2,
            weights,
            dual,
            status,
            grad_weights,
            group_size,
            dual_reg,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _vmap(Vjp, info, in_dims, args)


class Jvp(_OnceDifferentiable):
    @staticmethod
    def forward(
        features: Tensor,
        labels: Tensor,
        sample_weight: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        weights: Tensor,
        dual: Tensor,
        status: Tensor,
        tangent_features: Tensor,
        tangent_sample_weight: Tensor,
        tangent_lambda1: Tensor,
        tangent_lambda2: Tensor,
        group_size: int,
        dual_reg: float,
    ) -> Any:
        return _ops.jvp_op(
            features,
            labels,
            sample_weight,
            lambda1,
            lambda2,
            weights,
            dual,
            status,
            tangent_features,
            tangent_sample_weight,
            tangent_lambda1,
            tangent_lambda2,
            group_size,
            dual_reg,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _vmap(Jvp, info, in_dims, args)


def _is_eager(features: Tensor) -> bool:
    """Whether the tensors have memory to read: not while compiling, exporting or tracing with fake tensors."""
    return not torch.compiler.is_compiling() and type(features) in (Tensor, torch.nn.Parameter)


def _vmap(function: type[Function], info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]) -> Any:
    """Fold the mapped axis into the task axis, call once, unfold."""
    size = info.batch_size

    def fold(argument: Any, dim: int | None) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        mapped = argument.expand(size, *argument.shape) if dim is None else argument.movedim(dim, 0)
        return mapped.flatten(0, 1)

    def unfold(output: Tensor) -> Tensor:
        return output.unflatten(0, (size, output.shape[0] // size))

    outputs = function.apply(*(fold(argument, dim) for argument, dim in zip(args, in_dims, strict=True)))
    if isinstance(outputs, Tensor):
        return unfold(outputs), 0
    return tuple(unfold(output) for output in outputs), (0,) * len(outputs)


def apply(features: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """The fields of `Solution` for folded tasks; see `_ops.solve` for the arguments."""
    function = Solve if torch.compiler.is_compiling() else SolveWithJvp
    solution: tuple[Tensor, ...] = function.apply(features, *arguments)
    return solution

