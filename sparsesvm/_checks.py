"""Argument checks. Each message names the argument, what was required, what arrived and, where there is one, the remedy."""

from __future__ import annotations

import math
import numbers

import torch
from torch import Tensor


def check_features(features: Tensor, name: str = "features") -> None:
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {_kind(features)}. Convert with torch.as_tensor.")
    if not features.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor; got {features.dtype}. Convert with {name}.float().")
    if features.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor; got {features.layout}. Convert with {name}.to_dense().")
    if features.dim() < 2:
        raise ValueError(
            f"{name} must have shape (..., n_support, n_features); got {_shape(features)}. For a single sample use unsqueeze(0)."
        )
    if 0 in features.shape[-2:]:
        raise ValueError(f"{name} must hold at least one sample and one feature; got shape {_shape(features)}")


def check_device(features: Tensor, usable: tuple[str, ...]) -> None:
    if features.device.type not in usable:
        raise TypeError(
            f"features must be on one of {', '.join(usable)}, which this build of sparsesvm can use; got device "
            f"{features.device}. Move them with features.cpu(); sparsesvm.backends() says what is built."
        )


def check_labels(labels: Tensor, features: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.Tensor; got {_kind(labels)}. Convert with torch.as_tensor.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be an integer tensor; got {labels.dtype}. Convert with labels.long().")
    _check_same(labels, features, "labels", features.shape[:-1])


def check_n_way(n_way: int) -> None:
    _check_integer("n_way", n_way, minimum=1)


def check_label_range(labels: Tensor, n_way: int) -> None:
    if labels.numel() == 0:
        return
    low, high = labels.aminmax()
    if int(low) < 0 or int(high) >= n_way:
        which = f"minimum {int(low)}" if int(low) < 0 else f"maximum {int(high)}"
        raise ValueError(
            f"labels must lie in [0, n_way) with n_way={n_way}; got {which}. "
            "Number the classes of each task from zero, e.g. with torch.unique(labels, return_inverse=True)[1]."
        )


def check_sample_weight(sample_weight: Tensor, features: Tensor) -> None:
    if not isinstance(sample_weight, Tensor):
        raise TypeError(f"sample_weight must be a torch.Tensor; got {_kind(sample_weight)}.")
    if sample_weight.is_complex():
        raise TypeError(f"sample_weight must be a real tensor; got {sample_weight.dtype}")
    _check_same(sample_weight, features, "sample_weight", features.shape[:-1])


def check_init_dual(init_dual: Tensor, features: Tensor, n_way: int) -> None:
    if not isinstance(init_dual, Tensor):
        raise TypeError(f"init_dual must be a torch.Tensor; got {_kind(init_dual)}. Pass the dual of a Solution.")
    if not init_dual.is_floating_point():
        raise TypeError(f"init_dual must be a floating-point tensor; got {init_dual.dtype}")
    _check_same(init_dual, features, "init_dual", (*features.shape[:-1], n_way))


def check_weights(weights: Tensor, features: Tensor, n_way: int) -> None:
    check_features(weights, "weights")
    expected = (*features.shape[:-2], n_way, features.shape[-1])
    if tuple(weights.shape) != expected:
        raise ValueError(
            f"weights must have shape {expected} to match features {_shape(features)} and n_way={n_way}; "
            f"got {_shape(weights)}. A dual solution is passed as dual=."
        )


def check_penalty(name: str, value: float | Tensor, features: Tensor, *, positive: bool = False) -> None:
    """A number or a tensor that broadcasts to the tasks; the range of a tensor is checked by `check_penalty_range`."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a number or a floating-point tensor; got {value.dtype}")
        if value.device != features.device:
            raise TypeError(f"{name} must be on the device of features, {features.device}; got {value.device}")
        tasks = features.shape[:-2]
        if value.dim() > 0 and tuple(value.shape) != tuple(tasks):
            raise ValueError(
                f"{name} must be a scalar or have one value per task, shape {tuple(tasks)}; got shape {_shape(value)}"
            )
    elif isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number or a tensor; got {_kind(value)}")
    else:
        _check_range(name, float(value), float(value), positive)


def check_penalty_range(name: str, value: Tensor, *, positive: bool = False) -> None:
    if value.numel():
        low, high = value.aminmax()
        _check_range(name, float(low), float(high), positive)


def check_one_penalty(lambda1: float | Tensor | None, lambda1_ratio: float | Tensor | None) -> None:
    if (lambda1 is None) == (lambda1_ratio is None):
        got = "neither" if lambda1 is None else "both"
        raise ValueError(f"exactly one of lambda1 and lambda1_ratio is required; got {got}")


def check_options(features: Tensor, group_size: int, dual_reg: float, tol: float, max_iter: int, on_failure: str) -> None:
    check_group_size(features, group_size)
    _check_number("dual_reg", dual_reg)
    _check_number("tol", tol)
    _check_integer("max_iter", max_iter, minimum=0)
    if on_failure not in ("ignore", "warn", "raise"):
        raise ValueError(f'on_failure must be "ignore", "warn" or "raise"; got {on_failure!r}')


def check_group_size(features: Tensor, group_size: int) -> None:
    _check_integer("group_size", group_size, minimum=1)
    if features.shape[-1] % group_size:
        raise ValueError(
            f"group_size must divide the number of features, {features.shape[-1]}; got {group_size}. "
            "Pad the features with zero columns or choose another size."
        )


def _check_same(tensor: Tensor, features: Tensor, name: str, shape: tuple[int, ...] | torch.Size) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)} to match features {_shape(features)}; got {_shape(tensor)}")
    if tensor.device != features.device:
        raise TypeError(
            f"{name} must be on the device of features, {features.device}; got {tensor.device}. "
            f"Move it with {name}.to(features.device)."
        )


def _check_range(name: str, low: float, high: float, positive: bool) -> None:
    if not math.isfinite(low) or not math.isfinite(high) or low < 0 or (positive and low == 0):
        required = "positive and finite" if positive else ">= 0 and finite"
        got = low if not math.isfinite(low) or low <= 0 else high
        raise ValueError(f"{name} must be {required}; got {got}")


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number; got {_kind(value)}")
    _check_range(name, float(value), float(value), positive=False)


def _check_integer(name: str, value: int, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an integer; got {_kind(value)}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}; got {value}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _kind(value: object) -> str:
    return type(value).__name__
