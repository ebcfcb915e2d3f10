"""Argument checks. Each message names the argument, what was required, what arrived and, where there is one, the remedy."""

from __future__ import annotations

import math
import numbers
import warnings

import numpy as np
import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual


def check_features(features: Tensor, name: str = "features", *, sparse: bool = False) -> None:
    """`sparse`: compressed sparse rows will do as well."""
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {_kind(features)}. {_conversion(features, name)}")
    if not features.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor; got {features.dtype}. Convert with {name}.float().")
    if features.layout != torch.strided and not (sparse and features.layout == torch.sparse_csr):
        other, remedy = (" or torch.sparse_csr", f" or {name}.to_sparse_csr()") if sparse else ("", "")
        raise TypeError(f"{name} must be a dense{other} tensor; got {features.layout}. Convert with {name}.to_dense(){remedy}.")
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


def check_finite(name: str, values: Tensor, remedy: str = "sample_weight 0 removes samples") -> None:
    for value in _extremes(values) or ():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite; got {value}. torch.nan_to_num replaces such values, {remedy}.")


def are_false(values: Tensor) -> bool:
    """Whether all are; False where they cannot be looked at, as in `_extremes`."""
    if values.numel() == 0 or values.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        return not values.any()
    except RuntimeError:  # mapped
        return False


def are_positive(values: Tensor) -> bool:
    """False also where they cannot be looked at."""
    extremes = _extremes(values)
    return extremes is not None and extremes[0] > 0


def check_query(query: Tensor, weights: Tensor, name: str) -> None:
    if not isinstance(query, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {_kind(query)}. {_conversion(query, name)}")
    if not query.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor; got {query.dtype}. Convert with {name}.float().")
    if query.device != weights.device:
        raise TypeError(f"{name} must be on the device of the weights, {weights.device}; got {query.device}")
    tasks = tuple(weights.shape[:-2])
    if query.dim() < 2 or query.shape[-1] != weights.shape[-1] or not _broadcast(query.shape[:-2], tasks):
        expected = ", ".join(str(size) for size in (*tasks, "n_samples", weights.shape[-1]))
        raise ValueError(f"{name} must have shape ({expected}) to match weights {_shape(weights)}; got {_shape(query)}")


def check_labels(labels: Tensor, features: Tensor, name: str = "labels", features_name: str = "features") -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {_kind(labels)}. {_conversion(labels, name)}")
    if labels.dim() == features.dim() and labels.shape[:-1] == features.shape[:-1]:
        remedy = "squeeze(-1) drops the last dimension" if labels.shape[-1] == 1 else "argmax(-1) makes numbers of one-hot labels"
        raise ValueError(
            f"{name} must have shape {tuple(features.shape[:-1])} to match {features_name} {_shape(features)}; "
            f"got {_shape(labels)}. {name}.{remedy}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor; got {labels.dtype}. Convert with {name}.long().")
    _check_same(labels, features, name, features.shape[:-1], features_name)


def class_numbers(labels: Tensor, sample_weight: Tensor | None) -> Tensor:
    """The labels as int64, and 0 for absent samples, whose label may be anything, such as -100 or 255."""
    labels = labels.long()
    return labels if sample_weight is None else labels.where(sample_weight != 0, 0)


def split_n_way(
    n_way: int | Tensor | None, features: Tensor, features_name: str = "features"
) -> tuple[int | None, Tensor | None]:
    """The largest number of classes, and that of each task (...,) int64 where they differ."""
    if not isinstance(n_way, Tensor) or n_way.dim() == 0:
        return n_way, None  # type: ignore[return-value]
    if n_way.is_floating_point() or n_way.is_complex() or n_way.dtype == torch.bool:
        raise TypeError(f"n_way must be an integer or an integer tensor; got {n_way.dtype}. Convert with n_way.long().")
    tasks = tuple(features.shape[:-2])
    if tuple(n_way.shape) != tasks:
        raise ValueError(f"n_way must be a number or have one value per task, shape {tasks}; got shape {_shape(n_way)}")
    if n_way.device != features.device:
        raise TypeError(f"n_way must be on the device of {features_name}, {features.device}; got {n_way.device}")
    if n_way.numel() == 0:
        return 1, None
    try:
        if torch.compiler.is_compiling():
            raise RuntimeError("values are unknown")
        low, high = (int(value) for value in n_way.aminmax())
    except RuntimeError as error:  # mapped
        raise ValueError(
            "n_way must be a number under torch.func.vmap, torch.compile and torch.export, where values cannot be looked at; "
            "got a tensor of one per task"
        ) from error
    if low < 1:
        raise ValueError(f"n_way must be at least 1 in every task; got {low}")
    return high, None if low == high else n_way.long()


def classes_of(n_way: int, task_way: Tensor | None, labels: Tensor) -> Tensor:
    """Which of the n_way classes each task has: booleans (n_way,) or (..., n_way)."""
    return torch.arange(n_way, device=labels.device) < (n_way if task_way is None else task_way.unsqueeze(-1))


def one_hot(labels: Tensor, n_way: int) -> Tensor:
    """Booleans (..., n_way). Not nn.functional.one_hot, which looks at the labels and so cannot be mapped or compiled."""
    return labels.unsqueeze(-1) == torch.arange(n_way, device=labels.device)


def find_n_way(labels: Tensor, n_way: int | None, sample_weight: Tensor | None = None) -> int:
    """The number of classes, by default the largest label of present samples + 1."""
    if n_way is not None:
        return check_integer("n_way", n_way, minimum=1)
    if labels.numel() == 0:
        return 1
    if not torch.compiler.is_compiling():
        try:
            present = labels.long() if sample_weight is None else labels.long()[sample_weight != 0]
            low, high = (int(label) for label in present.aminmax()) if present.numel() else (0, 0)
        except RuntimeError:  # mapped
            pass
        else:
            if low > 0 or high >= labels.numel():
                warnings.warn(_EMPTY.format(f"begin at {low}" if low > 0 else f"reach {high}", high + 1), stacklevel=3)
            return max(high + 1, 1)
    raise ValueError(
        "n_way must be given under torch.func.vmap, torch.compile and torch.export, where labels cannot be looked at; got None"
    )


_EMPTY = (
    "the labels {}, so that n_way, which is not given, becomes {} and a class is without samples. Number the classes from zero, "
    "e.g. with torch.unique(labels, return_inverse=True)[1], give samples that are padding sample_weight 0, or give n_way."
)


def check_label_range(labels: Tensor, n_way: int, task_way: Tensor | None = None, name: str = "labels") -> bool:
    """Whether the labels could be looked at. `task_way`: the classes of each task (...,), where they differ."""
    extremes = _extremes(labels)
    if extremes is None:
        return False
    low, high = extremes
    if low < 0 or high >= n_way:
        which = f"minimum {low}" if low < 0 else f"maximum {high}"
        raise ValueError(
            f"{name} must lie in [0, n_way) with n_way={n_way}; got {which}. "
            "Number the classes of each task from zero, e.g. with torch.unique(labels, return_inverse=True)[1]. "
            "A sample that is padding takes sample_weight 0."
        )
    if task_way is not None and bool((beyond := (labels >= task_way.unsqueeze(-1)).any(-1)).any()):
        where = beyond.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must lie in [0, n_way) of their task; got {int(labels[tuple(where)].max())} in task {where}, "
            f"which has n_way={int(task_way[tuple(where)])}. A sample that is padding takes sample_weight 0."
        )
    return True


