"""The smallest lambda1 without weights, of checked tensors: its cheap bound, its exact value and what both are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsesvm import _autograd, _checks, _sparse, reference
from sparsesvm.results import Solution


def cheap(
    features: Tensor,
    labels: Tensor,
    n_way: int,
    task_way: Tensor | None,
    sample_weight: Tensor | None,
    group_size: int,
    group_weight: Tensor | None,
) -> Tensor:
    """The cheap bound (...,) in float64, of features in float32 or float64."""
    is_class = _checks.one_hot(labels, n_way)
    # Y - Lambda for Lambda uniform over the wrong classes.
    if task_way is None:
        wrong = -1 / (n_way - 1) if n_way > 1 else 0.0
        residual = torch.full(is_class.shape, wrong, dtype=features.dtype, device=features.device)
        residual = residual.masked_fill(is_class, float(n_way > 1))
    else:
        others = (task_way - 1).clamp(min=1).to(features.dtype)[..., None, None]
        residual = torch.where(is_class, (task_way > 1).to(features.dtype)[..., None, None], -1 / others)
        residual = residual * _checks.classes_of(n_way, task_way, labels).unsqueeze(-2)
    if not _checks.check_label_range(labels, n_way, task_way):
        residual = residual.where(is_class.any(-1, keepdim=True), math.nan)
    if sample_weight is not None:
        sample_weight = sample_weight.to(features.dtype)
        _checks.check_penalty_range("sample_weight", sample_weight)
        features = _present(features, sample_weight)
        residual = residual * sample_weight.unsqueeze(-1)
    bound = largest_group_norm(residual, features, group_size, group_weight)
    _checks.check_finite("features", bound)
    return bound


def smoothing_share(n_way: int, task_way: Tensor | None, lambda2: float | Tensor | None, dual_reg: float) -> float | Tensor:
    """By which `dual_reg` shrinks the bound: the dual of the wrong classes at W = 0, as a share of the uniform 1 / (k - 1)."""
    if not dual_reg:
        return 1.0
    assert lambda2 is not None
    per_lambda2 = (n_way - 1) / (dual_reg * n_way) if task_way is None else (task_way - 1) / (dual_reg * task_way.double())
    if isinstance(lambda2, Tensor):
        _checks.check_penalty_range("lambda2", lambda2, positive=True)
        lambda2 = lambda2.detach().double()
    share = lambda2 * per_lambda2
    return share.clamp(max=1.0) if isinstance(share, Tensor) else min(1.0, share)


def largest_group_norm(residual: Tensor, features: Tensor, group_size: int, group_weight: Tensor | None = None) -> Tensor:
    """max_G ||(residual^T F)_:G|| / w_G, rounded up by the bound on the rounding error, so that W is exactly zero from there."""
    largest = correlation_norms(residual, features, group_size, group_weight).amax(-1)
    return largest * (1 + 4 * features.shape[-2] * torch.finfo(residual.dtype).eps)


def correlation_norms(residual: Tensor, features: Tensor, group_size: int, group_weight: Tensor | None) -> Tensor:
    """||(residual^T F)_:G|| / w_G of all groups, (..., groups) float64."""
    with torch.autocast(features.device.type, enabled=False):
        if _sparse.is_sparse(features):
            correlation = _sparse.correlation(features, residual)
        elif features.dtype == residual.dtype:
            correlation = residual.mT @ features
        else:  # a copy of some columns at a time
            correlation = torch.cat([residual.mT @ columns.to(residual.dtype) for columns in features.split(256, -1)], -1)
    # Squares of large and of small single-precision numbers leave its range.
    norms = reference.group_norms(correlation.double(), group_size)
    return norms if group_weight is None else norms / group_weight


def exact(
    features: Tensor,
    labels: Tensor,
    n_way: int,
    task_way: Tensor | None,
    weight: Tensor,
    group_size: int,
    group_weight: Tensor | None,
) -> Tensor:
    """The minimum over the dual, (...,) in float64 like the sample weights.

    By Newton's method on lambda1_max = max_W sum_i c_i min_{l != y_i} (W_{y_i} - W_l) . f_i / sum_G w_G ||W_:G||: the minimum of
    the objective with lambda2 = 0 is concave in lambda1 and sum_i c_i from lambda1_max on; it bends there, so that few steps
    suffice. Its weights at any lambda1 bound the ratio from below, its dual without the own classes from above, converged or not.
    """
    device = features.device
    features, labels = features.cpu(), labels.cpu()  # lambda2 = 0 is solved there
    group_weight, task_way = (None if tensor is None else tensor.cpu() for tensor in (group_weight, task_way))
    weight = weight.cpu()
    bound = upper = cheap(features, labels, n_way, task_way, weight, group_size, group_weight)
    if n_way == 1:
        return upper.to(device)
    features = _present(features, weight)
    is_class = _checks.one_hot(labels, n_way)
    excluded = is_class | ~_checks.classes_of(n_way, task_way, labels).unsqueeze(-2)  # from what may be wrong
    options = _autograd.Options(
        n_way=n_way,
        group_size=group_size,
        dual_reg=0.0,
        tol=0.01 * _BRACKET,
        max_iter=100,
        on_failure="ignore",
        identify=False,
    )
    lower, ridge = torch.zeros_like(upper), torch.zeros_like(upper)
    penalty = 0.5 * upper
    dual = weights = None
    for step in range(_BRACKET_STEPS):
        penalty = torch.where(penalty > 0, penalty, 1.0)  # nothing to learn from
        tensors = (features, labels, weight, penalty, ridge, dual, weights, group_weight, task_way)
        found = Solution(*_autograd.apply(*tensors, options))
        dual, weights = found.dual.double(), found.weights
        scores = (features @ weights.mT).double()
        margin = scores.where(is_class, 0.0).sum(-1) - scores.masked_fill(excluded, -math.inf).amax(-1)
        norms = reference.group_norms(weights.double(), group_size)
        length = (norms if group_weight is None else norms * group_weight).sum(-1)
        lower = torch.maximum(lower, (weight * margin).sum(-1) / torch.where(length > 0, length, 1.0))
        # Any distribution over the wrong classes, also where the own one has all.
        wrong = (dual + _WRONG).masked_fill(excluded, 0.0)
        residual = weight.unsqueeze(-1) * (is_class.double() - wrong / wrong.sum(-1, keepdim=True).clamp(min=_WRONG))
        upper = torch.minimum(upper, largest_group_norm(residual, features, group_size, group_weight))
        open_ = (upper > (1 + _BRACKET) * lower) & (upper > _NOTHING * bound)
        if not open_.any():
            break
        # Without weights the penalty was too large, at worst by any factor.
        lowered = torch.where(lower > 0, 0.5 * (lower + upper), (0.5 if step < 3 else 0.1) * upper)
        penalty = torch.where(open_, torch.where(lower > penalty, lower, lowered), upper)
    return upper.to(device)


def _present(features: Tensor, sample_weight: Tensor) -> Tensor:
    """Samples of weight zero are zero, whatever they hold."""
    if _checks.are_positive(sample_weight):
        return features
    if _sparse.is_sparse(features):
        return _sparse.present(features, sample_weight)
    return features.where(sample_weight.unsqueeze(-1) > 0, 0.0)


_BRACKET_STEPS = 30
_BRACKET = 1e-4
_WRONG = 1e-12
_NOTHING = 1e-9  # of the bound: classes that overlap in every direction
