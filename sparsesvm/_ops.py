"""The compiled solver as torch operators: value checks, allocation, addresses; no maths.

Shapes: features (..., n, m), labels (..., n) int64, sample_weight (..., n) and lambda1, lambda2 (...,) float64, with the same
task dimensions `...`; group_weight (..., groups) float64 or None for ones, task_way (...,) int64, the number of classes of
each task, or None where all have n_way. The plain functions do the work; `solve_op`, `vjp_op` and `jvp_op` are the same as
operators that torch.compile and torch.export keep whole.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparsesvm import _checks, _core
from sparsesvm.results import ConvergenceError, ConvergenceWarning, StatusCode, unconverged

_UNCONVERGED = "a {} did not converge: {}. Its status, gap and n_iter are in the solution returned."
_INEXACT = "the gradient of a {} that did not converge is not exact; see its status and gap."
_NON_FINITE = (
    "features must be finite; {} holds NaN or infinity in a sample of positive weight, or overflows with these penalties and "
    "weights. Give such samples sample_weight 0 or replace the values with torch.nan_to_num; rescale what overflows."
)


def solve(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    init_dual: Tensor | None,
    init_weights: Tensor | None,
    n_way: int,
    group_size: int,
    dual_reg: float,
    tol: float,
    max_iter: int,
    on_failure: str,
    identify: bool,
    group_weight: Tensor | None = None,
    task_way: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Check the values, solve, report failures. Returns the fields of `Solution`.

    `identify`: go on until the active sets are known, as a derivative needs it.

    On a CUDA device values are neither checked nor looked at, so that nothing waits for the device, but for a report of failures.
    """
    check_report(features, on_failure)
    inputs = _readable(features, labels, sample_weight, lambda1, lambda2)
    group_weight = _readable_group_weight(group_weight)
    addresses = _addresses(*inputs, group_weight, task_way)
    sizes = _sizes(features, n_way, group_size)
    if not features.is_cuda:
        check_values(*inputs[1:], n_way, dual_reg, group_weight, task_way)
    init_dual = readable_dual(init_dual)
    if init_weights is not None:
        init_weights = init_weights.contiguous()
    outputs = solve_outputs(features, n_way, group_size)
    weights, dual, gap, objective, n_iter, status, active = outputs
    launch(
        "solve",
        "solve",
        features,
        sizes,
        *addresses,
        dual_reg,
        tol,
        max_iter,
        identify,
        _address(init_dual),
        _address(init_weights),
        weights.data_ptr(),
        dual.data_ptr(),
        gap.data_ptr(),
        objective.data_ptr(),
        n_iter.data_ptr(),
        status.data_ptr(),
        active.data_ptr(),
    )
    report(status, gap, n_iter, on_failure)
    return outputs


def check_values(
    labels: Tensor,
    sample_weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    n_way: int,
    dual_reg: float,
    group_weight: Tensor | None = None,
    task_way: Tensor | None = None,
) -> None:
    """Of contiguous tensors on the CPU."""
    n_tasks, n_samples = lambda1.numel(), labels.shape[-1]
    addresses = (labels.data_ptr(), sample_weight.data_ptr(), lambda1.data_ptr(), lambda2.data_ptr())
    if not _core.acceptable(n_tasks, n_samples, n_way, *addresses, _address(task_way), dual_reg):
        _checks.check_label_range(labels, n_way, task_way)
        _checks.check_penalty_range("sample_weight", sample_weight)
        _checks.check_penalty_range("lambda1", lambda1)
        _checks.check_penalty_range("lambda2", lambda2)
        _checks.check_ridge_range(lambda1, lambda2, dual_reg)
    if group_weight is not None:
        _checks.check_penalty_range("group_weight", group_weight, positive=True)


def readable_dual(init_dual: Tensor | None) -> Tensor | None:
    """Its values checked, where the solver can read them."""
    if init_dual is None:
        return None
    _checks.check_finite("init_dual", init_dual)
    return init_dual.contiguous()


