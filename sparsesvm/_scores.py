"""Scores of samples less a mean, each divided by its length if asked.

`scores` centres a copy of the samples. `scores_in_place` makes none, neither forward nor backward, where that costs no digits:

    ((f - mean) / d) W' = (f W' - mean W') / d,   d^2 = ||f - mean||^2 = ||f||^2 - 2 f . mean + ||mean||^2
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sparsesvm import _autograd


def scores(features: Tensor, weights: Tensor, mean: Tensor | None, each: bool) -> Tensor:
    """Scores (..., n, k) of features (..., n, m) under weights (..., k, m), with a mean (..., 1, m)."""
    if mean is not None:
        features = features - mean
    found = features @ weights.mT
    return found / length(features) if each else found


def length(features: Tensor) -> Tensor:
    """Length of each sample, (..., n, 1); one for a sample of zeros, which stays so."""
    # Not a norm, whose derivative masks all of the features.
    total = torch.linalg.vecdot(features, features).unsqueeze(-1)
    return torch.where(total > 0, total, 1.0).sqrt()


def square(features: Tensor) -> Tensor:
    """Squared length of each sample, (..., n, 1)."""
    norm: Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return norm.square()


def is_small(squares: Tensor, differences: Tensor) -> bool:
    """Whether what has these squares may be subtracted after products: of the differences one digit is lost at most."""
    return bool((squares < 10 * differences).all())


def can_work_in_place(*tensors: Tensor) -> bool:
    """Values that can be looked at without waiting, and no transform, which would need a rule of its own."""
    return all(t.device.type == "cpu" and t.numel() for t in tensors) and _autograd.are_plain(*tensors)


def scores_in_place(features: Tensor, weights: Tensor, mean: Tensor, each: bool) -> Tensor | None:
    """What `scores` gives, for tensors that pass `can_work_in_place`. The features may be shared by the tasks: (n, m).

    None where the shapes need broadcasting in another way, or a sample is so near the mean that digits would be lost.
    """
    tasks, (n, m), k = weights.shape[:-2], features.shape[-2:], weights.shape[-2]
    if features.dim() == 2:
        shape = (1, -1)
    elif features.shape[:-2] == tasks:
        shape = (-1, 1)
    else:
        return None
    features, weights = features.reshape(-1, n, m), weights.reshape(*shape, k, m)
    mean = mean.reshape(*shape, m)
    distance = None
    if each:
        with torch.no_grad():
            own = square(features)
            squares = own - features @ (2 * mean).mT + square(mean).mT
            if not is_small(own, squares):
                return None
            distance = squares.sqrt()
    found = ScoresInPlace.apply(features, weights, mean, distance)  # type: ignore[no-untyped-call]
    by_task: Tensor = found.movedim(1, 2).reshape(*tasks, n, k)
    return by_task


class ScoresInPlace(Function):
    """Of features (t, n, m) under weights (t, s, k, m) less means (t, s, m), at distances (t, n, s) to divide by, or None:
    (t, n, s, k)."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor, mean: Tensor, distance: Tensor | None) -> Tensor:
        found: Tensor = (features @ weights.flatten(1, 2).mT).unflatten(-1, weights.shape[1:3])
        found -= (mean.unsqueeze(2) @ weights.mT).movedim(2, 1)
        if distance is not None:
            found /= distance.unsqueeze(-1)
        ctx.save_for_backward(features, weights, mean, distance, found)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weights, mean, distance, found = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            again = scores(features.unsqueeze(1), weights, mean.unsqueeze(2), distance is not None).movedim(1, 2)
            return (*torch.autograd.grad(again, (features, weights, mean), grad, create_graph=True, allow_unused=True), None)
        k, flat = weights.shape[2], weights.flatten(1, 2)
        if distance is None:
            total = grad.sum(1)
            grad = grad.flatten(-2)
            grad_features, grad_weights = grad @ flat, grad.mT @ features
            grad_mean = -(total.unsqueeze(-2) @ weights).squeeze(-2)
        else:
            # The derivative of the distance pulls a sample towards the mean.
            pull = (grad * found).sum(-1) / distance.square()
            grad = grad / distance.unsqueeze(-1)
            total = grad.sum(1)
            both = torch.cat([grad.flatten(-2), pull], -1)
            grad_features = (features * -pull.sum(-1, keepdim=True)).baddbmm_(both, torch.cat([flat, mean], 1))
            grad_weights, grad_mean = (both.mT @ features).split([flat.shape[1], mean.shape[1]], 1)
            grad_mean = grad_mean - pull.sum(1).unsqueeze(-1) * mean - (total.unsqueeze(-2) @ weights).squeeze(-2)
        grad_weights = grad_weights.unflatten(1, (-1, k)).addcmul_(total.unsqueeze(-1), mean.unsqueeze(2), value=-1)
        return grad_features, grad_weights, grad_mean, None
