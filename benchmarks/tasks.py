"""Batches of tasks, their exact answers, and the error of anybody else's: all in float64, apart from the compiled solver
where a solution is judged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import sparsesvm
from benchmarks.problems import episode
from sparsesvm import reference


@dataclass(frozen=True)
class Tasks:
    """A batch of tasks of one shape with common penalties."""

    features: Tensor  # (tasks, n, m)
    labels: Tensor  # (tasks, n)
    n_way: int
    lambda1: float
    lambda2: float
    group_size: int = 1

    @property
    def penalties(self) -> dict[str, Any]:
        """Keyword arguments of `sparsesvm.solve` and `sparsesvm.reference.make_problem`."""
        return {"lambda1": self.lambda1, "lambda2": self.lambda2, "n_way": self.n_way, "group_size": self.group_size}

    @property
    def one_hot(self) -> Tensor:
        """Labels as (tasks, n, n_way), in the dtype of the features."""
        return torch.nn.functional.one_hot(self.labels, self.n_way).to(self.features)

    def to(self, dtype: torch.dtype) -> Tasks:
        """The same tasks with features in `dtype`."""
        return replace(self, features=self.features.to(dtype))


class Answer(NamedTuple):
    """What a peer returns: weights (tasks, n_way, m), and its dual (tasks, n, n_way) if it has one."""

    weights: Tensor
    dual: Tensor | None = None


class Exact(NamedTuple):
    """The solution to a gap of 1e-10 or better: a lower bound on each minimum, and the gradient of <cotangent, weights>."""

    minimum: Tensor  # (tasks,)
    active: float  # mean share of groups in use
    cotangent: Tensor  # (tasks, n_way, m)
    gradient: Tensor  # (tasks, n, m)


def make_tasks(
    n_way: int, n_samples: int, n_features: int, *, n_tasks: int, dtype: torch.dtype, lambda2: float = 0.1, group_size: int = 1
) -> Tasks:
    """`n_tasks` episodes with seeds from zero, without group penalty."""
    arrays = [episode(np.random.default_rng(seed), n_way, n_samples, n_features) for seed in range(n_tasks)]
    features = torch.stack([torch.from_numpy(features).to(dtype) for features, _ in arrays])
    labels = torch.stack([torch.from_numpy(labels) for _, labels in arrays])
    return Tasks(features, labels, n_way, 0.0, lambda2, group_size)


def penalty_for(share: float, tasks: Tasks, *, at_most: int = 8) -> float:
    """The lambda1 at which about this share of groups is active, on average over the first tasks; by bisection.

    Just below lambda1_max the share may jump from zero to more than is asked for; 0.999 times the largest of the tasks is the
    limit.
    """
    if share == 1:
        return 0.0
    features, labels = tasks.features[:at_most], tasks.labels[:at_most]
    largest = sparsesvm.lambda1_max(features, labels, exact=True, n_way=tasks.n_way, group_size=tasks.group_size).max()
    low, high = 0.0, 0.999 * float(largest)
    for _ in range(12):
        middle = (low + high) / 2
        options = {**tasks.penalties, "lambda1": middle, "tol": 1e-7, "on_failure": "ignore"}
        active = sparsesvm.solve(features, labels, **options).active.double().mean()
        low, high = (middle, high) if active > share else (low, middle)
    return high


def exact(tasks: Tasks) -> Exact:
    """Solve in float64 as far as the solver goes, differentiate, and refuse what is not certified to 1e-10."""
    features = tasks.features.detach().double().clone().requires_grad_()
    found = sparsesvm.solve(features, tasks.labels, **tasks.penalties, tol=1e-12, max_iter=300, on_failure="ignore")
    problem = reference.make_problem(tasks.features, tasks.labels, **tasks.penalties)
    weights, dual = found.weights.detach(), on_simplex(found.dual)
    minimum = problem.dual_objective(dual)
    if bool((problem.primal_objective(weights) - minimum > 1e-10 * tasks.features.shape[1]).any()):
        raise RuntimeError(f"the reference solution is not certified to 1e-10: gaps {found.gap.tolist()}")
    cotangent = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(found.weights, features, cotangent)
    return Exact(minimum, float(found.active.double().mean()), cotangent, gradient)


def relative_gap(tasks: Tasks, answer: Answer, minimum: Tensor) -> float:
    """Largest over the tasks of (P(W) - D) / P(W), D being the dual objective of the peer's dual, else the minimum."""
    problem = reference.make_problem(tasks.features, tasks.labels, **tasks.penalties)
    objective = problem.primal_objective(answer.weights.detach().double())
    bound = minimum if answer.dual is None else problem.dual_objective(on_simplex(answer.dual))
    gap = float(((objective - bound) / objective).max())
    return gap if gap == gap else float("inf")


def gradient_error(gradient: Tensor, exact_gradient: Tensor) -> float | None:
    """Norm of the error over the norm of the exact gradient, over the batch; None where all weights are zero."""
    norm = float(exact_gradient.norm())
    return float((gradient.double() - exact_gradient).norm()) / norm if norm else None


def on_simplex(dual: Tensor) -> Tensor:
    """A nearly feasible dual made feasible to float64."""
    dual = dual.detach().double().clamp(min=0)
    return dual / dual.sum(-1, keepdim=True)
