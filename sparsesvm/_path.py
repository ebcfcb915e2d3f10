"""Solutions of checked tensors along decreasing penalties, each started from the one before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparsesvm import _autograd, _checks, _lambda1_max
from sparsesvm.results import Solution

_MARGIN = 1e-4  # of the penalty, beyond the rounding of correlations in single precision


class Problem(NamedTuple):
    """What the solutions of a path share, as `_autograd.apply` takes it, of any number of tasks."""

    features: Tensor
    labels: Tensor
    sample_weight: Tensor
    lambda2: Tensor
    options: _autograd.Options
    group_weight: Tensor | None = None
    task_way: Tensor | None = None

    def solve(self, penalty: Tensor, dual: Tensor | None, weights: Tensor | None) -> Solution:
        """From a dual and weights, or none."""
        tensors = (self.features, self.labels, self.sample_weight, penalty, self.lambda2)
        return Solution(*_autograd.apply(*tensors, dual, weights, self.group_weight, self.task_way, self.options))


def along(problem: Problem, penalties: Tensor) -> list[Solution]:
    """For penalties (n_lambdas, ...)."""
    features = problem.features
    tensors = (features, problem.labels, problem.sample_weight, penalties, problem.lambda2)
    if features.dim() == 2 and features.layout == torch.strided and not features.is_cuda and _autograd.are_plain(*tensors):
        return _screened(problem, penalties)
    solutions: list[Solution] = []
    dual = weights = None
    for penalty in penalties:
        solutions.append(problem.solve(penalty, dual, weights))
        dual, weights = solutions[-1].dual.double(), solutions[-1].weights
    return solutions


def stack(solutions: list[Solution]) -> Solution:
    """Fields with one more leading axis."""
    return Solution(*(torch.stack(field) for field in zip(*solutions, strict=True)))


def _screened(problem: Problem, penalties: Tensor) -> list[Solution]:
    """Of one task, each on the groups that may be in use: by the sequential strong rule (Tibshirani et al. 2012) those whose
    correlation with the residual before is at least 2 lambda1 - (lambda1 before).

    A group has weights iff its correlation exceeds lambda1. So the dual found shows whether others have any; these are taken in
    until there are none, and the certificate is that of all features. Not for batches: there a task would depend on the others.
    """
    features, options = problem.features, problem.options
    is_class = _checks.one_hot(problem.labels, options.n_way).double()

    def correlations(dual: Tensor) -> Tensor:
        residual = (problem.sample_weight.unsqueeze(-1) * (is_class - dual)).to(features.dtype)
        return _lambda1_max.correlation_norms(residual, features, options.group_size, problem.group_weight)

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
            solution = _solve_on(used, problem, penalty, dual, weights)
            dual, weights = solution.dual.double(), solution.weights
            norm = correlations(dual)
            missed = ~used & ~(norm <= (1 - _MARGIN) * penalty)  # or not a number, which the solver is to see
            if not missed.any():
                break
            used |= missed
        solutions.append(solution)
        before = penalty
    return solutions


def _solve_on(used: Tensor, problem: Problem, penalty: Tensor, dual: Tensor | None, weights: Tensor | None) -> Solution:
    """The solution on the groups `used`, with zero weights for the others."""
    if used.all():
        return problem.solve(penalty, dual, weights)
    features, group_weight, options = problem.features, problem.group_weight, problem.options
    columns = used.repeat_interleave(options.group_size).nonzero().squeeze(1)
    start = None if weights is None else weights[:, columns]
    factors = None if group_weight is None else group_weight[used]
    part = problem._replace(features=features[:, columns], group_weight=factors).solve(penalty, dual, start)
    every = part.weights.new_zeros(options.n_way, features.shape[1]).index_copy(1, columns, part.weights)
    active = torch.zeros_like(used)
    active[used] = part.active
    return part._replace(weights=every, active=active)
