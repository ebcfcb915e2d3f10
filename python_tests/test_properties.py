"""Promises for any input: hypothesis draws adversarial problems; every answer is finite, certified and honest about itself."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsesvm
from benchmarks.problems import adversarial
from sparsesvm import StatusCode, reference

SETTINGS = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1), single=st.booleans())
def test_every_answer_is_finite_feasible_and_certified(seed, single):
    problem = adversarial(np.random.default_rng(seed), max_samples=40, max_features=400)
    dtype = torch.float32 if single else torch.float64
    found = problem.solve(dtype, on_failure="ignore")
    total = problem.sample_weight.sum()
    assert found.weights.isfinite().all()
    assert (found.dual >= 0).all()
    torch.testing.assert_close(found.dual.double().sum(-1), torch.ones(len(problem.labels)).double(), rtol=0, atol=1e-6)
    groups = reference.group_norms(found.weights, problem.group_size)
    assert (groups[~found.active] == 0).all()
    converged = bool(found.status == StatusCode.CONVERGED)
    assert converged == bool(found.gap <= 1e-6 * total)
    certificate = sparsesvm.duality_gap(
        torch.from_numpy(problem.features).to(dtype),
        torch.from_numpy(problem.labels),
        found.weights,
        dual=found.dual.double() / found.dual.double().sum(-1, keepdim=True),
        lambda1=problem.lambda1,
        lambda2=problem.lambda2,
        n_way=problem.n_way,
        sample_weight=torch.from_numpy(problem.sample_weight),
        group_size=problem.group_size,
        dual_reg=problem.dual_reg,
    )
    assert abs(float(certificate) - float(found.gap)) <= 1e-7 * total


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_every_gradient_is_finite(seed):
    problem = adversarial(np.random.default_rng(seed), max_samples=20, max_features=100)
    features = torch.from_numpy(problem.features).requires_grad_()
    penalties = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (problem.lambda1, problem.lambda2)]
    weight = torch.from_numpy(problem.sample_weight).requires_grad_()
    found = sparsesvm.solve(
        features,
        torch.from_numpy(problem.labels),
        lambda1=penalties[0],
        lambda2=penalties[1],
        n_way=problem.n_way,
        sample_weight=weight,
        group_size=problem.group_size,
        dual_reg=problem.dual_reg,
        tol=1e-5,
        on_failure="ignore",
    )
    if found.status != StatusCode.CONVERGED:
        return
    for gradient in torch.autograd.grad(found.weights.sum(), (features, *penalties, weight)):
        assert gradient.isfinite().all()


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1))
def test_the_objective_is_below_that_of_any_other_weights(seed):
    rng = np.random.default_rng(seed)
    problem = adversarial(rng, max_samples=20, max_features=100)
    found = problem.solve(on_failure="ignore")
    exact = reference.make_problem(
        torch.from_numpy(problem.features),
        torch.from_numpy(problem.labels),
        lambda1=problem.lambda1,
        lambda2=problem.lambda2,
        n_way=problem.n_way,
        sample_weight=torch.from_numpy(problem.sample_weight),
        group_size=problem.group_size,
        dual_reg=problem.dual_reg,
    )
    scale = float(found.weights.abs().max()) or 1.0
    for size in (1e-3, 1e-1, 1.0):
        other = found.weights + torch.from_numpy(size * scale * rng.normal(size=tuple(found.weights.shape)))
        assert (
            float(exact.primal_objective(other)) >= float(found.objective) - float(found.gap) - 1e-9 * problem.sample_weight.sum()
        )
