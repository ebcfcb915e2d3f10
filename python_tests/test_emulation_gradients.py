"""Gradients of the CUDA kernels' bodies on emulated blocks: the active sets identified, and of many derivatives the smallest, as
on the CPU. Solutions and other promises are in test_emulation.py."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from emulation import Emulator, Problem
from test_emulation import assert_close, derivatives_on_cpu, drawn_problem, solve_on_cpu

from benchmarks.problems import Problem as Drawn
from benchmarks.problems import episode, uniform_bound
from sparsesvm import StatusCode

ACCURACY = {torch.float32: 1e-4, torch.float64: 1e-5}
"""Of a gradient at the default tolerance."""
LARGE_ACCURACY = 1e-4
"""The same of a large task, whatever the type, as in test_large_tasks.py."""


def problem_of(rng, sizes, dtype, *, ratio, lambda2, dual_reg=0.0, change=None):
    """An episode (n_way, n_samples, n_features) with features changed, as a batch of one."""
    n_way, n_samples, n_features = sizes
    features, labels = episode(rng, n_way, n_samples, n_features)
    features = features if change is None else change(features)
    weight = np.ones(len(labels))
    bound = uniform_bound(features, labels, n_way, weight, 1)
    return drawn_problem(Drawn(features, labels, n_way, ratio * bound, lambda2, weight, dual_reg=dual_reg), dtype)


def random_problem(seed, dtype, ratios):
    rng = np.random.default_rng(seed)
    n_way = int(rng.integers(2, 6))
    sizes = (n_way, n_way * int(rng.integers(1, 6)), int(rng.integers(30, 80)))
    ratio, lambda2, dual_reg = rng.choice(ratios), 10 ** rng.uniform(-2, 0.5), float(rng.integers(2))
    return problem_of(rng, sizes, dtype, ratio=float(ratio), lambda2=float(lambda2), dual_reg=dual_reg)


def random_like(rng, *tensors):
    return [torch.from_numpy(rng.normal(size=tuple(t.shape))).to(t.dtype) for t in tensors]


def gradient_on_cpu(problem, solution, cotangent):
    tangents = [torch.zeros_like(t) for t in (problem.features, problem.lambda1, problem.lambda2, problem.sample_weight)]
    return derivatives_on_cpu(problem, solution, cotangent, tangents)[0][0]


def difference_of_gradients(emulator, problem, rng):
    """Relative, where the sets are identified, each at its own solution with the default tolerance; None where they are not."""
    found, expected = emulator.solve(problem, identify=True), solve_on_cpu(problem, 1e-6, identify=True)
    assert int(expected.status) == StatusCode.CONVERGED
    if int(found.status) == StatusCode.NOT_IDENTIFIED:
        return None
    assert int(found.status) == StatusCode.CONVERGED
    assert torch.equal(found.active, expected.active)
    (cotangent,) = random_like(rng, found.weights)
    ours, theirs = emulator.vjp(problem, found, cotangent)[0], gradient_on_cpu(problem, expected, cotangent)
    return float((ours - theirs).double().norm() / theirs.double().norm().clamp(min=1e-300))


@pytest.mark.parametrize("dtype", ACCURACY)
def test_the_sets_are_identified_as_on_the_cpu(emulator, rng, dtype):
    for seed in range(40):
        problem = random_problem(seed, dtype, (0.0, 0.1, 0.3, 0.5, 0.8))
        difference = difference_of_gradients(emulator, problem, rng)
        assert difference is not None and difference <= ACCURACY[dtype]


@pytest.mark.parametrize("dtype", ACCURACY)
def test_the_sets_of_large_tasks_are_judged(library_of_large_tasks, rng, dtype):
    """After the proximal method alone, where the CPU takes Newton steps on the dual of tasks of this size."""
    emulator = Emulator(library_of_large_tasks, 2, 32)
    problems = [random_problem(seed, dtype, (0.1, 0.3, 0.5)) for seed in range(20)]
    differences = [difference_of_gradients(emulator, problem, rng) for problem in problems]
    identified = sorted(difference for difference in differences if difference is not None)
    assert len(identified) >= 19
    assert identified[-1] <= LARGE_ACCURACY and identified[-2] <= ACCURACY[dtype]


def test_without_a_derivative_to_come_the_certificate_ends_a_solve(emulator, rng):
    problem = problem_of(rng, (5, 25, 60), torch.float64, ratio=0.5, lambda2=0.1)
    found, further = (emulator.solve(problem, tol=1e-3, identify=identify) for identify in (False, True))
    assert int(found.n_iter) < int(further.n_iter)
    assert float(further.gap) < float(found.gap) <= 1e-3 * 25


def test_no_weights_above_lambda1_max_are_identified(emulator, rng):
    problem = problem_of(rng, (4, 20, 30), torch.float64, ratio=1.01, lambda2=0.3)
    found = emulator.solve(problem, identify=True)
    assert int(found.status) == StatusCode.CONVERGED and not found.active.any()


def test_a_kink_is_not_identified(emulator):
    """Two samples whose dual entry of the own class just became zero."""
    problem = Problem(
        features=torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64),
        labels=torch.tensor([[0, 1]]),
        sample_weight=torch.ones(1, 2, dtype=torch.float64),
        lambda1=torch.zeros(1, dtype=torch.float64),
        lambda2=torch.full((1,), 4.0, dtype=torch.float64),
        n_way=2,
    )
    found, expected = emulator.solve(problem, identify=True), solve_on_cpu(problem, 1e-6, identify=True)
    assert int(found.status) == int(expected.status) == StatusCode.NOT_IDENTIFIED
    assert int(emulator.solve(problem).status) == StatusCode.CONVERGED


def test_no_ridge_is_not_unique_whether_identified_or_not(emulator, rng):
    problem = problem_of(rng, (3, 12, 20), torch.float64, ratio=0.3, lambda2=0.0)
    found, expected = emulator.solve(problem, identify=True), solve_on_cpu(problem, 1e-6, identify=True)
    assert int(found.status) == int(expected.status) == StatusCode.NOT_UNIQUE
    assert all(gradient.isnan().all() for gradient in emulator.vjp(problem, found, torch.ones_like(found.weights)))


def equal_samples(features):
    return np.concatenate((features[: len(features) // 2], features[: len(features) // 2]))


def of_low_rank(features):
    return features[:, :2] @ features[:2]


def centred(features):
    return features - features.mean(0)


def with_dead_samples(features):
    return features * (np.arange(len(features)) >= len(features) // 3)[:, None]


@pytest.mark.parametrize("change", [centred, equal_samples, of_low_rank, with_dead_samples])
@pytest.mark.parametrize("dual_reg", [0.0, 1.0])
@pytest.mark.parametrize("large", [False, True])
def test_of_many_derivatives_the_smallest_as_on_the_cpu(library, library_of_large_tasks, rng, change, dual_reg, large):
    """At the CPU's solution, so that nothing but the derivative differs. Groups of two, and a sample of weight zero."""
    emulator = Emulator(library_of_large_tasks if large else library, 2, 32)
    for dtype in ACCURACY:
        for ratio in (0.0, 0.1):
            problem = problem_of(rng, (4, 16, 40), dtype, ratio=ratio, lambda2=0.05, dual_reg=dual_reg, change=change)
            problem = dataclasses.replace(problem, group_size=2)
            problem.sample_weight[0, 5] = 0
            solution = solve_on_cpu(problem, 1e-10)
            (cotangent,) = random_like(rng, solution.weights)
            tangents = random_like(rng, problem.features, problem.lambda1, problem.lambda2, problem.sample_weight)
            pulled, moved = derivatives_on_cpu(problem, solution, cotangent, tangents)
            # The features' rounding is that of results; conjugate gradients leave 3e-13 of the residual.
            accuracy = 1e-6 if dtype == torch.float32 else 1e-9
            for ours, theirs in zip(emulator.vjp(problem, solution, cotangent), pulled, strict=True):
                assert_close(ours, theirs, accuracy)
            assert_close(emulator.jvp(problem, solution, *tangents), moved, accuracy)


@pytest.mark.parametrize("large", [False, True])
def test_centred_features_have_the_same_gradient_in_both_types(library, library_of_large_tasks, rng, large):
    emulator = Emulator(library_of_large_tasks if large else library)
    problem = problem_of(rng, (5, 5, 40), torch.float64, ratio=0.05, lambda2=0.02, change=centred)
    single = dataclasses.replace(problem, features=problem.features.float())
    solution = solve_on_cpu(problem, 1e-12)
    assert (solution.dual > 0).all()
    (cotangent,) = random_like(rng, solution.weights)
    exact = emulator.vjp(problem, solution, cotangent)[0]
    rounded = solution._replace(weights=solution.weights.float(), dual=solution.dual.float())
    found = emulator.vjp(single, rounded, cotangent.float())[0].double()
    assert float(exact.sum(1).norm()) < 1e-10 * float(exact.norm())
    assert float((found - exact).norm()) < 1e-5 * float(exact.norm())