def check_sample_weight(sample_weight: Tensor, features: Tensor, features_name: str = "features") -> None:
    if not isinstance(sample_weight, Tensor):
        kind, remedy = _kind(sample_weight), _conversion(sample_weight, "sample_weight")
        raise TypeError(f"sample_weight must be a torch.Tensor; got {kind}. {remedy}")
    if sample_weight.is_complex():
        raise TypeError(f"sample_weight must be a real tensor; got {sample_weight.dtype}")
    _check_same(sample_weight, features, "sample_weight", features.shape[:-1], features_name)


def check_dual(dual: Tensor, features: Tensor, n_way: int, name: str = "init_dual") -> None:
    if not isinstance(dual, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {_kind(dual)}. Pass the dual of a Solution.")
    if not dual.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor; got {dual.dtype}. Pass the dual of a Solution.")
    _check_same(dual, features, name, (*features.shape[:-1], n_way))


def check_simplex(dual: Tensor) -> None:
    """Rows of probabilities, up to rounding in half precision."""
    check_finite("dual", dual)
    entries, sums = _extremes(dual), _extremes(dual.sum(-1))
    if entries is not None and sums is not None and (entries[0] < -1e-2 or sums[0] < 0.99 or sums[1] > 1.01):
        raise ValueError(
            "dual must hold a probability vector for each sample, >= 0 with sum 1; "
            f"got smallest entry {entries[0]:.3g} and sums from {sums[0]:.3g} to {sums[1]:.3g}"
        )


def check_weights(weights: Tensor, features: Tensor, n_way: int) -> None:
    check_features(weights, "weights")
    expected = (*features.shape[:-2], n_way, features.shape[-1])
    if tuple(weights.shape) != expected:
        raise ValueError(
            f"weights must have shape {expected} to match features {_shape(features)} and n_way={n_way}; "
            f"got {_shape(weights)}. A dual solution is passed as dual=."
        )


def check_absent(name: str, values: Tensor, n_way: int, task_way: Tensor | None) -> None:
    """Values (..., n_way, size) are zero where a task lacks the class."""
    if task_way is None:
        return
    beyond = ~classes_of(n_way, task_way, values) & (values != 0).any(-1)
    if bool(beyond.any()):
        where = beyond.nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be zero for classes that a task lacks; got others for class {where[-1]} of task {where[:-1]}, "
            f"which has n_way={int(task_way[tuple(where[:-1])])}"
        )


