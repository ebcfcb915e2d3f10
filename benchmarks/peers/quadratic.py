"""The dual without group penalty as a quadratic program in alpha = (Y - Lambda) / lambda2, as MetaOptNet poses it:

    minimise 1/2 <alpha, K alpha> - <Y, alpha>  with  alpha <= Y / lambda2  and rows of alpha summing to zero,

K = F F^T over samples. Variables are ordered sample by sample, class by class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.peers.base import Differentiate, Peer, Solve
from benchmarks.tasks import Answer, Tasks


class Program(NamedTuple):
    """Matrices of the program but the one that depends on the features; batched."""

    linear: Tensor
    inequality: Tensor
    upper: Tensor
    equality: Tensor
    right: Tensor


def program(one_hot: Tensor, lambda2: float) -> Program:
    """The program for one-hot labels (tasks, n, k)."""
    n_tasks, n_samples, n_way = one_hot.shape
    targets = one_hot.reshape(n_tasks, -1)
    identity = torch.eye(n_samples * n_way, dtype=one_hot.dtype, device=one_hot.device).expand(n_tasks, -1, -1)
    sums = torch.eye(n_samples, dtype=one_hot.dtype, device=one_hot.device).repeat_interleave(n_way, 1).expand(n_tasks, -1, -1)
    return Program(-targets, identity, targets / lambda2, sums, one_hot.new_zeros(n_tasks, n_samples))


def quadratic(features: Tensor, n_way: int, ridge: float) -> Tensor:
    """(K + ridge I) kron I_k."""
    gram = features @ features.mT + ridge * torch.eye(features.shape[-2], dtype=features.dtype, device=features.device)
    size = features.shape[-2] * n_way
    expanded = gram[:, :, None, :, None] * torch.eye(n_way, dtype=features.dtype, device=features.device)[:, None, :]
    return expanded.reshape(-1, size, size)


class _QuadraticPeer(Peer):
    """What qpth and ProxSuite share: alpha from the features, differentiable."""

    sparse = False
    differentiable = True
    largest = 1000  # of n k: a solve takes seconds beyond, and the matrices of a batch fill the memory

    def refusal(self, tasks: Tasks) -> str | None:
        """Large programs are out of reach."""
        size = tasks.features.shape[1] * tasks.n_way
        too_large = f"{size} variables; dense factorisations beyond {self.largest} not tried" if size > self.largest else None
        return super().refusal(tasks) or too_large

    @abstractmethod
    def layer(self, one_hot: Tensor, lambda2: float) -> Callable[[Tensor, float], Tensor]:
        """(features, setting) -> alpha as (tasks, n, k)."""

    def prepare(self, tasks: Tasks) -> Solve:
        """Alpha, and the weights it stands for."""
        layer = self.layer(tasks.one_hot, tasks.lambda2)

        @torch.no_grad()
        def solve(setting: float) -> Answer:
            alpha = layer(tasks.features, setting)
            return Answer(alpha.mT @ tasks.features, tasks.one_hot - tasks.lambda2 * alpha)

        return solve

    def prepare_gradient(self, tasks: Tasks, cotangent: Tensor) -> Differentiate:
        """Through the layer and through the Gram matrix."""
        layer = self.layer(tasks.one_hot, tasks.lambda2)
        features, cotangent = tasks.features.clone().requires_grad_(), cotangent.to(tasks.features.dtype)

        def differentiate(setting: float) -> Tensor:
            weights = layer(features, setting).mT @ features
            return torch.autograd.grad(weights, features, cotangent)[0]

        return differentiate


class Qpth(_QuadraticPeer):
    """A batched interior point method; MetaOptNet's head without its ridge of 1.0 (which would be another problem)."""

    name = "qpth"
    about = "qpth as MetaOptNet uses it; setting: interior point iterations"
    modules = ("qpth",)
    settings = tuple(range(1, 31))
    shipped = 15
    shipped_as = "MetaOptNet's 15 iterations, without its ridge of 1.0, which makes another problem"

    def layer(self, one_hot: Tensor, lambda2: float) -> Callable[[Tensor, float], Tensor]:
        """One call for the batch."""
        return lambda features, setting: qpth_alpha(features, program(one_hot, lambda2), one_hot.shape[-1], int(setting))


def qpth_alpha(features: Tensor, fixed: Program, n_way: int, iterations: int, ridge: float | None = None) -> Tensor:
    """Alpha (tasks, n, k); the ridge defaults to what keeps the matrix definite in its type."""
    from qpth.qp import QPFunction

    if ridge is None:
        ridge = 1e-10 if features.dtype == torch.float64 else 1e-6
    matrix = quadratic(features, n_way, ridge)
    solver = QPFunction(verbose=-1, maxIter=iterations)
    alpha = solver(matrix, fixed.linear, fixed.inequality, fixed.upper, fixed.equality, fixed.right)
    return alpha.unflatten(-1, (-1, n_way))


class ProxSuite(_QuadraticPeer):
    """Proximal augmented Lagrangian; dense, float64, tasks one after the other unless it was built with OpenMP."""

    name = "proxsuite"
    about = "ProxSuite QPLayer; setting: eps"
    modules = ("proxsuite",)
    double_only = True
    shipped = 1e-9

    def layer(self, one_hot: Tensor, lambda2: float) -> Callable[[Tensor, float], Tensor]:
        """One call for the batch, on torch's number of threads where it can."""
        from proxsuite.torch.qplayer import QPFunction

        fixed, n_way = program(one_hot, lambda2), one_hot.shape[-1]
        lower = torch.full_like(fixed.upper, -1e20)

        def solve(features: Tensor, setting: float) -> Tensor:
            solver = QPFunction(eps=setting, omp_parallel=torch.get_num_threads() > 1)
            matrix = quadratic(features, n_way, 0.0)
            alpha, *_ = solver(matrix, fixed.linear, fixed.equality, fixed.right, fixed.inequality, lower, fixed.upper)
            return alpha.unflatten(-1, (-1, n_way))

        return solve
