"""The solution map as an autograd function.

Functions rather than `register_autograd`, because only these work under torch.func; each derivative is a Function of its
own with a vmap rule, so that vmap, jacrev and jacfwd batch it. While compiling, torch rejects Functions with a `jvp`:
`Solve` serves there, `SolveWithJvp` in eager mode.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.forward_ad import unpack_dual

from sparsesvm import _ops, _sparse

_SECOND_ORDER = (
    "second derivatives of the solution are not implemented: weights can be differentiated once. "
    "Drop create_graph=True or the outer derivative, or use sparsesvm.reference for tiny problems."
)


class Options(NamedTuple):
    """The arguments of `_ops.solve` that are not tensors."""

    n_way: int
    group_size: int
    dual_reg: float
    tol: float
    max_iter: int
    on_failure: str
    identify: bool


class Solve(Function):
    @staticmethod
    def forward(
        features: Tensor,
        labels: Tensor,
        sample_weight: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        init_dual: Tensor | None,
        init_weights: Tensor | None,
        group_weight: Tensor | None,
        task_way: Tensor | None,
        options: Options,
    ) -> Any:
        arguments = (features, labels, sample_weight, lambda1, lambda2, init_dual, init_weights)
        solve = _ops.solve if are_plain(*arguments, group_weight, task_way) else _ops.solve_op
        return solve(*arguments, *options, group_weight, task_way)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        options = inputs[-1]
        weights, dual, gap, objective, n_iter, status, active = output
        ctx.save_for_backward(*inputs[:5], weights, dual, status, *inputs[7:9])
        ctx.mark_non_differentiable(dual, gap, objective, n_iter, status, active)
        ctx.set_materialize_grads(False)
        ctx.options = (options.group_size, options.dual_reg)

    @staticmethod
    def backward(ctx: Any, grad_weights: Tensor | None, *_: None) -> Any:
        if grad_weights is None:
            return (None,) * 10
        *point, group_weight, task_way = ctx.saved_tensors
        arguments = (*point, grad_weights)
        if torch.compiler.is_compiling():
            vjp: Any = _ops.vjp_op
        elif torch.is_grad_enabled() or not are_plain(*arguments, group_weight, task_way):
            vjp = Vjp.apply
        else:
            vjp = _ops.vjp
        grad_features, *others = vjp(*arguments, *ctx.options, group_weight, task_way)
        gradients = (grad_features, None, *others, None, None, None, None, None)
        return tuple(g if need else None for g, need in zip(gradients, ctx.needs_input_grad, strict=True))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _ops.map_tasks(Solve.apply, info, in_dims, args)


class SolveWithJvp(Solve):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        Solve.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:5], output[0], output[1], output[5], *inputs[7:9])

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *point, group_weight, task_way = ctx.saved_tensors
        features, _, sample_weight, lambda1, lambda2, *_ = point
        given = (tangents[0], tangents[2], tangents[3], tangents[4])
        like = (features, sample_weight, lambda1, lambda2)
        filled = (torch.zeros_like(x) if t is None else t for t, x in zip(given, like, strict=True))
        tangent = Jvp.apply(*point, *filled, *ctx.options, group_weight, task_way)  # type: ignore[no-untyped-call]
        return (tangent, None, None, None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _ops.map_tasks(SolveWithJvp.apply, info, in_dims, args)


class OnceDifferentiable(Function):
    """A derivative: its own derivative raises."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(_SECOND_ORDER)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError(_SECOND_ORDER)


class Vjp(OnceDifferentiable):
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
        group_weight: Tensor | None,
        task_way: Tensor | None,
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
            group_weight,
            task_way,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _ops.map_tasks(Vjp.apply, info, in_dims, args)


class Jvp(OnceDifferentiable):
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
        group_weight: Tensor | None,
        task_way: Tensor | None,
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
            group_weight,
            task_way,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        return _ops.map_tasks(Jvp.apply, info, in_dims, args)


class _ByPosition(inspect.Signature):
    """Function.apply binds its arguments to the signature of `forward` at every call, which takes longer than solving a
    small task (19 us). Ours all come by position: nothing need be sorted."""

    def bind(self, *args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(args=args, kwargs=kwargs, apply_defaults=lambda: None)


vars(Solve.forward)["__signature__"] = _ByPosition.from_callable(Solve.forward)


_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def are_plain(*tensors: Tensor | None) -> bool:
    """Whether the values can be read at the addresses and nothing else: torch's dispatcher, which costs more than solving a
    small task, may then be passed by.

    Not so while compiling, exporting or tracing with fake tensors, and for tensors that are mapped, lazily negated, lazily
    zero or have a tangent.
    """
    if torch.compiler.is_compiling():
        return False
    may_have_tangents = True
    try:
        for t in tensors:
            if t is None:
                continue
            if type(t) not in _PLAIN_TYPES or not t.data_ptr() or t.is_neg():
                return False
            if may_have_tangents:
                primal, tangent = unpack_dual(t)
                if tangent is not None:
                    return False
                may_have_tangents = primal is not t  # outside of forward mode it is the tensor itself
    except RuntimeError:  # data_ptr() of a mapped tensor
        return False
    return True


def apply(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    init_dual: Tensor | None,
    init_weights: Tensor | None,
    group_weight: Tensor | None,
    task_way: Tensor | None,
    options: Options,
) -> tuple[Tensor, ...]:
    """The fields of `Solution`; see `_ops.solve` for the arguments."""
    tensors = (features, labels, sample_weight, lambda1, lambda2, init_dual, init_weights, group_weight, task_way)
    if _sparse.is_sparse(features):
        return _sparse.solve(*tensors[:8], options)
    recording = torch.is_grad_enabled() and any(t.requires_grad for t in tensors if t is not None)
    if not recording and are_plain(*tensors):
        return _ops.solve(*tensors[:7], *options, group_weight, task_way)
    options = options._replace(identify=recording or any(unpack_dual(t).tangent is not None for t in tensors if t is not None))
    function = Solve if torch.compiler.is_compiling() else SolveWithJvp
    fields: tuple[Tensor, ...] = function.apply(*tensors, options)  # type: ignore[no-untyped-call]
    return fields