def check_penalty(name: str, value: float | Tensor, features: Tensor, *, positive: bool = False) -> None:
    """A number or a tensor that broadcasts to the tasks; the range of a tensor is checked by `check_penalty_range`."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(
                f"{name} must be a number or a floating-point tensor; got {value.dtype}. Convert with {name}.double()."
            )
        if value.device != features.device:
            raise TypeError(f"{name} must be on the device of features, {features.device}; got {value.device}")
        tasks = features.shape[:-2]
        if value.dim() > 0 and tuple(value.shape) != tuple(tasks):
            raise ValueError(
                f"{name} must be a scalar or have one value per task, shape {tuple(tasks)}; got shape {_shape(value)}"
            )
    elif isinstance(value, bool) or not isinstance(value, (float, int, numbers.Real)):
        raise TypeError(f"{name} must be a number or a tensor; got {_kind(value)}. Convert with torch.as_tensor.")
    else:
        _check_range(name, float(value), float(value), positive)


def check_penalty_range(name: str, value: Tensor, *, positive: bool = False) -> None:
    extremes = _extremes(value)
    if extremes is not None:
        _check_range(name, *extremes, positive)


def check_some_penalty(name: str, value: float | Tensor, lambda2: float | Tensor) -> None:
    """Not both zero; tensors are left to `check_some_penalty_range`."""
    if not isinstance(value, Tensor) and not isinstance(lambda2, Tensor):
        _check_some(name, max(float(value), float(lambda2)))


def check_some_penalty_range(lambda1: Tensor, lambda2: Tensor) -> None:
    """Of penalties >= 0, one per task."""
    extremes = None if lambda1.is_cuda else _extremes(torch.maximum(lambda1, lambda2))
    if extremes is not None:
        _check_some("lambda1", extremes[0])


def _check_some(name: str, smallest: float) -> None:
    if smallest == 0:
        raise ValueError(
            f"{name} or lambda2 must be positive in every task; got zero for both. "
            "Least squares without a penalty is the limit of ridge_regression for small lambda2."
        )


def check_ridge_range(lambda1: Tensor, lambda2: Tensor, dual_reg: float) -> None:
    """Of the penalties of support vector machines, >= 0 and one per task: without lambda2 the certificate needs lambda1, and the
    smoothed hinge has no scale."""
    without = lambda2 == 0
    if bool((without & (lambda1 == 0)).any()):
        raise ValueError("lambda1 or lambda2 must be positive in every task; got zero for both. A small lambda2 is enough.")
    if dual_reg > 0 and bool(without.any()):
        raise ValueError(f"lambda2 must be positive where dual_reg is, in whose units it counts; got 0 with dual_reg={dual_reg}")


def check_has_gradient(lambda2: Tensor) -> None:
    if not lambda2.is_cuda and bool((lambda2 == 0).any()):
        raise ValueError(
            "lambda2 must be positive in every task for a gradient; got 0, where the weights need not be unique. "
            "A small lambda2 makes them so."
        )


def check_ratio(value: float | Tensor, features: Tensor, name: str = "lambda1_ratio") -> None:
    check_penalty(name, value, features)
    if not isinstance(value, Tensor):
        check_ratio_number(value, name)
    elif (extremes := _extremes(value)) is not None:
        _check_ratio_range(*extremes, name)


def check_ratio_number(value: float, name: str = "lambda1_ratio") -> float:
    """The value as a Python number."""
    value = check_number(name, value)
    _check_ratio_range(value, value, name)
    return value


def _check_ratio_range(low: float, high: float, name: str) -> None:
    if not (low >= 0 and high <= 1):
        got = high if low >= 0 else low
        raise ValueError(f"{name} must lie in [0, 1]; got {got}. An absolute penalty is passed as lambda1.")


def check_one_penalty(lambda1: float | Tensor | None, lambda1_ratio: float | Tensor | None) -> None:
    if (lambda1 is None) == (lambda1_ratio is None):
        got = "neither" if lambda1 is None else "both"
        raise ValueError(f"exactly one of lambda1 and lambda1_ratio is required; got {got}. lambda1=0 is the dense SVM.")


def check_on_failure(on_failure: str) -> None:
    if on_failure not in ("ignore", "warn", "raise"):
        raise ValueError(f'on_failure must be "ignore", "warn" or "raise"; got {on_failure!r}')


def check_group_size(features: Tensor, group_size: int) -> int:
    group_size = check_integer("group_size", group_size, minimum=1)
    if features.shape[-1] % group_size:
        raise ValueError(
            f"group_size must divide the number of features, {features.shape[-1]}; got {group_size}. "
            "Pad the features with zero columns or choose another size."
        )
    return group_size


def check_group_weight(group_weight: Tensor | None, features: Tensor, group_size: int) -> Tensor | None:
    """The weights of the groups for each task, (..., groups) float64; the operators check again what cannot be looked at here."""
    if group_weight is None:
        return None
    if not isinstance(group_weight, Tensor):
        raise TypeError(f"group_weight must be a torch.Tensor; got {_kind(group_weight)}. Convert with torch.as_tensor.")
    if not group_weight.is_floating_point():
        raise TypeError(
            f"group_weight must be a floating-point tensor; got {group_weight.dtype}. Convert with group_weight.double()."
        )
    _check_same(group_weight, features, "group_weight", (features.shape[-1] // group_size,))
    if (torch.is_grad_enabled() and group_weight.requires_grad) or unpack_dual(group_weight).tangent is not None:
        raise NotImplementedError("group_weight has no gradient; got one that requires it. Pass group_weight.detach().")
    check_penalty_range("group_weight", group_weight, positive=True)
    return group_weight.detach().double().expand(*features.shape[:-2], -1)


def solve_linear(matrix: Tensor, right: Tensor, penalty: str) -> Tensor:
    """The solution of a ridge regression's equations, or the name of the penalty that is too small for them."""
    try:
        solution: Tensor = torch.linalg.solve(matrix, right)
        return solution
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise ValueError(f"{penalty} must be larger: added to the products of these features it is lost to rounding") from error


