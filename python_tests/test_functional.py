"""Scores, penalties, certificates and paths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sparsesvm
from benchmarks.problems import episode, uniform_bound


@pytest.fixture
def task(rng):
    features, labels = episode(rng, 4, 16, 30)
    return torch.from_numpy(features), torch.from_numpy(labels)


def test_decision_function_is_the_product(task, generator):
    weights = torch.randn(4, 30, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(sparsesvm.decision_function(task[0], weights), task[0] @ weights.T)


def test_lambda1_max_is_the_uniform_bound(task):
    features, labels = task
    expected = uniform_bound(features.numpy(), labels.numpy(), 4, np.ones(16), 5)
    assert float(sparsesvm.lambda1_max(features, labels, group_size=5)) == pytest.approx(expected)


def test_lambda1_ratio_is_a_share_of_lambda1_max(task):
    features, labels = task
    by_ratio = sparsesvm.solve(features, labels, lambda1_ratio=0.3, lambda2=0.1)
    direct = sparsesvm.solve(features, labels, lambda1=0.3 * sparsesvm.lambda1_max(features, labels), lambda2=0.1)
    assert torch.equal(by_ratio.weights, direct.weights)


def test_exact_lambda1_max_with_two_classes_is_the_bound(rng):
    features, labels = episode(rng, 2, 9, 12)
    features, labels = torch.from_numpy(features), torch.from_numpy(labels)
    exact = sparsesvm.lambda1_max(features, labels, exact=True)
    torch.testing.assert_close(exact, sparsesvm.lambda1_max(features, labels), rtol=1e-6, atol=0)


def test_exact_lambda1_max_of_a_batch_with_weights(task):
    features, labels = task
    weight = torch.ones(2, 16)
    weight[1, 10:] = 0
    batch = sparsesvm.lambda1_max(features.expand(2, -1, -1), labels.expand(2, -1), exact=True, sample_weight=weight)
    torch.testing.assert_close(batch[0], sparsesvm.lambda1_max(features, labels, exact=True), rtol=2e-4, atol=0)
    torch.testing.assert_close(
        batch[1], sparsesvm.lambda1_max(features[:10], labels[:10], exact=True, n_way=4), rtol=2e-4, atol=0
    )


def test_lambda1_max_of_nothing_to_learn(task):
    features, labels = task
    assert sparsesvm.lambda1_max(features, torch.zeros_like(labels), exact=True, n_way=1) == 0
    assert sparsesvm.lambda1_max(torch.zeros_like(features), labels, exact=True) == 0


def test_duality_gap_certifies_weights_of_any_origin(task):
    features, labels = task
    penalties = {"lambda1": 0.1, "lambda2": 0.1}
    found = sparsesvm.solve(features, labels, **penalties, tol=1e-12)
    assert 0 <= sparsesvm.duality_gap(features, labels, found.weights, **penalties) < 1e-4
    zero = torch.zeros(4, 30, dtype=torch.float64)
    gap = float(sparsesvm.duality_gap(features, labels, zero, **penalties))
    assert gap == pytest.approx(16 - float(found.objective), abs=2e-5)


def test_regularization_path_starts_at_zero_and_is_warm(task):
    features, labels = task
    path = sparsesvm.regularization_path(features, labels, lambda2=0.1, n_lambdas=12, tol=1e-9)
    assert path.lambda1.shape == (12,)
    assert (path.lambda1.diff() < 0).all()
    assert path.lambda1[-1] == pytest.approx(0.01 * float(path.lambda1[0]))
    assert not path.solution.active[0].any()
    objective = path.solution.objective
    assert (objective.diff() <= 1e-6).all()
    cold = sparsesvm.solve(features, labels, lambda1=path.lambda1[-1], lambda2=0.1, tol=1e-9)
    torch.testing.assert_close(path.solution.weights[-1], cold.weights, rtol=0, atol=1e-3)
    assert path.solution.weights.shape == (12, 4, 30)


def test_regularization_path_of_a_batch(task):
    features, labels = task
    path = sparsesvm.regularization_path(features.expand(3, -1, -1), labels.expand(3, -1), lambda2=0.1, n_lambdas=3)
    assert path.lambda1.shape == (3, 3)
    assert path.solution.weights.shape == (3, 3, 4, 30)


def test_backends_say_what_is_there():
    found = sparsesvm.backends()
    assert found["cpu"]["simd"] in found["cpu"]["built"]
    assert found["cuda"]["usable"] in (True, False)
    assert found["cuda"]["usable"] or found["cuda"]["reason"]
