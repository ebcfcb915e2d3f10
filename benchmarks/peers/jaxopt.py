"""jaxopt on the dual: accelerated projected gradient, and block coordinate descent over samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.base import Differentiate, Peer, Solve
from benchmarks.peers.first_order import DOUBLINGS
from benchmarks.tasks import Answer, Tasks


class _Jaxopt(Peer):
    """Tasks mapped by vmap, everything compiled; steps without a stopping test, the number not compiled in."""

    modules = ("jax", "jaxopt")
    differentiable = True
    settings = DOUBLINGS
    counts = True
    shipped = 500
    shipped_tol: float
    tol = 0.0
    line_search = False

    def as_shipped(self) -> Peer:
        """With the stopping test, and the line search where the solver has one."""
        peer = copy(self)
        peer.tol, peer.line_search = self.shipped_tol, True
        return peer

    @abstractmethod
    def run(self, tasks: Tasks, maxiter: Any) -> Callable[..., Any]:
        """(features (n, m), one_hot (n, k)) -> dual, for one task."""

    def prepare(self, tasks: Tasks) -> Solve:
        """Arrays of jax, and a function compiled for the shape."""
        jax = _jax()
        arrays = [jax.numpy.asarray(x.numpy()) for x in (tasks.features, tasks.one_hot)]
        solve_batch = jax.jit(
            lambda features, one_hot, steps: jax.vmap(lambda f, y: _solution(self.run(tasks, steps), f, y, tasks))(
                features, one_hot
            )
        )

        def solve(steps: float) -> Answer:
            weights, dual = jax.block_until_ready(solve_batch(*arrays, int(steps)))
            return Answer(torch.from_numpy(np.array(weights)), torch.from_numpy(np.array(dual)))

        return solve

    def prepare_gradient(self, tasks: Tasks, cotangent: Tensor) -> Differentiate:
        """jaxopt's implicit differentiation, which needs the number of steps at compile time."""
        jax = _jax()
        features, one_hot, weighing = (jax.numpy.asarray(x.numpy()) for x in (tasks.features, tasks.one_hot, cotangent))
        weighing = weighing.astype(features.dtype)

        def value(features: Any, steps: int) -> Any:
            weights, _ = jax.vmap(lambda f, y: _solution(self.run(tasks, steps), f, y, tasks))(features, one_hot)
            return (weighing * weights).sum()

        compiled = jax.jit(jax.grad(value), static_argnums=1)
        return lambda steps: torch.from_numpy(np.array(compiled(features, int(steps))))


class ProjectedGradient(_Jaxopt):
    """Accelerated without restarts; its line search replaced by the known step, which is faster."""

    name = "jaxopt-pg"
    about = "jaxopt ProjectedGradient with acceleration, constant step; setting: steps"
    shipped_as = "at most 500 steps with line search, tol 1e-3"
    shipped_tol = 1e-3

    def run(self, tasks: Tasks, maxiter: Any) -> Callable[..., Any]:
        """The objective is divided by its Lipschitz constant, so that the step is one."""
        import jaxopt

        jax = _jax()

        def objective(dual: Any, features: Any, one_hot: Any, lipschitz: Any) -> Any:
            return ((one_hot * dual).sum() + _conjugate((one_hot - dual).T @ features, tasks)) / lipschitz

        def solve(features: Any, one_hot: Any) -> Any:
            lipschitz = 1.0 if self.line_search else _lipschitz(features) / tasks.lambda2
            step = {"stepsize": 0.0 if self.line_search else 1.0, "maxiter": maxiter, "tol": self.tol}
            solver = jaxopt.ProjectedGradient(objective, lambda x, _: jax.vmap(jaxopt.projection.projection_simplex)(x), **step)
            return solver.run(_uniform(one_hot), None, features, one_hot, lipschitz).params

        return solve


class BlockCoordinate(_Jaxopt):
    """One sample at a time. The shipped `multiclass_linear_svm_dual` has no group penalty and leaves l2reg out of its step
    sizes, so that it fails for l2reg < 1: this objective has both."""

    name = "jaxopt-bcd"
    about = "jaxopt BlockCoordinateDescent on the dual; setting: epochs"
    shipped_as = "at most 500 epochs, tol 1e-4"
    shipped_tol = 1e-4

    def run(self, tasks: Tasks, maxiter: Any) -> Callable[..., Any]:
        """Epochs over the samples in order."""
        import jaxopt

        objective = _composite(tasks)

        def solve(features: Any, one_hot: Any) -> Any:
            solver = jaxopt.BlockCoordinateDescent(
                objective,
                lambda x, _, scaling=1.0: jaxopt.projection.projection_simplex(x),
                maxiter=maxiter,
                tol=self.tol,
            )
            return solver.run(_uniform(one_hot), None, tasks.lambda2, (features, one_hot)).params

        return solve


def _composite(tasks: Tasks) -> Any:
    """The dual as the composite linear function that BlockCoordinateDescent takes."""
    from jaxopt._src import base, objective

    class Dual(objective.CompositeLinearFunction):
        def subfun(self, product: Any, lambda2: Any, data: Any) -> Any:
            features, one_hot = data
            return _conjugate((features.T @ one_hot - product).T, tasks)

        def make_linop(self, lambda2: Any, data: Any) -> Any:
            return base.LinearOperator(data[0].T)

        def columnwise_lipschitz_const(self, lambda2: Any, data: Any) -> Any:
            return self.make_linop(lambda2, data).column_l2_norms(squared=True) / lambda2

        def b(self, lambda2: Any, data: Any) -> Any:
            return data[1]

    return Dual()


def _jax() -> Any:
    import importlib
    import warnings

    import jax

    jax.config.update("jax_enable_x64", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("jaxopt")  # it warns that it is no longer maintained
    return jax


def _lipschitz(features: Any) -> Any:
    """Largest squared singular value, a constant to the gradient."""
    jax = _jax()
    gram = features @ features.T if features.shape[0] <= features.shape[1] else features.T @ features
    return jax.lax.stop_gradient(jax.numpy.linalg.eigvalsh(gram)[-1])


def _uniform(one_hot: Any) -> Any:
    return 0 * one_hot + 1 / one_hot.shape[-1]


def _norms(correlation: Any, tasks: Tasks) -> Any:
    """Norm of each group, safe to differentiate at zero."""
    jax = _jax()
    squared = (correlation**2).reshape(tasks.n_way, -1, tasks.group_size).sum((0, 2))
    return jax.numpy.where(squared > 0, jax.numpy.sqrt(jax.numpy.where(squared > 0, squared, 1.0)), 0.0)


def _conjugate(correlation: Any, tasks: Tasks) -> Any:
    """sum_G (||V_G|| - lambda1)_+^2 / (2 lambda2)."""
    jax = _jax()
    if tasks.lambda1 == 0:
        return (correlation**2).sum() / (2 * tasks.lambda2)
    return (jax.nn.relu(_norms(correlation, tasks) - tasks.lambda1) ** 2).sum() / (2 * tasks.lambda2)


def _solution(run: Callable[..., Any], features: Any, one_hot: Any, tasks: Tasks) -> tuple[Any, Any]:
    """(weights, dual) of one task."""
    jax = _jax()
    dual = run(features, one_hot)
    correlation = (one_hot - dual).T @ features
    if tasks.lambda1 == 0:
        return correlation / tasks.lambda2, dual
    norms = _norms(correlation, tasks)
    keep = jax.nn.relu(1 - tasks.lambda1 / jax.numpy.where(norms > 0, norms, 1e-30))
    return correlation * jax.numpy.repeat(keep, tasks.group_size) / tasks.lambda2, dual
