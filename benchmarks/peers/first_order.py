"""First-order methods on the dual in plain torch, batched over tasks: the algorithm published with the problem, and restarted
FISTA. All start at the uniform dual and take steps 1 / L with L = sigma_max(F)^2 / lambda2, its computation timed; the gap is
not checked while timed: settings are numbers of steps, found beforehand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peers.base import Differentiate, Peer, Solve
from benchmarks.tasks import Answer, Tasks

DOUBLINGS = tuple(5 * 2**power for power in range(16))


@dataclass(frozen=True)
class _Dual:
    """The dual of the tasks; the methods are its value-free calculus."""

    features: Tensor
    one_hot: Tensor
    lambda1: float
    lambda2: float
    group_size: int

    @classmethod
    def of(cls, tasks: Tasks) -> _Dual:
        return cls(tasks.features, tasks.one_hot, tasks.lambda1, tasks.lambda2, tasks.group_size)

    def uniform(self) -> Tensor:
        return torch.full_like(self.one_hot, 1 / self.one_hot.shape[-1])

    def step_size(self) -> Tensor:
        """1 / L, as (tasks, 1, 1), from the smaller of the two Gram matrices."""
        features = self.features if self.features.shape[-2] <= self.features.shape[-1] else self.features.mT
        return self.lambda2 / torch.linalg.eigvalsh(features @ features.mT)[..., -1, None, None]

    def shrinkage(self, correlation: Tensor) -> Tensor:
        """(1 - lambda1 / ||V_G||)_+ for each feature, as (tasks, 1, m)."""
        norm = correlation.square().sum(-2, keepdim=True)
        if self.group_size > 1:
            norm = norm.unflatten(-1, (-1, self.group_size)).sum(-1).repeat_interleave(self.group_size, -1)
        return torch.relu_(1 - self.lambda1 / norm.sqrt_())

    def weights(self, dual: Tensor) -> Tensor:
        correlation = (self.one_hot - dual).mT @ self.features
        if self.lambda1 > 0:
            correlation *= self.shrinkage(correlation)
        return correlation.div_(self.lambda2)

    def gradient(self, dual: Tensor) -> Tensor:
        """Y - F W^T."""
        return torch.baddbmm(self.one_hot, self.features, self.weights(dual).mT, alpha=-1)


def project(x: Tensor) -> Tensor:
    """Rows of x onto the probability simplex, by sorting."""
    descending = x.sort(-1, descending=True).values
    counts = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    threshold = ((descending.cumsum_(-1) - 1) / counts).amax(-1, keepdim=True)
    return torch.relu_(x - threshold)


class Published(Peer):
    """Projected gradient with constant steps, and an implicit gradient by a few steps of conjugate gradients.

    Their code, whose block threshold divides by the norm of a column, also returns NaN in the gradient of features that are
    zero on the whole support set; here these are zero.
    """

    name = "authors"
    about = "the authors' algorithm: projected gradient on the dual, 5 normal-CG steps with ridge L / 1000; setting: steps"
    library = False
    differentiable = True
    settings = DOUBLINGS
    counts = True
    shipped = 5
    shipped_as = "5 steps and 5 CG steps; their penalties lambda2 = 1000 and dual_reg = 1 are not taken over"
    cg_steps = 5
    ridge = 1e-3  # of L

    def prepare(self, tasks: Tasks) -> Solve:
        """The steps, nothing recorded."""
        problem = _Dual.of(tasks)

        @torch.no_grad()
        def solve(steps: float) -> Answer:
            dual = self._descend(problem, problem.step_size(), int(steps))
            return Answer(problem.weights(dual), dual)

        return solve

    def prepare_gradient(self, tasks: Tasks, cotangent: Tensor) -> Differentiate:
        """The steps, then the adjoint of the fixed point Lambda = project(Lambda - s gradient), its system solved inexactly."""
        problem, cotangent = _Dual.of(tasks), cotangent.to(tasks.features.dtype)

        @torch.no_grad()
        def differentiate(steps: float) -> Tensor:
            step_size = problem.step_size()
            dual = self._descend(problem, step_size, int(steps))
            return _Adjoint(problem, dual, step_size, self.ridge).gradient(cotangent, self.cg_steps)

        return differentiate

    @staticmethod
    def _descend(problem: _Dual, step_size: Tensor, steps: int) -> Tensor:
        dual = problem.uniform()
        for _ in range(steps):
            dual = project(torch.addcmul(dual, step_size, problem.gradient(dual), value=-1))
        return dual


class _Adjoint:
    """Derivative of the weights with respect to the features, the dual being the fixed point of the projected step."""

    def __init__(self, problem: _Dual, dual: Tensor, step_size: Tensor, ridge: float) -> None:
        self.problem, self.step_size, self.ridge = problem, step_size, ridge / step_size
        self.residual = problem.one_hot - dual
        self.correlation = self.residual.mT @ problem.features
        self.weights = problem.weights(dual)
        self.free = (project(dual - step_size * problem.gradient(dual)) > 0).to(dual)

    def gradient(self, cotangent: Tensor, cg_steps: int) -> Tensor:
        """Gradient of <cotangent, weights>."""
        direct = self.threshold(cotangent)  # d<C, W> / dV
        adjoint = self.solve(-(self.problem.features @ direct.mT), cg_steps)
        # The fixed point moves with -s P(F W^T): first through the factor F, then through W(V), V = residual^T F.
        pushed = self.step_size * self.projected(adjoint)
        through_weights = self.threshold(pushed.mT @ self.problem.features)
        return self.residual @ (direct + through_weights) + pushed @ self.weights

    def solve(self, target: Tensor, steps: int) -> Tensor:
        """u with A^T u = target, A = I - d project(Lambda - s gradient) / d Lambda: normal equations with a ridge."""
        x = torch.zeros_like(target)
        residual = self.jacobian(target)
        direction, squared = residual, _dot(residual, residual)
        for _ in range(steps):
            image = self.jacobian(self.transposed(direction)) + self.ridge * direction
            length = squared / _dot(direction, image).clamp(min=torch.finfo(x.dtype).tiny)
            x = x + length * direction
            residual = residual - length * image
            previous, squared = squared, _dot(residual, residual)
            direction = residual + squared / previous.clamp(min=torch.finfo(x.dtype).tiny) * direction
        return x

    def jacobian(self, x: Tensor) -> Tensor:
        return x - self.projected(x - self.step_size * self.hessian(x))

    def transposed(self, x: Tensor) -> Tensor:
        x_projected = self.projected(x)
        return x - x_projected + self.step_size * self.hessian(x_projected)

    def projected(self, x: Tensor) -> Tensor:
        """Derivative of the projection: symmetric."""
        mean = (self.free * x).sum(-1, keepdim=True) / self.free.sum(-1, keepdim=True)
        return self.free * (x - mean)

    def hessian(self, x: Tensor) -> Tensor:
        """Derivative of Y - F W^T with respect to Lambda: symmetric."""
        return self.problem.features @ self.threshold(x.mT @ self.problem.features).mT

    def threshold(self, x: Tensor) -> Tensor:
        """Derivative of V -> W: symmetric."""
        problem, correlation = self.problem, self.correlation
        if problem.lambda1 == 0:
            return x / problem.lambda2
        keep = problem.shrinkage(correlation)
        inner, squared = _in_groups(correlation * x, problem.group_size), _in_groups(correlation.square(), problem.group_size)
        along = torch.where(keep > 0, inner / squared, 0.0) * correlation
        return (keep * x + (1 - keep) * along) / problem.lambda2


class Fista(Peer):
    """Accelerated projected gradient; the momentum of a task restarts when it points uphill."""

    name = "fista"
    about = "restarted FISTA in torch; setting: steps"
    library = False
    settings = DOUBLINGS
    counts = True

    def prepare(self, tasks: Tasks) -> Solve:
        """The steps on the features."""
        problem = _Dual.of(tasks)

        @torch.no_grad()
        def solve(steps: float) -> Answer:
            dual = _accelerate(problem.gradient, problem.uniform(), problem.step_size(), int(steps))
            return Answer(problem.weights(dual), dual)

        return solve


class GramFista(Peer):
    """The same on the Gram matrix."""

    name = "fista-gram"
    about = "restarted FISTA in torch on the Gram matrix; setting: steps"
    library = False
    sparse = False
    settings = DOUBLINGS
    counts = True

    def prepare(self, tasks: Tasks) -> Solve:
        """The products of samples, then the steps."""
        problem = _Dual.of(tasks)

        @torch.no_grad()
        def solve(steps: float) -> Answer:
            products = problem.features @ problem.features.mT / problem.lambda2
            step_size = 1 / torch.linalg.eigvalsh(products)[..., -1, None, None]
            constant = problem.one_hot - products @ problem.one_hot
            dual = _accelerate(lambda x: torch.baddbmm(constant, products, x), problem.uniform(), step_size, int(steps))
            return Answer(problem.weights(dual), dual)

        return solve


def _accelerate(gradient, dual: Tensor, step_size: Tensor, steps: int) -> Tensor:
    extrapolated, momentum = dual, torch.ones_like(step_size)
    for _ in range(steps):
        new = project(torch.addcmul(extrapolated, step_size, gradient(extrapolated), value=-1))
        change = new - dual
        keep = (_dot(extrapolated - new, change) <= 0).to(dual)
        # A restart sets the momentum to one before it is used, so that the weight of the change is zero.
        momentum = 1 + keep * (momentum - 1)
        following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        extrapolated = torch.addcmul(new, (momentum - 1) / following, change)
        momentum, dual = following, new
    return dual


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((-2, -1), keepdim=True)


def _in_groups(x: Tensor, group_size: int) -> Tensor:
    """Sum over classes and over the features of a group, for each feature: (tasks, 1, m)."""
    total = x.sum(-2, keepdim=True)
    if group_size > 1:
        total = total.unflatten(-1, (-1, group_size)).sum(-1).repeat_interleave(group_size, -1)
    return total
