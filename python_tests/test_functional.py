"""Scores, penalties, certificates and paths."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

import sparsesvm
import sparsesvm.bilevel
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


@pytest.mark.parametrize("options", [{}, {"dual_reg": 1.0, "lambda2": torch.tensor(0.1, requires_grad=True)}])
def test_lambda1_ratio_is_a_share_of_lambda1_max(task, options):
    features, labels = task
    problem = {"lambda2": 0.1, **options}
    by_ratio = sparsesvm.solve(features, labels, lambda1_ratio=0.3, **problem)
    direct = sparsesvm.solve(features, labels, lambda1=0.3 * sparsesvm.lambda1_max(features, labels, **options), **problem)
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


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"dual_reg": 1.0, "lambda2": 0.1}])
def test_lambda1_max_does_not_see_what_absent_samples_hold(task, options):
    features, labels = task
    padded = torch.cat([features, features.new_full((3, 30), float("nan"))]), torch.cat([labels, torch.tensor([0, 3, 3])])
    found = sparsesvm.lambda1_max(*padded, sample_weight=torch.tensor([1.0] * 16 + [0.0] * 3), **options)
    # The bound is rounded up by what the rounding of so many samples may be; the exact one is accurate to 1e-4.
    rtol = 2e-4 if "exact" in options else 1e-13
    torch.testing.assert_close(found, sparsesvm.lambda1_max(features, labels, **options), rtol=rtol, atol=0)


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


@pytest.mark.parametrize("dual_reg", [0.0, 1.0])
def test_regularization_path_starts_at_zero_and_is_warm(task, dual_reg):
    features, labels = task
    path = sparsesvm.regularization_path(features, labels, lambda2=0.1, n_lambdas=12, tol=1e-9, dual_reg=dual_reg)
    assert path.lambda1.shape == (12,)
    assert (path.lambda1.diff() < 0).all()
    assert path.lambda1[-1] == pytest.approx(0.01 * float(path.lambda1[0]))
    assert not path.solution.active[0].any()
    assert path.solution.active[3].any()
    objective = path.solution.objective
    assert (objective.diff() <= 1e-6).all()
    cold = sparsesvm.solve(features, labels, lambda1=path.lambda1[-1], lambda2=0.1, tol=1e-9, dual_reg=dual_reg)
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


def test_numpy_numbers_are_numbers(task):
    features, labels = task
    plain = sparsesvm.solve(features, labels, lambda1=0.25, lambda2=1, n_way=4, group_size=5, max_iter=50, dual_reg=1)
    numpy = sparsesvm.solve(
        features,
        labels,
        lambda1=np.float32(0.25),
        lambda2=np.int64(1),
        n_way=np.int64(4),
        group_size=np.int32(5),
        max_iter=np.uint8(50),
        dual_reg=np.int64(1),
    )
    assert torch.equal(numpy.weights, plain.weights)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.uint16, torch.uint64])
def test_labels_of_every_integer_type(task, dtype):
    features, labels = task
    expected = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=0.1).weights
    assert torch.equal(sparsesvm.solve(features, labels.to(dtype), lambda1_ratio=0.1, lambda2=0.1).weights, expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float16])
def test_sample_weights_of_every_type(task, dtype):
    features, labels = task
    weight = (torch.arange(16) > 2).to(dtype)
    found = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=0.1, sample_weight=weight, n_way=4)
    alone = sparsesvm.solve(features[3:], labels[3:], lambda1_ratio=0.1, lambda2=0.1, n_way=4)
    torch.testing.assert_close(found.weights, alone.weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_single(task, dtype):
    features, labels = task
    found = sparsesvm.solve(features.to(dtype), labels, lambda1_ratio=0.1, lambda2=0.1)
    assert torch.equal(found.weights, sparsesvm.solve(features.to(dtype).float(), labels, lambda1_ratio=0.1, lambda2=0.1).weights)


def test_a_task_whose_samples_are_all_absent_has_no_weights(task):
    features, labels = task
    weight = torch.stack([torch.zeros(16), torch.ones(16)])
    found = sparsesvm.solve(
        features.expand(2, -1, -1), labels.expand(2, -1), lambda1_ratio=0.1, lambda2=0.1, sample_weight=weight, on_failure="raise"
    )
    assert (found.weights[0] == 0).all()
    assert (found.weights[1] != 0).any()
    assert found.objective[0] == 0


def test_classes_without_samples_are_classes(task):
    features, labels = task
    found = sparsesvm.solve(features, labels, lambda1=0.1, lambda2=0.1, n_way=7, on_failure="raise")
    assert found.weights.shape == (7, 30)


def test_no_iterations_and_no_tolerance_are_reported(task):
    features, labels = task
    found = sparsesvm.solve(features, labels, lambda1=0.1, lambda2=0.1, max_iter=0, on_failure="ignore")
    assert found.status == sparsesvm.StatusCode.MAX_ITER
    found = sparsesvm.solve(features, labels, lambda1=0.1, lambda2=0.1, tol=0.0, on_failure="ignore")
    assert (found.status == sparsesvm.StatusCode.CONVERGED) == (found.gap == 0)


@pytest.mark.parametrize("tasks", [(0,), (2, 0)])
def test_no_tasks_anywhere(tasks):
    features, labels = torch.zeros(*tasks, 4, 6, requires_grad=True), torch.zeros(*tasks, 4, dtype=torch.long)
    found = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=1.0, n_way=3)
    found.weights.sum().backward()
    assert found.weights.shape == (*tasks, 3, 6)
    assert features.grad.shape == features.shape
    assert sparsesvm.lambda1_max(features, labels, exact=True).shape == tasks
    assert sparsesvm.SparseSVMHead()(features, features, labels, 3).shape == (*tasks, 4, 3)


@pytest.mark.parametrize("start", [torch.zeros(16, 4), -1e30 * torch.ones(16, 4), 1e30 * torch.eye(4).repeat(4, 1)])
def test_any_finite_start_leads_to_the_solution(task, start):
    features, labels = task
    expected = sparsesvm.solve(features, labels, lambda1=0.1, lambda2=0.1, tol=1e-11).weights
    found = sparsesvm.solve(features, labels, lambda1=0.1, lambda2=0.1, tol=1e-11, init_dual=start, on_failure="raise").weights
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_lambda1_max_of_numbers_whose_squares_leave_single_precision(task):
    features, labels = task
    expected = sparsesvm.lambda1_max(features, labels)
    for scale in (1e-25, 1e25):
        found = sparsesvm.lambda1_max((features * scale).float(), labels).double() / scale
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)


def test_lambda1_max_has_a_gradient_where_features_are_dead(task):
    features, labels = task
    leaf = torch.cat([features, torch.zeros(16, 2)], -1).requires_grad_()
    sparsesvm.lambda1_max(leaf, labels).backward()
    assert leaf.grad.isfinite().all()
    assert leaf.grad.abs().max() > 0


def test_the_gradient_takes_lambda1_max_as_a_constant(task):
    features, labels = task
    by_ratio, direct = (features.clone().requires_grad_() for _ in range(2))
    bound = sparsesvm.lambda1_max(features, labels)
    sparsesvm.solve(by_ratio, labels, lambda1_ratio=0.3, lambda2=0.1).weights.square().sum().backward()
    sparsesvm.solve(direct, labels, lambda1=0.3 * bound, lambda2=0.1).weights.square().sum().backward()
    assert torch.equal(by_ratio.grad, direct.grad)


def test_solutions_are_loaded_with_the_default_of_torch():
    features, labels = torch.eye(4), torch.arange(4)
    solution = sparsesvm.solve(features, labels, lambda1=0.1, lambda2=1.0)
    path = sparsesvm.regularization_path(features, labels, lambda2=1.0, n_lambdas=3)
    regression = sparsesvm.bilevel.sparse_regression(features, features[0], lambda1=0.1)
    saved = {"solution": solution, "path": path, "regression": regression, "status": sparsesvm.StatusCode.MAX_ITER}
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    assert loaded["status"] is sparsesvm.StatusCode.MAX_ITER
    for name in ("solution", "path", "regression"):
        assert type(loaded[name]) is type(saved[name])
        torch.testing.assert_close(tuple(loaded[name]), tuple(saved[name]), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_samples", "n_features", "n_way"), [(700, 40, 5), (60, 400, 7), (90, 6, 4)])
def test_exact_lambda1_max_parts_weights_from_none(rng, n_samples, n_features, n_way, dtype):
    """At most 1e-4 above the smallest penalty without weights, by what `solve` finds on both sides."""
    labels = torch.from_numpy(rng.integers(n_way, size=n_samples))
    features = torch.from_numpy(3 * rng.normal(size=(n_way, n_features)))[labels]
    features = (features + torch.from_numpy(rng.normal(size=(n_samples, n_features)))).to(dtype)
    weight = torch.from_numpy(rng.exponential(size=n_samples))
    problem = {"n_way": n_way, "sample_weight": weight, "group_size": 2}
    exact = sparsesvm.lambda1_max(features, labels, exact=True, **problem)
    assert exact <= sparsesvm.lambda1_max(features, labels, **problem)
    without, some = (
        sparsesvm.solve(features, labels, lambda1=float(exact) * share, lambda2=0.0, tol=1e-9, on_failure="ignore", **problem)
        for share in (1 + 1e-6, 1 - 3e-4)
    )
    assert without.objective == pytest.approx(float(weight.sum()), rel=1e-8)
    assert some.objective < (1 - 1e-7) * weight.sum()


def test_exact_lambda1_max_where_classes_overlap_in_every_direction():
    features = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1])
    assert sparsesvm.lambda1_max(features, labels, exact=True) <= 1e-8


def test_a_ratio_that_leaves_nothing_says_so(task):
    features, labels = task
    with pytest.warns(sparsesvm.NoFeaturesWarning, match="smaller ratio"):
        sparsesvm.solve(features, labels, lambda1_ratio=0.999, lambda2=1.0)
    with pytest.warns(sparsesvm.NoFeaturesWarning, match="exact=True"):
        sparsesvm.regularization_path(features, labels, lambda2=1.0, n_lambdas=2, min_ratio=0.999)
    with pytest.warns(sparsesvm.NoFeaturesWarning):
        sparsesvm.SparseSVMHead(lambda1_ratio=0.999, center=False)(features, features, labels)


def test_what_may_well_have_no_features_does_not_warn(task):
    features, labels = task
    ratio = torch.tensor([0.999, 0.3], dtype=torch.float64)
    one = sparsesvm.solve(features.expand(2, -1, -1), labels.expand(2, -1), lambda1_ratio=ratio, lambda2=1.0)
    assert one.active.any(-1).tolist() == [False, True]  # a single task of a batch
    sparsesvm.solve(features, labels, lambda1_ratio=1.0, lambda2=1.0)
    sparsesvm.solve(features, labels, lambda1_ratio=0.999, lambda2=1.0, on_failure="ignore")
    sparsesvm.solve(torch.zeros_like(features), labels, lambda1_ratio=0.5, lambda2=1.0)


def test_a_solution_says_in_one_line_what_it_is(rng):
    features, labels = torch.from_numpy(rng.standard_normal((8, 25, 64))), torch.arange(25).expand(8, 25) % 5
    solution = sparsesvm.solve(features, labels, lambda1_ratio=0.3, lambda2=0.1)
    active = 100 * solution.active.double().mean()
    assert repr(solution).startswith(f"Solution(8 tasks, 5 classes, 64 features; {active:.3g} % active; largest gap ")
    assert repr(solution).endswith("; all converged)")
    assert repr(solution[:7]).count("tensor") == 7  # a slice is a plain tuple
    stopped = sparsesvm.solve(features, labels, lambda1_ratio=0.3, lambda2=0.1, max_iter=0, on_failure="ignore")
    assert repr(stopped).endswith("; 8 max_iter)")
    path = sparsesvm.regularization_path(features[0], labels[0], lambda2=0.1, n_lambdas=3)
    assert repr(path).startswith("RegularizationPath(3 penalties: 3 tasks, 5 classes, 64 features; ")
    empty = sparsesvm.solve(features[:0], labels[:0], lambda1_ratio=0.3, lambda2=0.1, n_way=5)
    assert repr(empty) == "Solution(0 tasks, 5 classes, 64 features)"
