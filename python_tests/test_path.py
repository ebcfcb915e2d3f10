"""Warm starts: a path's solutions are those of cold solves, whatever they start from."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsesvm
from benchmarks.certificate import certify
from benchmarks.problems import Problem, uniform_bound
from sparsesvm import _autograd, _ops, reference

# Beyond 512 samples, and with many dual entries: the proximal method. The last is left to Newton steps on the dual.
SIZES = [(520, 30, 3), (210, 60, 10), (40, 90, 4)]


def problem_of(rng, size, *, group_size=1, dual_reg=0.0, weighted=False, ratio=0.3) -> Problem:
    n_samples, n_features, n_way = size
    labels = rng.integers(n_way, size=n_samples)
    features = rng.normal(size=(n_way, n_features))[labels] + rng.normal(size=(n_samples, n_features))
    weight = rng.exponential(size=n_samples) * (rng.random(n_samples) > 0.1) if weighted else np.ones(n_samples)
    bound = uniform_bound(features, labels, n_way, weight, group_size)
    return Problem(features, labels, n_way, ratio * bound, 1.0, weight, group_size, dual_reg)


def solve(problem: Problem, start: sparsesvm.Solution | None = None, tol: float = 1e-7) -> sparsesvm.Solution:
    penalties = (torch.tensor(value, dtype=torch.float64) for value in (problem.lambda1, problem.lambda2))
    inputs = (torch.from_numpy(problem.features), torch.from_numpy(problem.labels), torch.from_numpy(problem.sample_weight))
    at = (None, None) if start is None else (start.dual, start.weights)
    options = (problem.n_way, problem.group_size, problem.dual_reg, tol, 100, "raise", False)
    found = sparsesvm.Solution(*_ops.solve(*inputs, *penalties, *at, *options))
    assert certify(problem, found.weights, found.dual).confirms(tol)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options",
    [{}, {"group_size": 3}, {"dual_reg": 1.0}, {"dual_reg": 0.2, "weighted": True}, {"weighted": True, "group_size": 5}],
)
def test_a_path_is_a_row_of_cold_solves(rng, size, options):
    problem = problem_of(rng, size, **options)
    path = sparsesvm.regularization_path(
        torch.from_numpy(problem.features),
        torch.from_numpy(problem.labels),
        lambda2=problem.lambda2,
        n_lambdas=6,
        min_ratio=0.05,
        n_way=problem.n_way,
        sample_weight=torch.from_numpy(problem.sample_weight),
        group_size=problem.group_size,
        dual_reg=problem.dual_reg,
        tol=1e-7,
        on_failure="raise",
    )
    assert not path.solution.active[0].any()
    for number, penalty in enumerate(path.lambda1):
        here = replace(problem, lambda1=float(penalty))
        cold = solve(here)
        warm = sparsesvm.Solution(*(field[number] for field in path.solution))
        assert certify(here, warm.weights, warm.dual).confirms(1e-7)
        assert float((warm.weights - cold.weights).norm()) ** 2 <= 4 * float(warm.gap + cold.gap) / here.lambda2 + 1e-12


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", [{}, {"group_size": 3}, {"dual_reg": 1.0}, {"weighted": True}])
@pytest.mark.parametrize(("before", "after"), [(0.9, 0.02), (0.02, 0.9), (0.1, 0.1)])
def test_the_solution_of_a_very_different_penalty_is_no_bad_start(rng, size, options, before, after):
    start = solve(problem_of(np.random.default_rng(3), size, ratio=before, **options))
    problem = problem_of(np.random.default_rng(3), size, ratio=after, **options)
    cold, warm = solve(problem), solve(problem, start)
    # Where all weights are zero the cold start is nearly the solution.
    assert int(warm.n_iter) <= 2 * int(cold.n_iter) + 6


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_no_start_makes_an_answer_wrong(rng, size, scale):
    problem = problem_of(rng, size)
    cold = solve(problem)
    noise = torch.from_numpy(scale * rng.normal(size=tuple(cold.weights.shape)))
    vertices = torch.eye(problem.n_way, dtype=torch.float64)[torch.from_numpy(rng.integers(problem.n_way, size=size[0]))]
    found = solve(problem, cold._replace(weights=noise, dual=vertices))
    assert float(found.objective) == pytest.approx(float(cold.objective), abs=float(found.gap + cold.gap))


@pytest.mark.parametrize("dual_reg", [0.0, 1.0])
def test_a_warm_start_saves_iterations(rng, dual_reg):
    """Of a neighbouring penalty, and nearly all of them where the penalty is the same."""
    problem = problem_of(rng, SIZES[0], dual_reg=dual_reg, ratio=0.1)
    cold = solve(problem)
    assert int(solve(problem, cold).n_iter) < int(cold.n_iter)


def test_a_path_over_a_table_of_digits():
    """Grey levels that repeat: of the dual entries of a sample that vanish, the last are determined by those before."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    images, digits = datasets.load_digits(return_X_y=True)
    tasks = [[3, 5, 8], [1, 4, 7], [0, 6, 9], [2, 7, 8]]
    tables = [np.concatenate([images[digits == digit][:100] for digit in task]) / 16 for task in tasks]
    features = torch.from_numpy(np.stack([table - table.mean(0) for table in tables]))
    labels = torch.arange(3).repeat_interleave(100).expand(4, -1)
    path = sparsesvm.regularization_path(features, labels, lambda2=1.0, n_lambdas=30, min_ratio=0.02, on_failure="raise")
    for task, number in itertools.product(range(4), range(30)):
        lambda1 = float(path.lambda1[number, task])
        problem = Problem(features[task].numpy(), labels[task].numpy(), 3, lambda1, 1.0, np.ones(300), 1, 0.0)
        assert certify(problem, path.solution.weights[number, task], path.solution.dual[number, task]).confirms(1e-6)


