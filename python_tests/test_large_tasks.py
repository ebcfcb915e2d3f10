"""Tasks with more dual entries than the solver holds matrices for, and several threads inside one task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsesvm
from benchmarks.certificate import certify
from benchmarks.problems import Problem, episode, uniform_bound
from sparsesvm import _core


def task(rng, n_way, n_samples, n_features):
    features, labels = episode(rng, n_way, n_samples, n_features)
    return torch.from_numpy(features), torch.from_numpy(labels)


@pytest.mark.parametrize("ratio", [0.5, 0.7])
@pytest.mark.parametrize(("dual_reg", "group_size"), [(0.0, 1), (0.1, 1), (0.0, 3)])
def test_thousands_of_dual_entries(rng, ratio, dual_reg, group_size):
    features, labels = task(rng, 40, 80, 900)
    lambda1 = ratio * sparsesvm.lambda1_max(features, labels, group_size=group_size)
    options = {"lambda1": lambda1, "lambda2": 0.1, "dual_reg": dual_reg, "group_size": group_size}
    found = sparsesvm.solve(features, labels, **options, tol=1e-9, max_iter=60, on_failure="raise")
    assert 0 < found.active.double().mean() < 1
    assert sparsesvm.duality_gap(features, labels, found.weights, dual=found.dual, **options) <= 1.01e-9 * len(labels)


@pytest.mark.parametrize("n_features", [200, 2200])
def test_thousands_of_samples_without_group_penalty(rng, n_features):
    """More than the Gram matrix is held for."""
    features, labels = task(rng, 3, 2100, n_features)
    found = sparsesvm.solve(features, labels, lambda1=0.0, lambda2=1.0, tol=1e-6, on_failure="raise")
    assert sparsesvm.duality_gap(features, labels, dual=found.dual, lambda1=0.0, lambda2=1.0) <= 1.01e-6 * len(labels)


@pytest.mark.parametrize("n_way", [2, 5])
def test_sweeps_give_way_to_newton_steps_without_group_penalty(rng, n_way):
    """Classes without a pattern, where sweeps alone take twice as many steps and more."""
    features, labels = torch.from_numpy(rng.normal(size=(2100, 2200))), torch.from_numpy(rng.integers(0, n_way, 2100))
    found = sparsesvm.solve(features, labels, lambda1=0.0, lambda2=1.0, tol=1e-9, max_iter=12, on_failure="raise")
    assert sparsesvm.duality_gap(features, labels, found.weights, dual=found.dual, lambda1=0.0, lambda2=1.0) <= 1.01e-9 * 2100


def test_a_factor_that_serves_several_steps_stays_with_its_task(rng):
    """So large that Newton steps solve by conjugate gradients with the last factor: a task is the same after another one."""
    features = torch.from_numpy(rng.normal(size=(2, 520, 700)))
    labels = torch.from_numpy(rng.integers(0, 4, (2, 520)))
    options = {"lambda1": 0.2 * sparsesvm.lambda1_max(features, labels), "lambda2": 1.0}
    both = sparsesvm.solve(features, labels, **options, tol=1e-4, on_failure="raise")
    assert (sparsesvm.duality_gap(features, labels, both.weights, dual=both.dual, **options) <= 1.01e-4 * 520).all()
    options["lambda1"] = options["lambda1"][1]
    assert torch.equal(sparsesvm.solve(features[1], labels[1], **options, tol=1e-4).weights, both.weights[1])


@pytest.mark.parametrize("lambda2", [0.1, 1.0, 10.0])
def test_a_gap_in_small_parts_of_many_groups(rng, lambda2):
    """The first working sets, of some 20 groups, hold next to none of it."""
    features = rng.standard_normal((600, 4000)) / np.sqrt(4000)
    problem = Problem(features, np.arange(600) % 3, 3, 0.0, lambda2, np.ones(600))
    problem = replace(problem, lambda1=0.05 * uniform_bound(features, problem.labels, 3, problem.sample_weight, 1))
    found = problem.solve(on_failure="raise")
    assert found.active.sum() > 1000
    assert certify(problem, found.weights.numpy(), found.dual.numpy()).confirms(1e-6)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("ratio", "group_size"), [(0.05, 1), (0.3, 1), (0.3, 2)])
def test_columns_that_repeat(rng, ratio, group_size, sparse):
    """All copies pull alike, and more of them than a working set takes in at a time."""
    labels = np.arange(600) % 3
    features = np.tile(rng.standard_normal((600, 4)) + labels[:, None] * [1, 0, 0, 0], 50)
    problem = Problem(features, labels, 3, 0.0, 1.0, np.ones(600), group_size)
    problem = replace(problem, lambda1=ratio * uniform_bound(features, labels, 3, problem.sample_weight, group_size))
    found = problem.solve(sparse=sparse, on_failure="raise")
    assert found.active.any()
    assert certify(problem, found.weights.numpy(), found.dual.numpy()).confirms(1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_left_of_groups_that_go(seed):
    """At the default tolerance the features in use are those of the exact solution, but for what is at the threshold."""
    rng = np.random.default_rng(seed)
    features, planted = torch.from_numpy(rng.normal(size=(600, 400))), torch.from_numpy(rng.normal(size=(30, 4)))
    labels = (features[:, :30] @ planted + 3 * torch.from_numpy(rng.normal(size=(600, 4)))).argmax(1)
    options = {"lambda1_ratio": 0.1, "lambda2": 1.0, "dual_reg": 1.0, "on_failure": "raise"}
    found, exact = (sparsesvm.solve(features, labels, tol=tol, **options) for tol in (1e-6, 1e-12))
    assert (found.active != exact.active).sum() <= 2
    assert torch.equal(found.active, (found.weights != 0).any(0))


@pytest.mark.parametrize("lambda1", [0.0, 20.0])
@pytest.mark.parametrize("n_features", [1, 4])
def test_many_samples_of_few_features(rng, n_features, lambda1):
    """Fewer features than a row of the working set is padded to; converged or not, the certificate holds."""
    features, labels = task(rng, 3, 2100, n_features)
    found = sparsesvm.solve(features, labels, lambda1=lambda1, lambda2=1.0, max_iter=20, on_failure="ignore")
    certificate = sparsesvm.duality_gap(features, labels, found.weights, dual=found.dual, lambda1=lambda1, lambda2=1.0)
    torch.testing.assert_close(found.gap, certificate, rtol=1e-6, atol=1e-9)
    assert (found.status == 0) == (found.gap <= 1e-6 * 2100)


@pytest.mark.parametrize("ratio", [0.0, 0.7])
def test_the_gradient_of_a_large_face(rng, ratio):
    """Found without a matrix: against a difference quotient along a random direction."""
    features, labels = task(rng, 30, 90, 60)
    lambda1 = ratio * sparsesvm.lambda1_max(features, labels)

    def weights(x):
        return sparsesvm.solve(x, labels, lambda1=lambda1, lambda2=0.3, tol=1e-12, on_failure="raise").weights

    cotangent = torch.from_numpy(rng.normal(size=(30, 60)))
    direction = torch.from_numpy(rng.normal(size=(90, 60)))
    x = features.clone().requires_grad_()
    found = sparsesvm.solve(x, labels, lambda1=lambda1, lambda2=0.3, tol=1e-12, on_failure="raise")
    assert (found.dual > 0).sum() - 90 > 400
    (gradient,) = torch.autograd.grad((found.weights * cotangent).sum(), x)
    step = 1e-6
    change = (weights(features + step * direction) - weights(features - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float((change * cotangent).sum()), rel=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_the_gradient_of_a_large_singular_face(rng, ratio):
    """Two copies of every row count as one of weight two."""
    features, labels = task(rng, 20, 40, 30)
    lambda1 = ratio * sparsesvm.lambda1_max(features, labels, sample_weight=2 * torch.ones(40))
    cotangent = torch.from_numpy(rng.normal(size=(20, 30)))
    once, twice = features.clone().requires_grad_(), features.repeat(2, 1).requires_grad_()
    options = {"lambda1": lambda1, "lambda2": 0.3, "tol": 1e-12, "on_failure": "raise"}
    weights = sparsesvm.solve(once, labels, sample_weight=2 * torch.ones(40), **options).weights
    (expected,) = torch.autograd.grad((weights * cotangent).sum(), once)
    weights = sparsesvm.solve(twice, labels.repeat(2), **options).weights
    (gradient,) = torch.autograd.grad((weights * cotangent).sum(), twice)
    torch.testing.assert_close(gradient[:40] + gradient[40:], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(("n_way", "n_samples", "n_features", "ratio"), [(2, 700, 150, 0.1), (4, 600, 60, 0.2)])
def test_gradients_of_large_tasks_are_exact_at_the_default_tolerance(rng, n_way, n_samples, n_features, ratio):
    """Of which few samples have free entries. Against those of a solve to the last digit, in both types."""
    features, labels = task(rng, n_way, n_samples, n_features)
    features = (features - features.mean(0)).float().double() * n_samples**0.5
    lambda1 = float(ratio * sparsesvm.lambda1_max(features, labels))
    cotangent = torch.from_numpy(rng.normal(size=(n_way, n_features)))

    def gradient(x, tol):
        x = x.clone().requires_grad_()
        found = sparsesvm.solve(x, labels, lambda1=lambda1, lambda2=1.0, tol=tol)
        (result,) = torch.autograd.grad((found.weights * cotangent.to(x.dtype)).sum(), x)
        return result.double(), found

    exact, found = gradient(features, 1e-13)
    assert found.active.sum() > 0 and ((found.dual > 0).sum(1) > 1).sum() < n_samples / 2
    for dtype in (torch.float64, torch.float32):
        result, found = gradient(features.to(dtype), 1e-6)
        assert found.status == sparsesvm.StatusCode.CONVERGED
        assert float((result - exact).norm()) < 1e-4 * float(exact.norm())


def test_no_weights_in_a_large_task_are_identified(rng):
    features, labels = task(rng, 3, 700, 40)
    lambda1 = 1.1 * sparsesvm.lambda1_max(features, labels, exact=True)
    found = sparsesvm.solve(features.requires_grad_(), labels, lambda1=lambda1, lambda2=1.0)
    assert found.status == sparsesvm.StatusCode.CONVERGED and not found.active.any()


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_centred_features_of_a_large_face(rng, ratio):
    """The dual is free along the all-ones direction, which conjugate gradients leave out in both types."""
    features, labels = task(rng, 20, 60, 400)
    features = features - features.mean(0)
    penalties = {"lambda1": float(ratio * sparsesvm.lambda1_max(features, labels)), "lambda2": 0.01}
    cotangent = torch.from_numpy(rng.normal(size=(20, 400)))
    gradients = []
    for dtype in (torch.float64, torch.float32):
        x = features.to(dtype).requires_grad_()
        found = sparsesvm.solve(x, labels, **penalties)
        gradients.append(torch.autograd.grad((found.weights * cotangent.to(dtype)).sum(), x)[0].double())
    assert (found.dual > 0).sum() - 60 > 400
    assert float((gradients[1] - gradients[0]).norm()) < 1e-5 * float(gradients[0].norm())


def test_a_cotangent_without_effect(rng):
    """The rows of the weights sum to zero, so that their sum has no gradient but rounding; it must not take for ever."""
    features, labels = task(rng, 30, 90, 60)
    found = sparsesvm.solve(features.requires_grad_(), labels, lambda1=0.1, lambda2=0.3, tol=1e-10, on_failure="raise")
    (gradient,) = torch.autograd.grad(found.weights.sum(), features)
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_threads_inside_a_task_do_not_change_it(rng, four_threads, ratio):
    features, labels = task(rng, 5, 60, 16000)
    results = []
    for n_threads in (1, 4):
        torch.set_num_threads(n_threads)
        x = features.clone().requires_grad_()
        found = sparsesvm.solve(x, labels, lambda1_ratio=ratio, lambda2=0.1, on_failure="raise")
        (gradient,) = torch.autograd.grad(found.weights.square().sum(), x)
        results.append((found.weights, found.dual, gradient))
    for one, four in zip(*results, strict=True):
        assert torch.equal(one, four)


@settings(max_examples=200, deadline=None)
@given(
    n_samples=st.integers(1, 30_000),
    n_features=st.integers(1, 60_000),
    n_way=st.integers(1, 40),
    density=st.floats(0, 1),
    is_double=st.booleans(),
)
def test_memory_stays_below_the_formula(n_samples, n_features, n_way, density, is_double):
    """docs/method.md, 9."""
    n, m, k, size = n_samples, n_features, n_way, 8 if is_double else 4
    side, unknowns, candidates = min(n, 3000), min(k * min(n, m), 3000), min(n * k, 2048)
    squares = max(side**2 + unknowns**2 + 300 * (side + unknowns), 3 * candidates**2 + 550 * candidates)
    others = 8 * (16 * n * k + 24 * m * k + 30 * n + 40 * m + squares) + 100_000
    assert _core.solve_workspace(is_double, 1, n, m, k, 1, 1) <= 2 * n * m * size + others
    entries = int(density * n * m)
    assert _core.sparse_solve_workspace(is_double, n, m, k, 1, entries, 1) <= 2 * entries * (size + 4) + others


def test_a_large_task_that_overflows_says_so(rng):
    """Also where a gradient is asked for, and after a task that was solved by the same thread."""
    features, labels = torch.from_numpy(rng.normal(size=(2, 600, 20))), torch.from_numpy(rng.integers(0, 3, (2, 600)))
    features[1] *= 1e160
    with pytest.raises(ValueError, match="features must be finite"):
        sparsesvm.solve(features.requires_grad_(), labels, lambda1=1.0, lambda2=1.0)