def vjp(
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
    group_weight: Tensor | None = None,
    task_way: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, sample_weight, lambda1 and lambda2 for a cotangent of the weights."""
    _checks.check_has_gradient(lambda2)
    warn_of_inexact(status)
    outputs = _vjp_outputs(features)
    grad_features, grad_sample_weight, grad_lambda1, grad_lambda2 = outputs
    inputs = _readable(features, labels, sample_weight, lambda1, lambda2)
    weights, dual, grad_weights = weights.contiguous(), dual.contiguous(), grad_weights.contiguous()
    launch(
        "vjp",
        "diff",
        features,
        _sizes(features, weights.shape[-2], group_size),
        *_addresses(*inputs, _readable_group_weight(group_weight), task_way),
        dual_reg,
        weights.data_ptr(),
        dual.data_ptr(),
        grad_weights.data_ptr(),
        grad_features.data_ptr(),
        grad_lambda1.data_ptr(),
        grad_lambda2.data_ptr(),
        grad_sample_weight.data_ptr(),
    )
    return outputs


def jvp(
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
    group_weight: Tensor | None = None,
    task_way: Tensor | None = None,
) -> Tensor:
    """Tangent of the weights for tangents of features, sample_weight, lambda1 and lambda2."""
    _checks.check_has_gradient(lambda2)
    warn_of_inexact(status)
    tangent_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
    inputs = _readable(features, labels, sample_weight, lambda1, lambda2)
    weights, dual = weights.contiguous(), dual.contiguous()
    tangent_features, tangent_sample_weight = tangent_features.contiguous(), tangent_sample_weight.contiguous()
    tangent_lambda1, tangent_lambda2 = tangent_lambda1.contiguous(), tangent_lambda2.contiguous()
    launch(
        "jvp",
        "diff",
        features,
        _sizes(features, weights.shape[-2], group_size),
        *_addresses(*inputs, _readable_group_weight(group_weight), task_way),
        dual_reg,
        weights.data_ptr(),
        dual.data_ptr(),
        tangent_features.data_ptr(),
        tangent_lambda1.data_ptr(),
        tangent_lambda2.data_ptr(),
        tangent_sample_weight.data_ptr(),
        tangent_weights.data_ptr(),
    )
    return tangent_weights


solve_op = torch.library.custom_op("sparsesvm::solve", solve, mutates_args=(), device_types=("cpu", "cuda"))
vjp_op = torch.library.custom_op("sparsesvm::vjp", vjp, mutates_args=(), device_types=("cpu", "cuda"))
jvp_op = torch.library.custom_op("sparsesvm::jvp", jvp, mutates_args=(), device_types=("cpu", "cuda"))


@solve_op.register_fake
def _(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    init_dual: Tensor | None,
    init_weights: Tensor | None,
    n_way: int,
    group_size: int,
    dual_reg: float,
    tol: float,
    max_iter: int,
    on_failure: str,
    identify: bool,
    group_weight: Tensor | None = None,
    task_way: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return solve_outputs(features, n_way, group_size)


@vjp_op.register_fake
def _(
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
    group_weight: Tensor | None = None,
    task_way: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _vjp_outputs(features)


@jvp_op.register_fake
def _(
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
    group_weight: Tensor | None = None,
    task_way: Tensor | None = None,
) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


def map_tasks(function: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    """The vmap rule of all: the mapped axis is one more task dimension, in front."""

    def in_front(argument: Any, dim: int | None) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        return argument.expand(info.batch_size, *argument.shape) if dim is None else argument.movedim(dim, 0)

    outputs = function(*(in_front(argument, dim) for argument, dim in zip(args, in_dims, strict=True)))
    return outputs, 0 if isinstance(outputs, Tensor) else (0,) * len(outputs)


for _op in (solve_op, vjp_op, jvp_op):
    _op.register_vmap(lambda info, in_dims, *args, _op=_op: map_tasks(_op, info, in_dims, args))


def per_task(value: float | Tensor, features: Tensor) -> Tensor:
    """A penalty as one float64 value for each task of the features."""
    tasks = features.shape[:-2]
    if isinstance(value, Tensor):
        return value.double().expand(tasks)
    like = features.values() if features.layout == torch.sparse_csr else features
    return like.new_full(tasks, float(value), dtype=torch.float64)


def solve_outputs(features: Tensor, n_way: int, group_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    *tasks, n_samples, n_features = features.shape
    return (
        features.new_empty((*tasks, n_way, n_features)),
        features.new_empty((*tasks, n_samples, n_way)),
        features.new_empty(tasks, dtype=torch.float64),
        features.new_empty(tasks, dtype=torch.float64),
        features.new_empty(tasks, dtype=torch.int64),
        features.new_empty(tasks, dtype=torch.int8),
        features.new_empty((*tasks, n_features // group_size), dtype=torch.bool),
    )


def _vjp_outputs(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *tasks, n_samples, n_features = features.shape
    return (
        features.new_empty((*tasks, n_samples, n_features)),
        features.new_empty((*tasks, n_samples), dtype=torch.float64),
        features.new_empty(tasks, dtype=torch.float64),
        features.new_empty(tasks, dtype=torch.float64),
    )


def _sizes(features: Tensor, n_way: int, group_size: int) -> tuple[bool, int, int, int, int, int]:
    *tasks, n_samples, n_features = features.shape
    return features.dtype == torch.float64, math.prod(tasks), n_samples, n_features, n_way, group_size


def _readable(
    features: Tensor, labels: Tensor, sample_weight: Tensor, lambda1: Tensor, lambda2: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same values where the solver can read them: features with one task dimension or none, side by side within a sample;
    the rest contiguous. Tasks and samples of the features may lie anywhere."""
    if features.dim() > 3:
        features = features.flatten(0, -3)
    if features.stride(-1) != 1:
        features = features.contiguous()
    return features, labels.contiguous(), sample_weight.contiguous(), lambda1.contiguous(), lambda2.contiguous()


def _readable_group_weight(group_weight: Tensor | None) -> Tensor | None:
    """With one task dimension and the weights of a task side by side; tasks may share them."""
    if group_weight is None:
        return None
    group_weight = group_weight.unsqueeze(0) if group_weight.dim() == 1 else group_weight.flatten(0, -2)
    return group_weight if group_weight.stride(-1) == 1 else group_weight.contiguous()


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _addresses(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    group_weight: Tensor | None,
    task_way: Tensor | None,
) -> tuple[int, ...]:
    return (
        features.data_ptr(),
        features.stride(0) if features.dim() == 3 else 0,
        features.stride(-2),
        labels.data_ptr(),
        sample_weight.data_ptr(),
        lambda1.data_ptr(),
        lambda2.data_ptr(),
        _address(group_weight),
        0 if group_weight is None else group_weight.stride(0),
        _address(task_way),
    )


class _Pool:
    """Whether this process has woken torch's threads."""

    used = False


_pool = _Pool()


def _go_on_alone() -> None:
    """In a forked child, which has none of the threads that torch would wait for."""
    if _pool.used:
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_go_on_alone)