def test_a_path_without_ridge(rng):
    problem = problem_of(rng, (60, 20, 3))
    path = sparsesvm.regularization_path(
        torch.from_numpy(problem.features), torch.from_numpy(problem.labels), lambda2=0.0, n_lambdas=4, min_ratio=0.2, n_way=3
    )
    for penalty, weights, dual in zip(path.lambda1, path.solution.weights, path.solution.dual, strict=True):
        assert certify(replace(problem, lambda1=float(penalty), lambda2=0.0), weights, dual).confirms(1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_lambdas=st.integers(2, 6),
    min_ratio=st.sampled_from([0.6, 0.3, 0.02]),
    group_size=st.sampled_from([1, 3]),
    single=st.booleans(),
    weighted=st.booleans(),
    dual_reg=st.sampled_from([0.0, 0.5]),
)
def test_screening_keeps_what_is_in_use(seed, n_lambdas, min_ratio, group_size, single, weighted, dual_reg):
    """A task alone is solved on some of the features, in a batch on all."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(3, size=30))
    features = 0.1 * rng.normal(size=(30, 150))
    # What disturbs the three features that tell most tells nothing by itself, until they are in use: the rule misses it.
    disturbance = rng.exponential(4) * rng.normal(size=(30, 3))
    features[:, :3] = disturbance + 2 * np.eye(3)[labels]
    features[:, 3:6] = -disturbance
    features[:, 60:90] = features[:, :30]  # copies
    features = torch.from_numpy(features).to(torch.float32 if single else torch.float64)
    options = {"lambda2": 0.5, "dual_reg": dual_reg, "group_size": group_size, "n_way": 3}
    tol = 1e-4 if single else 1e-8  # of large features a dual in single precision certifies no more
    if weighted:
        options["group_weight"] = torch.from_numpy(rng.uniform(0.5, 2, 150 // group_size))
    path = {"n_lambdas": n_lambdas, "min_ratio": min_ratio, "tol": tol, "on_failure": "raise"}
    alone = sparsesvm.regularization_path(features, labels, **options, **path)
    batch = sparsesvm.regularization_path(features[None], labels[None], **options, **path)
    torch.testing.assert_close(alone.solution.weights, batch.solution.weights[:, 0], rtol=0, atol=2 * (2 * tol * 30 / 0.5) ** 0.5)
    for penalty, weights, dual, active in zip(alone.lambda1, *(alone.solution[i] for i in (0, 1, 6)), strict=True):
        assert sparsesvm.duality_gap(features, labels, dual=dual, lambda1=penalty, **options) <= 1.1 * tol * 30
        assert torch.equal(reference.group_norms(weights, group_size) > 0, active)


def test_a_task_alone_is_solved_on_few_of_its_features(rng, monkeypatch):
    labels = torch.from_numpy(rng.integers(3, size=60))
    features = torch.from_numpy(rng.normal(size=(60, 2000)) + 3 * np.eye(3, 2000)[labels])
    sizes = []
    apply = _autograd.apply
    monkeypatch.setattr(_autograd, "apply", lambda features, *rest: sizes.append(features.shape[-1]) or apply(features, *rest))
    path = sparsesvm.regularization_path(features, labels, lambda2=0.1, n_lambdas=8, min_ratio=0.5)
    assert max(sizes) < 1000
    assert path.solution.weights.shape == (8, 3, 2000)
    features[7, 1500] = math.nan
    with pytest.raises(ValueError, match="features must be finite"):
        sparsesvm.regularization_path(features, labels, lambda2=0.1, n_lambdas=8, min_ratio=0.5)
