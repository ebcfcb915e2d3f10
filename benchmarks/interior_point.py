"""A batched interior point method for the dual without group penalty, in plain torch on any device: what a differentiable QP
layer does, where none is installed.

    minimise over Lambda   <Y, Lambda> + 1/2 <Y - Lambda, K (Y - Lambda)>,  rows of Lambda in the simplex,  K = F F' / lambda2

by Mehrotra's predictor-corrector steps; one Cholesky factor of a matrix of size n k per step, as in qpth.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _Newton:
    """The optimality system around one iterate, factored."""

    def __init__(self, hessian: Tensor, gradient: Tensor, dual: Tensor, slack: Tensor, price: Tensor) -> None:
        self.residual = -(gradient - price - slack)
        self.dual, self.slack = dual, slack
        n, k = dual.shape[-2:]
        self.factor = torch.linalg.cholesky(hessian + torch.diag_embed((slack / dual).flatten(1)))
        sums = torch.eye(n, dtype=dual.dtype, device=dual.device).repeat_interleave(k, 0)  # of each sample's entries
        self.columns = torch.cholesky_solve(sums.expand(len(dual), -1, -1), self.factor)
        self.schur = torch.linalg.cholesky(sums.T @ self.columns)

    def step(self, complementarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of dual, price and slack, towards dual * slack smaller by `complementarity`."""
        right = self.residual - complementarity / self.dual
        free = torch.cholesky_solve(right.flatten(1).unsqueeze(-1), self.factor)
        missing = 1 - self.dual.sum(-1, keepdim=True) - free.reshape(self.dual.shape).sum(-1, keepdim=True)
        price = torch.cholesky_solve(missing, self.schur)
        dual = (free + self.columns @ price).reshape(self.dual.shape)
        return dual, price, -(complementarity + self.slack * dual) / self.dual


@torch.no_grad()
def solve_interior(features: Tensor, one_hot: Tensor, lambda2: float, steps: int) -> tuple[Tensor, Tensor]:
    """Weights (tasks, k, m) and dual (tasks, n, k) after so many steps, in the dtype of `one_hot`."""
    features = features.to(one_hot.dtype)
    kernel = features @ features.mT / lambda2
    classes = torch.eye(one_hot.shape[-1], dtype=kernel.dtype, device=kernel.device)
    size = one_hot.shape[-2] * one_hot.shape[-1]
    hessian = (kernel[:, :, None, :, None] * classes[:, None, :]).reshape(-1, size, size)
    dual, slack = torch.full_like(one_hot, 1 / one_hot.shape[-1]), torch.ones_like(one_hot)
    price = torch.zeros_like(one_hot[..., :1])
    for _ in range(steps):
        newton = _Newton(hessian, one_hot - kernel @ (one_hot - dual), dual, slack, price)
        d_dual, _, d_slack = newton.step(slack * dual)
        length = torch.minimum(_longest(dual, d_dual), _longest(slack, d_slack))
        mean = _mean(dual * slack)
        ahead = _mean((dual + length * d_dual) * (slack + length * d_slack))
        d_dual, d_price, d_slack = newton.step(slack * dual + d_dual * d_slack - mean * (ahead / mean) ** 3)
        length = 0.995 * torch.minimum(_longest(dual, d_dual), _longest(slack, d_slack))
        dual, price, slack = dual + length * d_dual, price + length * d_price, slack + length * d_slack
    return (one_hot - dual).mT @ features / lambda2, dual


def _mean(x: Tensor) -> Tensor:
    return x.mean((-2, -1), keepdim=True)


def _longest(x: Tensor, step: Tensor) -> Tensor:
    """The largest multiple of the step, at most one, that keeps x >= 0, per task."""
    ratio = torch.where(step < 0, -x / step, 1.0)
    return ratio.amin((-2, -1), keepdim=True).clamp(max=1.0)
