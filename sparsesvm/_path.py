"""Solutions of checked tensors along decreasing penalties, each started from the one before."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsesvm import _autograd, _checks, _lambda1_max
from sparsesvm.results import Solution

_MARGIN = 1e-4  # of the penalty, beyond the rounding of correlations in single precision


def along(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor,
    penalties: Tensor,
    lambda2: Tensor,
    options: _autograd.Options,
    group_weight: Tensor | None = None,
    task_way: Tensor | None = None,
) -> list[Solution]:
    """Of tensors as `_autograd.apply` takes them, for penalties (n_lambdas, ...) of any number of tasks."""
    tensors = (features, labels, sample_weight, penalties, lambda2)
    if features.dim() == 2 and features.layout == torch.strided and not features.is_cuda and _autograd.are_plain(*tensors):
        return _screened(*tensors, options, group_weight)
    solutions: list[Solution] = []
    dual = weights = None
    for penalty in penalties:
        arguments = (features, labels, sample_weight, penalty, lambda2, dual, weights, group_weight, task_way)
        solutions.append(Solution(*_autograd.apply(*arguments, options)))
        dual, weights = solutions[-1].dual.double(), solutions[-1].weights
    return solutions


def stack(solutions: list[Solution]) -> Solution:
    """Fields with one more leading axis."""
    return Solution(*(torch.stack(field) for field in zip(*solutions, strict=True)))


def _screened(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor,
    penalties: Tensor,
    lambda2: Tensor,
    options: _autograd.Options,
    group_weight: Tensor | None,
) -> list[Solution]:
    """Of one task, each on the groups that may be in use: by the sequential strong rule (Tibshirani et al. 2012) those whose
    correlation with the residual before is at least 2 lambda1 - (lambda1 before).

    A group has weights iff its correlation exceeds lambda1. So the dual found shows whether others have any; these are taken in
    until there are none, and the certificate is that of all features. Not for batches: there a task would depend on the others.
    """
    is_class = _checks.one_hot(labels, options.n_way).double()

    def correlations(dual: Tensor) -> Tensor:
        residual = (sample_weight.unsqueeze(-1) * (is_class - dual)).to(features.dtype)
        return _lambda1_max.correlation_norms(residual, features, options.group_size, group_weight)

    solutions: list[Solution] = []
    dual = weights = None
    norm = correlations(torch.full_like(is_class, 1 / options.n_way))
    before = 1.5 * penalties[0]
    for penalty in penalties:
        used = norm >= 2 * penalty - before
        used[norm.argmax()] = True
        while True:
            if 2 * int(used.sum()) > len(used):
                used = torch.ones_like(used)
            solution = _solve_on(used, features, labels, sample_weight, penalty, lambda2, dual, weights, options, group_weight)
            dual, weights = solution.dual.double(), solution.weights
            norm = correlations(dual)
            missed = ~used & ~(norm <= (1 - _MARGIN) * penalty)  # or not a number, which the solver is to see
            if not missed.any():
                break
            used |= missed
        solutions.append(solution)
        before = penalty
    return solutions


def _solve_on(
    used: Tensor,
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor,
    penalty: Tensor,
    lambda2: Tensor,
    dual: Tensor | None,
    weights: Tensor | None,
    options: _autograd.Options,
    group_weight: Tensor | None,
) -> Solution:
    """The solution on the groups `used`, with zero weights for the others."""
    tensors = (labels, sample_weight, penalty, lambda2, dual)
    if used.all():
        return Solution(*_autograd.apply(features, *tensors, weights, group_weight, None, options))
    columns = used.repeat_interleave(options.group_size).nonzero().squeeze(1)
    start = None if weights is None else weights[:, columns]
    factors = None if group_weight is None else group_weight[used]
    part = Solution(*_autograd.apply(features[:, columns], *tensors, start, factors, None, options))
    every = part.weights.new_zeros(options.n_way, features.shape[1]).index_copy(1, columns, part.weights)
    active = torch.zeros_like(used)
    active[used] = part.active
    return part._replace(weights=every, active=active)
