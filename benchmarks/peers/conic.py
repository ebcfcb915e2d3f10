"""General convex solvers: Clarabel on its own, and cvxpylayers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.base import Differentiate, Peer, Solve
from benchmarks.tasks import Answer, Tasks, on_simplex
from sparsesvm import reference


class Clarabel(Peer):
    """An interior point method for cones; one task per call, float64.

    Without group penalty a quadratic program in the dual on the Gram matrix. With it, variables are the dual and S = lambda2 W:

        minimise <Y, Lambda> + ||S||^2 / (2 lambda2)  with  ||V_G(Lambda) - S_G|| <= lambda1  and Lambda on the simplex.
    """

    name = "clarabel"
    about = "Clarabel called directly, on the dual; setting: tolerance"
    modules = ("clarabel", "scipy")
    double_only = True
    shipped = 1e-8
    largest = 2_000_000  # entries of the cone constraints

    def refusal(self, tasks: Tasks) -> str | None:
        """Large cone programs are out of reach."""
        entries = tasks.features[0].numel() * tasks.n_way
        return "cone program too large" if tasks.lambda1 > 0 and entries > self.largest else None

    def prepare(self, tasks: Tasks) -> Solve:
        """Only conversion; the matrices are built while timed, as they depend on the features."""
        build = _cone_program if tasks.lambda1 > 0 else _gram_program
        problem = reference.make_problem(tasks.features, tasks.labels, **tasks.penalties)

        def solve(tolerance: float) -> Answer:
            one_hot, features = tasks.one_hot.numpy(), tasks.features.numpy()
            found = np.stack([_clarabel(*build(f, y, tasks), tolerance) for f, y in zip(features, one_hot, strict=True)])
            variables, n_dual = torch.from_numpy(found), one_hot[0].size
            dual = on_simplex(variables[:, :n_dual].reshape(one_hot.shape))
            if tasks.lambda1 == 0:
                return Answer(problem.weights_from_dual(dual), dual)
            # Its own S is nearer to the optimum than the weights that belong to its dual.
            return Answer(variables[:, n_dual:].unflatten(-1, (-1, tasks.n_way)).mT / tasks.lambda2, dual)

        return solve


def _clarabel(quadratic: Any, linear: Any, matrix: Any, right: Any, cones: Any, tolerance: float) -> np.ndarray:
    import clarabel
    from scipy import sparse

    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    solver = clarabel.DefaultSolver(sparse.triu(quadratic).tocsc(), linear, sparse.csc_matrix(matrix), right, cones, settings)
    return np.array(solver.solve().x)


def _simplex_rows(n_samples: int, n_way: int) -> Any:
    """Rows (n + n k, n k): sums equal one, entries at least zero."""
    from scipy import sparse

    sums = sparse.kron(sparse.identity(n_samples), np.ones((1, n_way)))
    return sparse.vstack([sums, -sparse.identity(n_samples * n_way)])


def _gram_program(features: np.ndarray, one_hot: np.ndarray, tasks: Tasks) -> tuple[Any, ...]:
    import clarabel
    from scipy import sparse

    n_samples, n_way = one_hot.shape
    gram = features @ features.T / tasks.lambda2
    right = np.concatenate([np.ones(n_samples), np.zeros(n_samples * n_way)])
    cones = [clarabel.ZeroConeT(n_samples), clarabel.NonnegativeConeT(n_samples * n_way)]
    linear = (one_hot - gram @ one_hot).ravel()
    return sparse.kron(gram, np.eye(n_way)), linear, _simplex_rows(n_samples, n_way), right, cones


def _cone_program(features: np.ndarray, one_hot: np.ndarray, tasks: Tasks) -> tuple[Any, ...]:
    import clarabel
    from scipy import sparse

    (n_samples, n_way), n_features = one_hot.shape, features.shape[1]
    n_dual, n_primal, n_groups = n_samples * n_way, n_way * n_features, n_features // tasks.group_size
    # s = (lambda1, V_G - S_G) in the second-order cone; V = (Y - Lambda)^T F, features outermost.
    height = tasks.group_size * n_way + 1
    rows = np.arange(n_primal).reshape(n_groups, -1) + 1 + np.arange(n_groups)[:, None]
    place = sparse.csc_matrix((np.ones(n_primal), (rows.ravel(), np.arange(n_primal))), shape=(n_groups * height, n_primal))
    correlation = sparse.kron(features.T, np.eye(n_way))
    bounds = np.zeros(n_groups * height)
    bounds[::height] = tasks.lambda1
    simplex = sparse.hstack([_simplex_rows(n_samples, n_way), sparse.csc_matrix((n_samples + n_dual, n_primal))])
    matrix = sparse.vstack([simplex, sparse.hstack([place @ correlation, place])])
    right = np.concatenate([np.ones(n_samples), np.zeros(n_dual), place @ (correlation @ one_hot.ravel()) + bounds])
    cones = [clarabel.ZeroConeT(n_samples), clarabel.NonnegativeConeT(n_dual)]
    cones += [clarabel.SecondOrderConeT(height)] * n_groups
    diagonal = np.concatenate([np.zeros(n_dual), np.full(n_primal, 1 / tasks.lambda2)])
    return sparse.diags(diagonal), np.concatenate([one_hot.ravel(), np.zeros(n_primal)]), matrix, right, cones


class CvxpyLayers(Peer):
    """The primal as a disciplined program, compiled once per shape (not timed); solved and differentiated by diffcp."""

    name = "cvxpylayers"
    about = "cvxpylayers on the primal; setting: eps of its solver"
    modules = ("cvxpylayers", "cvxpy", "diffcp")
    double_only = True
    differentiable = True
    settings = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    shipped = 1e-4
    largest = 20_000  # n m k: canonicalisation takes gigabytes beyond

    def refusal(self, tasks: Tasks) -> str | None:
        """Canonicalisation with the features as parameters needs gigabytes at moderate sizes."""
        return "canonicalisation too large" if tasks.features[0].numel() * tasks.n_way > self.largest else None

    def _layer(self, tasks: Tasks) -> Any:
        import cvxpy as cp
        from cvxpylayers.torch import CvxpyLayer

        n_samples, n_features = tasks.features.shape[1:]
        weights, slack = cp.Variable((n_features, tasks.n_way)), cp.Variable(n_samples)
        features = cp.Parameter((n_samples, n_features))
        one_hot = tasks.one_hot[0].numpy()
        scores = features @ weights
        true_scores = cp.sum(cp.multiply(scores, one_hot), axis=1)
        margins = [slack >= 1 - one_hot[:, way] + scores[:, way] - true_scores for way in range(tasks.n_way)]
        objective = cp.sum(slack) + tasks.lambda2 / 2 * cp.sum_squares(weights)
        if tasks.lambda1 > 0:
            blocks = cp.reshape(weights, (n_features // tasks.group_size, -1), order="C")
            objective += tasks.lambda1 * cp.sum(cp.norm(blocks, 2, axis=1))
        return CvxpyLayer(cp.Problem(cp.Minimize(objective), margins), parameters=[features], variables=[weights])

    def prepare(self, tasks: Tasks) -> Solve:
        """Compile, then one call for the batch."""
        layer = self._layer(tasks)

        @torch.no_grad()
        def solve(eps: float) -> Answer:
            return Answer(layer(tasks.features, solver_args={"eps": eps})[0].mT)

        return solve

    def prepare_gradient(self, tasks: Tasks, cotangent: Tensor) -> Differentiate:
        """Through the layer."""
        layer, features = self._layer(tasks), tasks.features.clone().requires_grad_()

        def differentiate(eps: float) -> Tensor:
            (weights,) = layer(features, solver_args={"eps": eps})
            return torch.autograd.grad(weights, features, cotangent.mT.to(weights.dtype))[0]

        return differentiate
