"""Features in compressed sparse rows: the same problem, solved without making it dense."""

from __future__ import annotations

import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsesvm
from benchmarks.certificate import certify
from benchmarks.problems import Problem, weakly_ridged

FEATURES = torch.tensor([[1.0, 0, 2, 0], [0, -1, 0, 0], [0, 0, 1, 3], [2, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]])
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def thinned(seed: int) -> Problem:
    """A random problem, most of whose entries are zero."""
    problem = weakly_ridged(np.random.default_rng(seed))
    kept = np.random.default_rng(seed).random(problem.features.shape) < 0.3
    return replace(problem, features=problem.features * kept)


def options_of(problem: Problem) -> dict:
    return {
        "n_way": problem.n_way,
        "sample_weight": torch.from_numpy(problem.sample_weight),
        "group_size": problem.group_size,
        "dual_reg": problem.dual_reg,
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), single=st.booleans())
def test_solved_and_certified_by_numpy(seed, single):
    problem, tol = thinned(seed), 1e-6 if single else 1e-9
    dense = torch.from_numpy(problem.features).to(torch.float32 if single else torch.float64)
    problem = replace(problem, features=dense.double().numpy())
    found = sparsesvm.solve(
        dense.to_sparse_csr(),
        torch.from_numpy(problem.labels),
        lambda1=problem.lambda1,
        lambda2=problem.lambda2,
        tol=tol,
        on_failure="raise",
        **options_of(problem),
    )
    certificate = certify(problem, found.weights.numpy(), found.dual.numpy())
    assert certificate.confirms(tol), certificate
    assert certificate.primal == pytest.approx(float(found.objective), abs=tol * certificate.total)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_largest_useful_penalty_is_that_of_dense_features(seed):
    problem = thinned(seed)
    features, labels = torch.from_numpy(problem.features), torch.from_numpy(problem.labels)
    options = options_of(problem) | {"lambda2": problem.lambda2 or 1.0}
    expected = sparsesvm.lambda1_max(features, labels, **options)
    torch.testing.assert_close(sparsesvm.lambda1_max(features.to_sparse_csr(), labels, **options), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_path_is_that_of_dense_features(dtype):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 200, generator=generator) * (torch.rand(80, 200, generator=generator) < 0.1)
    labels = torch.arange(80) % 4
    options = {"lambda2": 0.1, "n_lambdas": 6, "tol": 1e-7}
    sparse = sparsesvm.regularization_path(features.to(dtype).to_sparse_csr(), labels, **options)
    dense = sparsesvm.regularization_path(features.to(dtype), labels, **options)
    torch.testing.assert_close(sparse.lambda1, dense.lambda1, rtol=1e-5, atol=0)
    torch.testing.assert_close(sparse.solution.objective, dense.solution.objective, rtol=0, atol=80 * 3e-7)
    assert sparse.solution.weights.dtype == dense.solution.weights.dtype


def test_what_absent_samples_hold_changes_nothing():
    weight = torch.tensor([1.0, 1, 1, 1, 1, 0])
    spoilt = FEATURES.clone()
    spoilt[5] = torch.tensor([float("nan"), 1e30, float("inf"), 0])
    options = {"lambda1_ratio": 0.3, "lambda2": 0.1, "n_way": 3, "sample_weight": weight}
    expected = sparsesvm.solve(FEATURES.to_sparse_csr(), LABELS, **options)
    found = sparsesvm.solve(spoilt.to_sparse_csr(), LABELS, **options)
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=0)
    torch.testing.assert_close(found.dual.sum(-1), torch.ones(6))


@pytest.mark.parametrize("absent", range(6))
def test_an_absent_sample_between_others_is_as_if_it_were_not_there(absent):
    kept = torch.arange(6) != absent
    options = {"lambda1": 0.3, "lambda2": 0.1, "n_way": 3}
    found = sparsesvm.solve(FEATURES.to_sparse_csr(), LABELS, sample_weight=kept.double(), **options)
    alone = sparsesvm.solve(FEATURES[kept].to_sparse_csr(), LABELS[kept], **options)
    assert torch.equal(found.weights, alone.weights)
    assert torch.equal(found.dual[kept], alone.dual)


def test_explicit_zeros_and_empty_rows_and_columns():
    kept = torch.sparse_csr_tensor(
        torch.tensor([0, 1, 3, 3]), torch.tensor([2, 0, 2]), torch.tensor([0.0, 1.0, -2.0]), (3, 5), check_invariants=True
    )
    options = {"lambda1": 0.1, "lambda2": 0.5, "n_way": 3}
    labels = torch.tensor([0, 1, 2])
    found, expected = (sparsesvm.solve(f, labels, **options) for f in (kept, kept.to_dense()))
    torch.testing.assert_close(found.weights, expected.weights, rtol=0, atol=1e-5)
    assert not found.active[[1, 3, 4]].any()


