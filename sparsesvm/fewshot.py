"""What all few-shot heads share: a linear classifier fitted to the support set, differentiable end to end.

One call, so that one training script can swap them::

    logits = head(query, support, support_labels)        # fit and score in one go
    fitted = head.fit(support, support_labels)           # fit once ...
    fitted.predict(query)                                # ... predict many times
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from sparsesvm import _checks, _scores

Normalize = bool | Literal["each"]

# The bias of a class that is never predicted: hugely negative, but finite, and so is its product with a gradient in single
# precision.
NEVER = -math.sqrt(torch.finfo(torch.float32).max)


class FittedHead(nn.Module):
    """A classifier fitted to a support set, affine in the standardised features: a module that scores queries.

    What was fitted is buffers, so that `.to()`, `state_dict()`, `torch.save` and `torch.load` with its default, and
    `torch.export` work as on any module. Straight from a head they are part of its graph; `detach` cuts them off.

    Attributes:
        weights: (..., n_way, n_features).
        bias: (..., n_way), or None.
        mean: (..., 1, n_features), subtracted from every query; None when the head does not centre.
        norm: (..., 1, 1), divides every query; None when the head does not normalise, or normalises each sample.
        scale: the logit scale, ().
        each: every query is divided by its own norm, after `mean` is subtracted.
        mean_is_small: beside the deviations of the support samples from it, so that scores need no centred copy of the queries.
    """

    weights: Tensor
    bias: Tensor | None
    mean: Tensor | None
    norm: Tensor | None
    scale: Tensor

    def __init__(
        self,
        weights: Tensor,
        bias: Tensor | None,
        mean: Tensor | None,
        norm: Tensor | None,
        scale: Tensor | float,
        each: bool = False,
        mean_is_small: bool = False,
    ) -> None:
        super().__init__()
        scale = scale if isinstance(scale, Tensor) else torch.tensor(scale, device=weights.device)
        for name, value in {"weights": weights, "bias": bias, "mean": mean, "norm": norm, "scale": scale}.items():
            if value is None:
                setattr(self, name, None)  # torch.export miscounts buffers that are None
            else:
                self.register_buffer(name, value)
        self.each = each
        self.mean_is_small = mean_is_small

    def forward(self, query: Tensor) -> Tensor:
        """Logits (..., n_query, n_way) of the query samples (..., n_query, n_features), in the dtype of `query`; samples
        (n_query, n_features) are shared by all tasks."""
        fitted = self.weights, self.bias, self.mean, self.norm, self.scale, self.each, self.mean_is_small
        return _logits(query, *fitted)

    decision_function = forward

    def detach(self) -> "FittedHead":
        """The same values outside of any graph."""
        bias, mean, norm = (None if tensor is None else tensor.detach() for tensor in (self.bias, self.mean, self.norm))
        return FittedHead(self.weights.detach(), bias, mean, norm, self.scale.detach(), self.each, self.mean_is_small)

    def predict(self, query: Tensor) -> Tensor:
        """Class with the largest logit, (..., n_query) int64; half precision does not round the logits before."""
        _checks.check_query(query, self.weights, "query")
        return self.decision_function(query.to(self.weights.dtype)).argmax(-1)


torch.serialization.add_safe_globals([FittedHead])  # for torch.load with its default, weights_only


class FewShotHead(nn.Module):
    """What all heads share: standardised features, a logit scale, the call. A subclass fits the linear classifier."""

    log_scale: nn.Parameter | None

    def __init__(self, *, center: bool, normalize: Normalize, scale: float, learn_scale: bool) -> None:
        super().__init__()
        if normalize not in (True, False, "each"):
            raise ValueError(f'normalize must be True, False or "each"; got {normalize!r}')
        scale = _checks.check_number("scale", scale, positive=True)
        self.center = center
        self.normalize = normalize
        self.scale = scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learn_scale else None

    def forward(
        self,
        query: Tensor,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | Tensor | None = None,
        n_shot: int | None = None,
        *,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Fit the classifier to the support set and score the query samples.

        Args:
            query: (..., n_query, n_features), any floating-point dtype; or (n_query, n_features), shared by all tasks.
            support: (..., n_support, n_features).
            support_labels: (..., n_support) integers in [0, n_way), in any order; of absent samples anything, such as -100.
            n_way: number of classes; by default the largest label + 1, which must be known in advance, hence given,
                under `torch.compile`, `torch.export` and `torch.func.vmap`. Or one number for each task, an integer tensor
                (...,): a task is fitted as it is alone, and classes that it lacks are never predicted.
            n_shot: only checked: the support set must then hold n_way * n_shot samples, of the largest n_way. Nothing else
                depends on it.
            sample_weight: (..., n_support), >= 0. Zero removes a sample: tasks of different size share a batch by
                padding, and what the padding holds changes nothing.

        Returns:
            Logits (..., n_query, n_way) in the dtype of `query`. Half-precision inputs are solved in float32.
        """
        return _logits(query, *self._fit(support, support_labels, n_way, n_shot, sample_weight))

    def fit(
        self,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | Tensor | None = None,
        n_shot: int | None = None,
        *,
        sample_weight: Tensor | None = None,
    ) -> FittedHead:
        """Fit the classifier to the support set; the arguments are those of the call."""
        return FittedHead(*self._fit(support, support_labels, n_way, n_shot, sample_weight))

    def _fit(
        self,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | Tensor | None,
        n_shot: int | None,
        sample_weight: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | float, bool, bool]:
        """The arguments of `FittedHead`: a call of the head needs no module, which takes longer to make than a small task."""
        _checks.check_features(support, "support")
        _checks.check_labels(support_labels, support, "support_labels", "support")
        if sample_weight is not None:
            _checks.check_sample_weight(sample_weight, support, "support")
        n_way, task_way = _checks.split_n_way(n_way, support, "support")
        n_way = _checks.find_n_way(support_labels, n_way, sample_weight)
        labels = _checks.class_numbers(support_labels, sample_weight)
        seen = _checks.check_label_range(labels, n_way, task_way, "support_labels")
        if n_shot is not None and support.shape[-2] != n_way * n_shot:
            raise ValueError(
                f"support must hold n_way * n_shot = {n_way} * {n_shot} samples; got {support.shape[-2]}. "
                "Leave n_shot out for tasks with unequal classes."
            )
        with _full_precision(support):
            support = support.to(torch.promote_types(support.dtype, torch.float32))
            mean = norm = None
            mean_is_small = False
            if sample_weight is not None:
                sample_weight = sample_weight.to(support.dtype)
                _checks.check_penalty_range("sample_weight", sample_weight)
            sample_weight = self._weigh(labels, n_way, sample_weight, support.dtype)
            if sample_weight is not None and not _checks.are_positive(sample_weight):
                # An absent sample may hold anything, NaN included, which a product with zero would keep.
                support = support.where(sample_weight.unsqueeze(-1) > 0, 0.0)
            _checks.check_finite("support", support)
            if self.center:
                mean = _weighted_mean(support, sample_weight)
                support = support - mean
                if _scores.can_work_in_place(support, mean):
                    with torch.no_grad():
                        deviation = _weighted_mean(_scores.square(support), sample_weight)
                        mean_is_small = _scores.is_small(_scores.square(mean), deviation)
            if self.normalize == "each":
                support = support / _scores.length(support)
            elif self.normalize:
                mean_square = _weighted_mean(support.square().sum(-1, keepdim=True), sample_weight)
                # A support set of identical samples is all zero once centred, and stays so.
                norm = torch.where(mean_square > 0, mean_square, 1.0).sqrt()
                support = support / norm
            if not seen:
                # Labels of no class must not pass for an answer.
                below = labels < (n_way if task_way is None else task_way.unsqueeze(-1))
                support = support.where(((labels >= 0) & below).unsqueeze(-1), math.nan)
            weights, bias = self._fit_linear(support, labels, n_way, sample_weight, task_way)
            if task_way is not None:
                there = _checks.classes_of(n_way, task_way, labels)
                bias = torch.where(there, weights.new_zeros(()) if bias is None else bias, NEVER)
            scale = self.scale if self.log_scale is None else self.log_scale.exp()
            return weights, bias, mean, norm, scale, self.normalize == "each", mean_is_small

    def _weigh(self, labels: Tensor, n_way: int, sample_weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """The weights that samples take in mean, norm and fit: those given, unless a subclass weighs classes."""
        return sample_weight

    def _fit_linear(
        self, features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None, task_way: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Weights (..., n_way, n_features) and bias (..., n_way) for standardised features. `task_way`: the classes of each task
        (...,) where they differ."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        scale = f"scale={self.scale}, learn_scale={self.log_scale is not None}"
        return f"center={self.center}, normalize={self.normalize}, {scale}"


def _logits(
    query: Tensor,
    weights: Tensor,
    bias: Tensor | None,
    mean: Tensor | None,
    norm: Tensor | None,
    scale: Tensor | float,
    each: bool,
    mean_is_small: bool,
) -> Tensor:
    _checks.check_query(query, weights, "query")
    with _full_precision(query):
        features = query.to(weights.dtype)
        logits = None
        if mean is not None and mean_is_small and _scores.can_work_in_place(features, weights, mean):
            logits = _scores.scores_in_place(features, weights, mean, each)
        if logits is None:
            logits = _scores.scores(features, weights, mean, each)
        if norm is not None:
            logits = logits / norm  # the logits are fewer than the features
        if bias is not None:
            logits = logits + bias.unsqueeze(-2)
        logits = scale * logits
        limit = torch.finfo(query.dtype).max
        if limit < torch.finfo(logits.dtype).max:  # float16 ends at 65504, before the logit of an empty class
            logits = logits.clamp(-limit, limit)
        return logits.to(query.dtype)


def log_parameter(value: float | None) -> nn.Parameter | None:
    return nn.Parameter(torch.tensor(math.log(value))) if value else None


def _full_precision(tensor: Tensor) -> torch.autocast:
    """No autocast inside: the solvers work in float32 at least."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _weighted_mean(values: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Mean over the samples, (..., 1, n); zero when all samples are absent."""
    if sample_weight is None:
        return values.mean(-2, keepdim=True)
    weight = sample_weight.unsqueeze(-1)
    total = weight.sum(-2, keepdim=True)
    return (weight * values).sum(-2, keepdim=True) / torch.where(total > 0, total, 1.0)