def launch(name: str, scratch: str, features: Tensor, sizes: tuple[int, ...], *arguments: Any) -> None:
    """Call the compiled function `name` for the device of the features, with the memory that `scratch` asks for."""
    if features.is_cuda:
        from sparsesvm import _cuda

        device = features.device.index
        with torch.cuda.device(device):
            plan = getattr(_cuda, f"{scratch}_plan")(*sizes, device)
            stream = torch.cuda.current_stream(device).cuda_stream
            # Freed at once, and by torch's allocator given to later work of the same stream only.
            workspace = features.new_empty(plan[0], dtype=torch.uint8)
            getattr(_cuda, name)(*sizes, *arguments, workspace.data_ptr(), *plan, device, stream)
    else:
        n_threads = torch.get_num_threads()
        _pool.used |= n_threads > 1
        n_bytes = getattr(_core, f"{scratch}_workspace")(*sizes, n_threads)
        workspace = torch.empty(n_bytes, dtype=torch.uint8)
        getattr(_core, name)(*sizes, *arguments, workspace.data_ptr(), n_bytes, n_threads)


def check_report(features: Tensor, on_failure: str) -> None:
    """Before the launch, whether failures can be reported."""
    if features.is_cuda and on_failure != "ignore" and torch.cuda.is_current_stream_capturing():
        raise ValueError(
            f'on_failure must be "ignore" while a CUDA graph is captured, as a report waits for the device; got "{on_failure}"'
        )


def warn_of_inexact(status: Tensor, what: str = "task") -> None:
    """Not on a CUDA device, which one would wait for."""
    if status.is_cuda or _all_converged(status):
        return
    if unconverged(status).any():
        warnings.warn(_INEXACT.format(what), ConvergenceWarning, stacklevel=3)


def report(status: Tensor, gap: Tensor, n_iter: Tensor, on_failure: str, what: str = "task", remedy: str = _NON_FINITE) -> None:
    """Raise for values that are not finite; for tasks above the tolerance do as `on_failure` says."""
    if (status.is_cuda and on_failure == "ignore") or _all_converged(status):
        return
    non_finite = status == StatusCode.NON_FINITE
    if not status.is_cuda and non_finite.any():
        raise ValueError(remedy.format(_first(non_finite)))
    failed = unconverged(status)
    if on_failure == "ignore" or not failed.any():
        return
    sentence = StatusCode(int(status[failed][0])).sentence
    if on_failure == "raise":
        raise ConvergenceError(
            f"{int(failed.sum())} of {status.numel()} {what}s did not converge; {_first(failed)}, after "
            f"{int(n_iter[failed][0])} iterations with gap {float(gap[failed][0]):.3g}: {sentence}"
        )
    # The same words every time, so that Python's default filter shows them once and not at every training step.
    warnings.warn(_UNCONVERGED.format(what, sentence), ConvergenceWarning, stacklevel=2)


def _all_converged(status: Tensor) -> bool:
    # One status needs no reduction, which is part of what a small task costs.
    n_tasks = status.numel()
    return n_tasks == 0 or int(status if n_tasks == 1 else status.max()) == StatusCode.CONVERGED


def _first(tasks: Tensor) -> str:
    """Where the first True is, in words."""
    position = tasks.nonzero()[0].tolist()
    if not position:
        return "the task"
    return f"task {position[0] if len(position) == 1 else tuple(position)}"
