"""The CUDA kernels of sparse regression on emulated blocks: the CPU solver's answers, whatever the block and the order of its
threads. Needs the C++ compiler, not CUDA."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from emulation import Regression
from test_regression import draw

from sparsesvm import StatusCode
from sparsesvm.bilevel import _solve, lambda_max
from sparsesvm.bilevel.regression import RegressionSolution


def make_problem(generator, n_tasks, n_samples, n_features, n_outputs, *, ratio=0.1, lambda2=0.0, dtype=torch.float64, **others):
    features, targets = draw(generator, n_tasks, n_samples, n_features, n_outputs)
    lambda1 = ratio * lambda_max(features, targets) * torch.linspace(1, 2, n_tasks, dtype=torch.float64)
    penalty2 = lambda2 * torch.linspace(1, 2, n_tasks, dtype=torch.float64)
    return Regression(features.to(dtype), targets.to(dtype), lambda1, penalty2, **others)


def inputs_of(problem):
    return problem.features, problem.targets, problem.lambda1, problem.lambda2


def solve_on_cpu(problem, tol=1e-10, max_iter=100):
    return RegressionSolution(*_solve.solve(*inputs_of(problem), tol, max_iter, "ignore"))


def gradients_on_cpu(problem, found, cotangent):
    return _solve.vjp(*inputs_of(problem), found.weights, found.status, found.active, cotangent)


def cotangent_of(generator, found):
    return torch.randn(found.weights.shape, generator=generator, dtype=torch.float64).to(found.weights.dtype)


def assert_close(ours, theirs, relative):
    """Up to `relative` of the largest value of each task."""
    difference, size = (t.double().flatten(1).abs().amax(-1) for t in (ours - theirs, theirs))
    assert (difference <= relative * size.clamp(min=1.0)).all(), (difference, size)


def assert_same_answers(emulator, problem, generator, *, tol=1e-14, weights=1e-9, gradient=1e-8):
    found, expected = emulator.solve_regression(problem, tol=tol), solve_on_cpu(problem, tol)
    assert torch.equal(found.status, expected.status)
    assert (found.status == StatusCode.CONVERGED).all()
    assert torch.equal(found.active, expected.active)
    assert_close(found.weights, expected.weights, weights)
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-9, atol=0)
    assert_close_gradients(emulator, problem, expected, generator, gradient)


def assert_close_gradients(emulator, problem, solution, generator, relative):
    cotangent = cotangent_of(generator, solution)
    ours = emulator.regression_vjp(problem, solution.weights, cotangent)
    for mine, theirs in zip(ours, gradients_on_cpu(problem, solution, cotangent), strict=True):
        assert_close(mine.reshape(len(mine), -1), theirs.reshape(len(mine), -1), relative)


@pytest.mark.parametrize(
    ("n_samples", "n_features", "n_outputs", "lambda2"),
    [
        (30, 6, 1, 0.0),
        (20, 90, 1, 0.0),
        (13, 80, 1, 0.05),
        (15, 12, 3, 0.0),
        (12, 75, 4, 0.02),
        (1, 5, 1, 0.0),
        (40, 200, 1, 0.0),
    ],
)
def test_weights_and_gradients_are_those_of_the_cpu(emulator, generator, n_samples, n_features, n_outputs, lambda2):
    problem = make_problem(generator, 2, n_samples, n_features, n_outputs, lambda2=lambda2)
    assert_same_answers(emulator, problem, generator)


@pytest.mark.parametrize("n_features", [6, 50])
def test_ridge_without_lambda1(emulator, generator, n_features):
    problem = make_problem(generator, 2, 20, n_features, 2, ratio=0.0, lambda2=0.1)
    assert_same_answers(emulator, problem, generator)


def test_single_precision(emulator, generator):
    problem = make_problem(generator, 2, 20, 40, 2, dtype=torch.float32)
    assert_same_answers(emulator, problem, generator, tol=1e-10, weights=1e-5, gradient=1e-5)


@pytest.mark.parametrize("team", [{"threads": 64}, {"threads": 128}, {"seed": 5}, {"threads": 96, "seed": 11}])
def test_any_block_in_any_order(emulator, generator, team):
    problem = make_problem(generator, 1, 18, 70, 2)
    team = dataclasses.replace(emulator, **team)
    assert_same_answers(team, problem, generator)
    in_order = dataclasses.replace(team, seed=0)
    found, expected = team.solve_regression(problem), in_order.solve_regression(problem)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
    cotangent = cotangent_of(generator, found)
    ours, theirs = (t.regression_vjp(problem, found.weights, cotangent) for t in (team, in_order))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_path_through_many_features_in_use(emulator, generator):
    """Small penalties bring in more features than samples on the way, which slide out again."""
    problem = make_problem(generator, 2, 25, 120, 1, ratio=1e-3)
    assert_same_answers(emulator, problem, generator, weights=1e-7, gradient=1e-6)


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_dependent_features(emulator, generator, n_outputs):
    """Copies: the objective and the fit are those of the CPU, and the same variables are left out of the derivative."""
    problem = make_problem(generator, 2, 20, 5, n_outputs, ratio=0.02)
    features = torch.cat([problem.features, problem.features, 2 * problem.features[..., :1]], -1)
    problem = dataclasses.replace(problem, features=features)
    found, expected = emulator.solve_regression(problem, tol=1e-12), solve_on_cpu(problem, 1e-12)
    assert torch.equal(found.status, expected.status)
    assert ((found.objective - expected.objective).abs() <= found.gap + expected.gap + 1e-12 * expected.objective).all()
    assert_close(features @ found.weights.mT, features @ expected.weights.mT, 1e-5)
    half = expected.weights[..., :5] / 2  # all copies in use, and dependent
    weights = torch.cat([half, half, torch.zeros(2, n_outputs, 1, dtype=torch.float64)], -1).contiguous()
    solution = expected._replace(weights=weights, active=(weights != 0).any(-2))
    if n_outputs == 1:
        assert_close_gradients(emulator, problem, solution, generator, 1e-8)


def test_more_in_use_than_a_matrix_is_kept_for(emulator, generator):
    for n_outputs in (1, 3):
        problem = make_problem(generator, 2, 25, 12, n_outputs, ratio=0.01, lambda2=0.05, max_active=2)
        found = solve_on_cpu(problem, 1e-12)
        assert (found.active.sum(-1) > 2).all()
        assert_close_gradients(emulator, problem, found, generator, 1e-8)


def test_a_task_that_cannot_be_solved_leaves_the_others_unharmed(emulator, generator):
    problem = make_problem(generator, 6, 15, 70, 2)
    expected = emulator.solve_regression(problem)
    problem.features[0, 3, 5] = math.nan
    problem.targets[1, 2, 0] = math.inf
    problem.lambda1[2] = -1.0
    problem.lambda2[3] = math.nan
    problem.lambda1[4] = 0.0  # and so is lambda2
    found = emulator.solve_regression(problem)
    assert found.status.tolist() == [StatusCode.NON_FINITE] * 5 + [StatusCode.CONVERGED]
    assert found.weights[:5].isnan().all()
    assert torch.equal(found.weights[5], expected.weights[5])
    gradients = emulator.regression_vjp(problem, found.weights, cotangent_of(generator, found))
    for gradient in gradients:
        assert gradient[:5].isnan().all()
        assert gradient[5].isfinite().all()


def test_the_iteration_limit(emulator, generator):
    problem = make_problem(generator, 2, 20, 100, 1, ratio=0.01)
    found, expected = emulator.solve_regression(problem, max_iter=0), solve_on_cpu(problem, max_iter=0)
    assert torch.equal(found.status, expected.status)
    assert (found.status == StatusCode.MAX_ITER).all() and (found.n_iter == 0).all()
    torch.testing.assert_close(found.gap, expected.gap, rtol=1e-6, atol=0)
    assert torch.equal(found.active, (found.weights != 0).any(-2))


def test_features_of_any_strides_and_nothing_in_use(emulator, generator):
    problem = make_problem(generator, 2, 10, 30, 1)
    wide = torch.full((10, 2, 40), math.nan, dtype=torch.float64)
    wide[:, :, 5:35] = problem.features.movedim(0, 1)
    strided = dataclasses.replace(problem, features=wide[:, :, 5:35].movedim(1, 0))
    assert torch.equal(emulator.solve_regression(strided).weights, emulator.solve_regression(problem).weights)
    none = dataclasses.replace(problem, lambda1=2 * lambda_max(problem.features, problem.targets))
    found = emulator.solve_regression(none)
    assert not found.weights.any() and (found.status == StatusCode.CONVERGED).all()
    gradients = emulator.regression_vjp(none, found.weights, torch.ones_like(found.weights))
    assert not any(gradient.any() for gradient in gradients)