@pytest.mark.parametrize("lambda2", [0.0, 0.1])
def test_one_class_has_no_weights(lambda2):
    for features in (FEATURES, FEATURES.to_sparse_csr()):
        found = sparsesvm.solve(features, LABELS * 0, lambda1=0.1, lambda2=lambda2, n_way=1)
        assert found.status == sparsesvm.StatusCode.CONVERGED
        assert not found.active.any()
        assert (found.weights == 0).all() and (found.dual == 1).all()
        assert found.objective == 0 and found.gap == 0


def test_no_feature_without_entries():
    found = sparsesvm.solve((FEATURES * 0).to_sparse_csr(), LABELS, lambda1=0.1, lambda2=0.1)
    assert found.status == sparsesvm.StatusCode.CONVERGED
    assert float(found.objective) == 6


def test_nothing_is_made_dense():
    """20,000 samples of 100,000 features would fill 8 GB."""
    generator = torch.Generator().manual_seed(0)
    n_samples, n_features, entries = 20_000, 100_000, 10
    column = torch.randint(n_features // entries, (n_samples, entries), generator=generator)
    column += torch.arange(entries) * (n_features // entries)
    labels = torch.arange(n_samples) % 2
    values = 1 + torch.rand(n_samples, entries, generator=generator)
    column[:, 0], values[:, 0] = labels, 2.0
    features = torch.sparse_csr_tensor(
        torch.arange(n_samples + 1) * entries, column.flatten(), values.flatten(), (n_samples, n_features), check_invariants=True
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=1.0, on_failure="raise")
    assert found.active[:2].all()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 1e9


VALUE_ERRORS = {
    "a batch": (torch.stack([FEATURES, FEATURES]).to_sparse_csr(), r"one task; got \(2, 6, 4\). Solve the tasks one by one"),
    "not finite": (torch.where(FEATURES != 0, torch.inf, 0.0).to_sparse_csr(), "features.*finite"),
}


@pytest.mark.parametrize("name", VALUE_ERRORS)
def test_value_errors(name):
    features, message = VALUE_ERRORS[name]
    labels = LABELS.expand(features.shape[:-1])
    with pytest.raises(ValueError, match=message):
        sparsesvm.solve(features, labels, lambda1=0.1, lambda2=0.1)


@pytest.mark.parametrize("column", [[1, 0], [1, 1], [0, 4], [-1, 0]])
def test_rows_out_of_order_are_refused(column):
    features = torch.sparse_csr_tensor(
        torch.tensor([0, 2, 2]), torch.tensor(column), torch.ones(2), (2, 4), check_invariants=False
    )
    with pytest.raises(ValueError, match=r"increase within each row.*sum_duplicates\(\) and sort_indices\(\)"):
        sparsesvm.solve(features, torch.tensor([0, 1]), lambda1=0.1, lambda2=0.1)


def test_there_is_no_gradient():
    penalty = torch.tensor(0.1, requires_grad=True)
    features = FEATURES.to_sparse_csr()
    with pytest.raises(NotImplementedError, match=r"no gradient.*features\.to_dense\(\)"):
        sparsesvm.solve(features, LABELS, lambda1=penalty, lambda2=0.1)
    with torch.no_grad():
        assert sparsesvm.solve(features, LABELS, lambda1=penalty, lambda2=0.1).status == sparsesvm.StatusCode.CONVERGED


def test_other_functions_and_layouts_name_the_remedy():
    with pytest.raises(TypeError, match=r"sparse_coo.*to_sparse_csr\(\)"):
        sparsesvm.solve(FEATURES.to_sparse(), LABELS, lambda1=0.1, lambda2=0.1)
    with pytest.raises(TypeError, match=r"sparse_csr.*to_dense\(\)"):
        sparsesvm.duality_gap(FEATURES.to_sparse_csr(), LABELS, torch.zeros(3, 4), lambda1=0.1, lambda2=0.1)


def test_scores_of_sparse_queries():
    weights = sparsesvm.solve(FEATURES.to_sparse_csr(), LABELS, lambda1=0.1, lambda2=0.1).weights
    scores = sparsesvm.decision_function(FEATURES.to_sparse_csr(), weights)
    torch.testing.assert_close(scores, sparsesvm.decision_function(FEATURES, weights))
