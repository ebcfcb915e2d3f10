"""The solver of this package."""

from __future__ import annotations

import torch
from torch import Tensor

import sparsesvm
from benchmarks.peers.base import Differentiate, Peer, Solve
from benchmarks.tasks import Answer, Tasks


class Ours(Peer):
    """Settings are tolerances relative to the number of samples."""

    name = "sparsesvm"
    about = "this package; setting: tol"
    library = False
    differentiable = True
    settings = tuple(10 ** (-step / 2) for step in range(4, 25))
    shipped = 1e-6

    def prepare(self, tasks: Tasks) -> Solve:
        """`sparsesvm.solve` without recording a gradient."""

        def solve(tol: float) -> Answer:
            found = sparsesvm.solve(tasks.features, tasks.labels, **tasks.penalties, tol=tol, on_failure="ignore")
            return Answer(found.weights, found.dual)

        return solve

    def prepare_gradient(self, tasks: Tasks, cotangent: Tensor) -> Differentiate:
        """`sparsesvm.solve` and its vector-Jacobian product."""
        features, cotangent = tasks.features.clone().requires_grad_(), cotangent.to(tasks.features.dtype)

        def differentiate(tol: float) -> Tensor:
            found = sparsesvm.solve(features, tasks.labels, **tasks.penalties, tol=tol, on_failure="ignore")
            return torch.autograd.grad(found.weights, features, cotangent)[0]

        return differentiate