def check_number(name: str, value: float, *, positive: bool = False) -> float:
    """The value as a Python number."""
    if isinstance(value, bool) or not isinstance(value, (float, int, numbers.Real)):
        remedy = f". Convert with float({name})." if isinstance(value, (Tensor, np.ndarray)) else ""
        raise TypeError(f"{name} must be a number; got {_kind(value)}{remedy}")
    value = float(value)
    _check_range(name, value, value, positive)
    return value


def check_integer(name: str, value: int, *, minimum: int) -> int:
    """The value as a Python integer, or the symbol of one while compiling."""
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral, torch.SymInt)):
        remedy = f". Convert with int({name})." if isinstance(value, (Tensor, np.ndarray)) else ""
        raise TypeError(f"{name} must be an integer; got {_kind(value)}{remedy}")
    if not minimum <= value < 2**63:
        raise ValueError(f"{name} must be at least {minimum} and below 2**63; got {value}")
    return value if isinstance(value, (int, torch.SymInt)) else int(value)


def _check_same(
    tensor: Tensor, features: Tensor, name: str, shape: tuple[int, ...] | torch.Size, features_name: str = "features"
) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(
            f"{name} must have shape {tuple(shape)} to match {features_name} {_shape(features)}; got {_shape(tensor)}"
        )
    if tensor.device != features.device:
        raise TypeError(
            f"{name} must be on the device of {features_name}, {features.device}; got {tensor.device}. "
            f"Move it with {name}.to({features_name}.device)."
        )


def _check_range(name: str, low: float, high: float, positive: bool) -> None:
    if not 0 <= low <= high < math.inf or (positive and low == 0):
        required = "positive and finite" if positive else ">= 0 and finite"
        got = low if not math.isfinite(low) or low <= 0 else high
        raise ValueError(f"{name} must be {required}; got {got}")


def _extremes(values: Tensor) -> tuple[float, float] | None:
    """Smallest and largest value, both NaN if one is. None where there are no values, and where they cannot be looked at: while
    compiling or mapping, when the operators look at what reaches them, and on a device that one would wait for."""
    if values.numel() == 0 or values.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        low, high = values.aminmax()
        return low.item(), high.item()
    except RuntimeError:  # mapped
        return None


def _broadcast(query: torch.Size, tasks: tuple[int, ...]) -> bool:
    return tuple(query) == tasks or all(a in (1, b) or b == 1 for a, b in zip(reversed(query), reversed(tasks), strict=False))


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _kind(value: object) -> str:
    return type(value).__name__


def _conversion(value: object, name: str) -> str:
    """How what is no tensor becomes one."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    array = np.asarray(value) if hasattr(value, "__array__") else np.zeros(0)
    if isinstance(first, (str, bytes)) or array.dtype.kind in "OSU":
        return f"Number the classes: torch.as_tensor(numpy.unique({name}, return_inverse=True)[1])."
    if array.dtype.names:
        return f"Take one of the fields, e.g. {name}[{array.dtype.names[0]!r}]."
    if not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        # Mirrored arrays, and those of another byte order, are nothing that torch takes.
        return f'Convert with torch.as_tensor(numpy.ascontiguousarray({name}, "{array.dtype.newbyteorder("=").name}")).'
    return "Convert with torch.as_tensor."
