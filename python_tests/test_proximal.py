"""Weak ridge, no ridge, raw units, overlapping classes and many samples: solved, and certified by numpy alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import sparsesvm
from benchmarks.certificate import certify
from benchmarks.problems import Problem, episode, uniform_bound, weakly_ridged


def problem_of(features, labels, n_way, *, ratio, lambda2, group_size=1, dual_reg=0.0) -> Problem:
    weight = np.ones(len(labels))
    bound = uniform_bound(features, labels, n_way, weight, group_size)
    return Problem(features, labels, n_way, ratio * bound, lambda2, weight, group_size, dual_reg)


def assert_solved(problem: Problem, tol: float = 1e-6, **options) -> sparsesvm.Solution:
    """To the tolerance, by a certificate that the solver has no part in."""
    found = problem.solve(tol=tol, on_failure="raise", **options)
    certificate = certify(problem, found.weights.numpy(), found.dual.numpy())
    assert certificate.confirms(tol), certificate
    assert certificate.primal == pytest.approx(float(found.objective), abs=tol * certificate.total)
    return found


@pytest.mark.parametrize("ratio", [0.01, 0.1])
@pytest.mark.parametrize(("n_way", "n_samples", "n_features"), [(3, 150, 12), (2, 80, 30), (5, 60, 200)])
def test_a_table_in_raw_units(rng, n_way, n_samples, n_features, ratio):
    """Columns from 0.1 to 1000, far from zero beside their spread."""
    labels = np.arange(n_samples) % n_way
    for _ in range(3):
        centres = rng.normal(size=(n_way, n_features))
        table = (3 + centres[labels] + rng.normal(size=(n_samples, n_features))) * np.logspace(-1, 3, n_features)
        assert_solved(problem_of(table, labels, n_way, ratio=ratio, lambda2=0.1))


@pytest.mark.parametrize("lambda2", [1e-7, 1e-8, 1e-9])
@pytest.mark.parametrize(("n_way", "n_samples", "n_features"), [(5, 25, 64), (2, 40, 100), (3, 60, 30)])
def test_nearly_no_ridge(rng, n_way, n_samples, n_features, lambda2):
    for _ in range(3):
        features = rng.normal(size=(n_samples, n_features))
        assert_solved(problem_of(features, np.arange(n_samples) % n_way, n_way, ratio=0.1, lambda2=lambda2))


@pytest.mark.parametrize(("n_way", "n_samples", "n_features"), [(2, 50, 8), (2, 120, 12), (3, 90, 10), (5, 100, 10)])
@pytest.mark.parametrize("lambda2", [1e-2, 1e-4])
def test_dense_and_overlapping(rng, n_way, n_samples, n_features, lambda2):
    for _ in range(4):
        features = rng.normal(size=(n_samples, n_features))
        noise = n_features**0.5 * rng.normal(size=(n_samples, n_way))
        labels = (features @ rng.normal(size=(n_features, n_way)) + noise).argmax(1)
        features /= np.sqrt((features**2).sum(1).mean())
        assert_solved(problem_of(features, labels, n_way, ratio=0.0, lambda2=lambda2))


@pytest.mark.parametrize("ratio", [0.03, 0.3, 0.9])
@pytest.mark.parametrize(("n_samples", "n_features"), [(30, 60), (60, 20)])
def test_two_classes_without_ridge_are_a_linear_program(rng, n_samples, n_features, ratio):
    """The rows of W are w and -w, so that a feature's norm is sqrt(2) |w_j| and a hinge is max(0, 1 -+ 2 w . f)."""
    features, labels = rng.normal(size=(n_samples, n_features)), np.arange(n_samples) % 2
    problem = problem_of(features, labels, 2, ratio=ratio, lambda2=0.0)
    found = assert_solved(problem, tol=1e-9)
    signed = 2 * np.where(labels == 0, 1.0, -1.0)[:, None] * features
    costs = np.concatenate([np.full(2 * n_features, np.sqrt(2) * problem.lambda1), np.ones(n_samples)])
    constraints = np.concatenate([-signed, signed, -np.eye(n_samples)], axis=1)
    program = linprog(costs, A_ub=constraints, b_ub=-np.ones(n_samples))
    assert float(found.objective) == pytest.approx(program.fun, abs=2e-9 * n_samples)


@pytest.mark.parametrize("relative_lambda2", [0.0, 1e-6, 1e-1])
@pytest.mark.parametrize("dual_reg", [0.0, 0.1])
def test_units_change_nothing(rng, relative_lambda2, dual_reg):
    """In other units of the features the dual is the same and the weights are divided by them."""
    features, labels = episode(rng, 4, 24, 50)
    problem = problem_of(features, labels, 4, ratio=0.2, lambda2=relative_lambda2, dual_reg=dual_reg * relative_lambda2)
    expected = assert_solved(problem, tol=1e-10)
    for scale in (1e-4, 1e4):
        found = assert_solved(problem.scaled(scale), tol=1e-10)
        size = float(expected.weights.abs().max())
        torch.testing.assert_close(found.weights * scale, expected.weights, rtol=0, atol=1e-5 * size)
        torch.testing.assert_close(found.dual, expected.dual, rtol=0, atol=1e-5)
        assert torch.equal(found.active, expected.active)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("max_iter", [0, 1, 3])
def test_never_worse_than_no_weights(max_iter, dtype):
    """Wherever it stops."""
    for seed in range(60):
        problem = weakly_ridged(np.random.default_rng(seed))
        problem = replace(problem, features=problem.features.astype(dtype))
        found = problem.solve(max_iter=max_iter, on_failure="ignore")
        exact = replace(problem, features=problem.features.astype(float))
        without = certify(exact, torch.zeros_like(found.weights), found.dual)
        assert certify(exact, found.weights, found.dual).primal <= without.primal + 1e-12 * without.total, seed


def test_without_ridge_the_weights_may_not_be_unique_and_have_no_gradient(rng):
    features, labels = (torch.from_numpy(part) for part in episode(rng, 3, 12, 20))
    features = torch.cat([features, features], 1).requires_grad_()  # two copies share a weight in any way
    found = sparsesvm.solve(features, labels, lambda1_ratio=0.3, lambda2=0.0, on_failure="raise")
    assert found.status == sparsesvm.StatusCode.NOT_UNIQUE
    with pytest.raises(ValueError, match="lambda2 must be positive in every task for a gradient; got 0"):
        found.weights.sum().backward()
    without = sparsesvm.solve(features, labels, lambda1_ratio=1.0, lambda2=0.0)
    assert without.status == sparsesvm.StatusCode.CONVERGED
    assert not without.active.any()


def test_random_problems_of_any_ridge():
    for seed in range(200):
        assert_solved(weakly_ridged(np.random.default_rng(seed)), tol=1e-9)


@pytest.mark.parametrize("divisor", [1, 16])
def test_handwritten_digits(divisor):
    """1,797 samples of 64 features in ten classes."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    images, labels = datasets.load_digits(return_X_y=True)
    assert_solved(problem_of(images / divisor, labels, 10, ratio=0.1, lambda2=1.0))
