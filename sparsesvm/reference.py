"""The reference twin: the same problem in plain torch, slow and obvious.

It shares no code with the compiled solver, computes everything in float64 and can be differentiated by autograd, through
its iterations (`unrolled_weights`) or through the optimality conditions (`implicit_weights`). Tests use it as the oracle
for values and gradients; use `sparsesvm.solve` for everything else.

One task has features F (n x m), one-hot labels Y (n x k), sample weights c and weights W (k x m):

    P(W) = sum_i c_i * max_l [1 - Y_il + (W_l - W_{y_i}) . f_i] + lambda1 * sum_G w_G ||W_G|| + lambda2 / 2 * ||W||^2

with one group G per `group_size` consecutive features, of weight w_G. The dual variable holds one probability vector Lambda_i
per sample.

Source: Lachapelle et al. 2023 (arXiv 2211.14666), the inner problem and its dual.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor


def project_simplex(x: Tensor) -> Tensor:
    """Euclidean projection of each row (last axis) on the probability simplex; zeros of the result are exact.

    Entries of minus infinity become zero.
    """
    x = x - x.detach().amax(-1, keepdim=True)
    descending = x.sort(dim=-1, descending=True).values
    counts = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    thresholds = (descending.cumsum(-1) - 1) / counts
    support_size = (descending > thresholds).sum(-1, keepdim=True)
    return torch.relu(x - thresholds.gather(-1, support_size - 1))


def block_soft_threshold(x: Tensor, threshold: Tensor, group_size: int = 1, group_weight: Tensor | None = None) -> Tensor:
    """Proximal operator of threshold * sum_G w_G ||x_G||, for x of shape (..., n_way, n_features) and threshold (...,).

    A zero threshold is the identity, with derivative one, also where a group is zero.
    """
    threshold = threshold[..., None, None, None]
    if group_weight is not None:
        threshold = threshold * group_weight[:, None]
    blocks: Tensor = x.unflatten(-1, (-1, group_size))
    squared = blocks.square().sum((-3, -1), keepdim=True)
    beyond = squared.detach() > threshold.detach() ** 2
    # The norm is taken where it is positive only: its derivative at zero would be 0/0.
    norm = torch.where(beyond, squared, torch.ones_like(squared)).sqrt()
    factor = torch.where(beyond, 1 - threshold / norm, (threshold.detach() == 0).to(x.dtype))
    thresholded: Tensor = factor * blocks
    return thresholded.flatten(-2)


def group_norms(x: Tensor, group_size: int = 1) -> Tensor:
    """Norm of each group of x (..., n_way, n_features), as (..., n_features / group_size)."""
    squares = x.square().sum(-2)
    if group_size > 1:
        squares = squares.unflatten(-1, (-1, group_size)).sum(-1)
    # Where a norm is zero, its derivative is too.
    return squares.masked_fill(squares == 0, 1.0).sqrt().masked_fill(squares == 0, 0.0)


@dataclass(frozen=True)
class Problem:
    """A batch of tasks in float64; build it with `make_problem`."""

    features: Tensor  # (..., n, m)
    one_hot: Tensor  # (..., n, k)
    sample_weight: Tensor  # (..., n)
    lambda1: Tensor  # (...,)
    lambda2: Tensor  # (...,)
    group_size: int
    dual_reg: float
    group_weight: Tensor | None = None  # (groups,)
    absent: Tensor | None = None  # (..., 1, k), the classes that a task lacks

    @property
    def smoothing(self) -> Tensor:
        """dual_reg / lambda2, the curvature of the smoothed hinge, as (..., 1, 1)."""
        return self.dual_reg / self.lambda2[..., None, None]

    def weights_from_dual(self, dual: Tensor) -> Tensor:
        """The link: W = block soft-thresholding of V = (c (Y - Lambda))^T F by lambda1, divided by lambda2."""
        residual = self.sample_weight[..., None] * (self.one_hot - dual)
        correlation = residual.transpose(-1, -2) @ self.features
        return block_soft_threshold(correlation, self.lambda1, self.group_size, self.group_weight) / self.lambda2[..., None, None]

    def score_residual(self, weights: Tensor) -> Tensor:
        """Y - F W^T, the gradient of the negative dual with respect to c Lambda (without its smoothing term)."""
        return self.one_hot - self.features @ weights.transpose(-1, -2)

    def response_value(self, weights: Tensor, rows: Tensor) -> Tensor:
        """phi_i(q) = -<(Y - S)_i, q> - dual_reg / (2 lambda2) * ||q - Y_i||^2 for each row q of `rows`: (..., n)."""
        deviation = (rows - self.one_hot).square().sum(-1)
        return -(self.score_residual(weights) * rows).sum(-1) - self.smoothing[..., 0] / 2 * deviation

    def best_response(self, weights: Tensor) -> Tensor:
        """The maximiser of phi_i over the simplex of the classes present, for each sample."""
        residual = self.score_residual(weights)
        if self.dual_reg == 0:
            return torch.nn.functional.one_hot(self.barred(-residual).argmax(-1), residual.shape[-1]).to(residual)
        return project_simplex(self.barred(self.one_hot - residual / self.smoothing))

    def barred(self, rows: Tensor) -> Tensor:
        """Minus infinity at the classes that a task lacks, where a projection on the simplex is then zero."""
        return rows if self.absent is None else rows.masked_fill(self.absent, -math.inf)

    def primal_objective(self, weights: Tensor) -> Tensor:
        """P(W), for each task."""
        true_score = 1 - (self.score_residual(weights) * self.one_hot).sum(-1)
        hinge = self.response_value(weights, self.best_response(weights)) + 1 - true_score
        norms = group_norms(weights, self.group_size)
        group_penalty = self.lambda1 * (norms if self.group_weight is None else norms * self.group_weight).sum(-1)
        ridge = self.lambda2 / 2 * weights.square().sum((-1, -2))
        return (self.sample_weight * hinge).sum(-1) + group_penalty + ridge

    def dual_objective(self, dual: Tensor) -> Tensor:
        """D(Lambda) = sum_i c_i (1 - <Y_i, Lambda_i> - smoothing / 2 * ||Lambda_i - Y_i||^2) - lambda2 / 2 * ||W||^2."""
        deviation = (dual - self.one_hot).square().sum(-1)
        linear = 1 - (self.one_hot * dual).sum(-1) - self.smoothing[..., 0] / 2 * deviation
        ridge = self.lambda2 / 2 * self.weights_from_dual(dual).square().sum((-1, -2))
        return (self.sample_weight * linear).sum(-1) - ridge

    def duality_gap(self, dual: Tensor) -> Tensor:
        """P(W) - D(Lambda) at W = weights_from_dual(Lambda), as a sum of non-negative terms: no cancellation."""
        weights = self.weights_from_dual(dual)
        best = self.response_value(weights, self.best_response(weights))
        return (self.sample_weight * (best - self.response_value(weights, dual))).sum(-1)

    def dual_gradient(self, dual: Tensor) -> Tensor:
        """Gradient of -D with respect to c_i Lambda_i."""
        return self.score_residual(self.weights_from_dual(dual)) + self.smoothing * (dual - self.one_hot)

    def detach(self) -> Problem:
        """The same problem, unknown to autograd."""
        tensors: dict[str, Any] = {name: value.detach() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


class ReferenceSolution(NamedTuple):
    """Weights (..., k, m), dual (..., n, k), gap and objective (...,) of the twin."""

    weights: Tensor
    dual: Tensor
    gap: Tensor
    objective: Tensor


def make_problem(
    features: Tensor,
    labels: Tensor,
    *,
    lambda1: float | Tensor,
    lambda2: float | Tensor,
    n_way: int | Tensor | None = None,
    sample_weight: Tensor | None = None,
    group_size: int = 1,
    dual_reg: float = 0.0,
    group_weight: Tensor | None = None,
) -> Problem:
    """Bring the arguments of `sparsesvm.solve` to float64 and to one shape. Samples of weight zero are absent."""
    n_classes = int(labels.max()) + 1 if n_way is None else int(n_way.max()) if isinstance(n_way, Tensor) else n_way
    features = features.double()
    batch = features.shape[:-2]

    def per_task(value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=features.device).expand(batch)

    weight = features.new_ones(labels.shape) if sample_weight is None else sample_weight.double()
    features = torch.where(weight[..., None] > 0, features, torch.zeros_like(features))
    one_hot = torch.nn.functional.one_hot(labels, n_classes).double()
    group_weight = None if group_weight is None else group_weight.double()
    absent = None
    if isinstance(n_way, Tensor):
        absent = (torch.arange(n_classes, device=features.device) >= n_way[..., None])[..., None, :]
    penalties = (per_task(lambda1), per_task(lambda2))
    return Problem(features, one_hot, weight, *penalties, group_size, dual_reg, group_weight, absent)


def solve(problem: Problem, *, tol: float = 1e-12, max_iter: int = 100_000, init_dual: Tensor | None = None) -> ReferenceSolution:
    """Maximise the dual by accelerated projected gradient until every gap <= tol * sum_i c_i, or for max_iter steps."""
    problem = problem.detach()
    dual = problem.one_hot if init_dual is None else project_simplex(problem.barred(init_dual.double()))
    limit = tol * problem.sample_weight.sum(-1)
    check_every = 20
    iterates = _Accelerated(problem, dual)
    for iteration in range(max_iter):
        if iteration % check_every == 0 and bool((problem.duality_gap(iterates.dual) <= limit).all()):
            break
        iterates.step(restart_when_uphill=True)
    dual = iterates.dual
    weights = problem.weights_from_dual(dual)
    return ReferenceSolution(weights, dual, problem.duality_gap(dual), problem.primal_objective(weights))


def unrolled_weights(problem: Problem, dual: Tensor, *, n_steps: int, restart_every: int = 50) -> Tensor:
    """Weights after n_steps recorded steps from a solution's dual, which autograd differentiates step by step.

    The gradient tends to that of the solution map as n_steps grows: the steps contract on the face that holds the
    solution. The momentum restarts at fixed steps, as the iterates themselves stand still.
    """
    iterates = _Accelerated(problem, dual.detach())
    for iteration in range(n_steps):
        if iteration % restart_every == 0:
            iterates.restart()
        iterates.step(restart_when_uphill=False)
    return problem.weights_from_dual(iterates.dual)


class _Accelerated:
    """FISTA on the dual, with one momentum per task."""

    def __init__(self, problem: Problem, dual: Tensor) -> None:
        self.problem = problem
        self.dual = dual
        with torch.no_grad():
            rows = problem.features * problem.sample_weight.sqrt()[..., None]
            curvature = torch.linalg.matrix_norm(rows, ord=2).square() + problem.dual_reg
            lambda2 = problem.lambda2
            self.step_size = torch.where(curvature > 0, lambda2 / curvature, torch.ones_like(lambda2))[..., None, None]
        self.restart()

    def restart(self) -> None:
        self.extrapolated = self.dual
        self.momentum = torch.ones_like(self.step_size)

    def step(self, *, restart_when_uphill: bool) -> None:
        descent = self.step_size * self.problem.dual_gradient(self.extrapolated)
        new = project_simplex(self.problem.barred(self.extrapolated - descent))
        momentum = (1 + (1 + 4 * self.momentum.square()).sqrt()) / 2
        weight = (self.momentum - 1) / momentum
        if restart_when_uphill:
            progress = self.problem.sample_weight[..., None] * (self.extrapolated - new) * (new - self.dual)
            uphill = progress.sum((-1, -2), keepdim=True) > 0
            momentum = torch.where(uphill, torch.ones_like(momentum), momentum)
            weight = torch.where(uphill, torch.zeros_like(weight), weight)
        self.extrapolated = new + weight * (new - self.dual)
        self.momentum = momentum
        self.dual = new


def implicit_weights(problem: Problem, dual: Tensor) -> Tensor:
    """Weights of one task (no batch axes), differentiable through the optimality conditions at its solution's dual.

    On the face of the solution the free entries of each row tie; one recorded Newton step on these ties has the value
    of the solution and its derivative. Where the ties do not determine the dual, the step of smallest norm is taken.
    """
    return problem.weights_from_dual(_newton_on_face(problem, dual))


def polish(problem: Problem, dual: Tensor, *, n_steps: int = 5) -> Tensor:
    """Newton steps on the face of an accurate dual of one task, kept while they stay feasible and lower the gap."""
    problem, dual = problem.detach(), dual.detach()
    for _ in range(n_steps):
        candidate = _newton_on_face(problem, dual)
        if bool(candidate.min() < 0) or bool(problem.duality_gap(candidate) >= problem.duality_gap(dual)):
            break
        dual = candidate
    return dual


def _newton_on_face(problem: Problem, dual: Tensor) -> Tensor:
    """Move the free entries of `dual` so that their gradients tie, to first order; the matrix is not recorded."""
    dual = dual.detach()
    base = dual.argmax(-1)
    free = (dual > 0) & (problem.sample_weight.detach() > 0)[:, None]
    free = free.scatter(-1, base[:, None], False)
    rows, classes = free.nonzero(as_tuple=True)
    base_one_hot = torch.nn.functional.one_hot(base, dual.shape[-1]).to(dual)
    present = torch.where(problem.sample_weight.detach() > 0, problem.sample_weight.detach(), 1.0)

    def moved(step: Tensor) -> Tensor:
        entries = torch.zeros_like(dual).index_put((rows, classes), step)
        # Steps count in units of c_i Lambda_i, in which the second derivative is symmetric.
        return dual + (entries - base_one_hot * entries.sum(-1, keepdim=True)) / present[:, None]

    def ties(at: Problem) -> Callable[[Tensor], Tensor]:
        def violation(step: Tensor) -> Tensor:
            gradient = at.dual_gradient(moved(step))
            return gradient[rows, classes] - gradient[rows, base[rows]]

        return violation

    origin = dual.new_zeros(len(rows))
    matrix = torch.func.jacrev(ties(problem.detach()))(origin)
    inverse = torch.linalg.pinv(matrix, rtol=1e-11, hermitian=True)
    return moved(-inverse @ ties(problem)(origin))
