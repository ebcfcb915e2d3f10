"""Sparse and ridge regression: certified minima, scikit-learn's solutions, exact gradients, hostile data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, Lasso, MultiTaskElasticNet, MultiTaskLasso, Ridge
from torch import Tensor

import sparsesvm
from sparsesvm import ConvergenceError, ConvergenceWarning, StatusCode
from sparsesvm.bilevel import lambda_max, ridge_regression, sparse_regression

SHAPES = [(50, 6, 1), (50, 200, 1), (30, 40, 3), (20, 12, 4)]


def draw(generator: torch.Generator, n_tasks: int, n_samples: int, n_features: int, n_outputs: int) -> tuple[Tensor, Tensor]:
    """Gaussian features and noisy targets of a few of them."""
    features = torch.randn(n_tasks, n_samples, n_features, generator=generator, dtype=torch.float64)
    weights = torch.randn(n_tasks, n_features, n_outputs, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(n_tasks, n_features, 1, generator=generator) < min(0.5, 5 / n_features))
    noise = 0.3 * torch.randn(n_tasks, n_samples, n_outputs, generator=generator, dtype=torch.float64)
    return features, features @ weights + noise


def certificate(features: Tensor, targets: Tensor, weights: Tensor, lambda1: Tensor, lambda2: Tensor) -> Tensor:
    """Primal minus the better of two dual objectives, in plain numbers and apart from the solver, (...,).

    The dual is (||Y||^2 - ||Y - theta||^2) / 2n - sum_j (||F_:j' theta|| / n - lambda1)_+^2 / (2 lambda2): tried at the residual,
    and, with lambda2 moved into the data as rows sqrt(n lambda2) I, at the residual scaled to where the last sum vanishes.
    """
    n_samples, n_features = features.shape[-2:]
    residual = targets - features @ weights.mT
    squares = weights.square().sum((-2, -1))
    primal = residual.square().sum((-2, -1)) / (2 * n_samples) + lambda1 * weights.norm(dim=-2).sum(-1) + lambda2 / 2 * squares
    excess = ((features.mT @ residual).norm(dim=-1) / n_samples - lambda1.unsqueeze(-1)).clamp(min=0).square().sum(-1)
    fit = targets.square().sum((-2, -1)) - (targets - residual).square().sum((-2, -1))
    direct = fit / (2 * n_samples) - torch.where(lambda2 > 0, excess / (2 * lambda2), torch.where(excess > 0, math.inf, 0.0))
    ridge = (n_samples * lambda2).sqrt()[..., None, None] * torch.eye(n_features, dtype=torch.float64)
    features = torch.cat([features, ridge], -2)
    targets = torch.cat([targets, targets.new_zeros(*targets.shape[:-2], n_features, targets.shape[-1])], -2)
    residual = targets - features @ weights.mT
    largest = (features.mT @ residual).norm(dim=-1).amax(-1) / n_samples
    theta = residual * (lambda1 / largest.clamp(min=1e-300)).clamp(max=1.0)[..., None, None]
    scaled = (targets.square().sum((-2, -1)) - (targets - theta).square().sum((-2, -1))) / (2 * n_samples)
    return primal - torch.maximum(direct, scaled)


@pytest.mark.parametrize(("n_samples", "n_features", "n_outputs"), SHAPES)
@pytest.mark.parametrize("ratio", [0.02, 0.3])
@pytest.mark.parametrize("l1_ratio", [1.0, 0.7])
def test_agrees_with_scikit_learn(generator, n_samples, n_features, n_outputs, ratio, l1_ratio):
    features, targets = draw(generator, 3, n_samples, n_features, n_outputs)
    lambda1 = ratio * lambda_max(features, targets)
    lambda2 = lambda1 * (1 - l1_ratio) / l1_ratio
    found = sparse_regression(features, targets, lambda1=lambda1, lambda2=lambda2, tol=1e-14)
    for task in range(3):
        alpha = float(lambda1[task] / l1_ratio)
        plain = Lasso(alpha) if n_outputs == 1 else MultiTaskLasso(alpha)
        mixed = ElasticNet(alpha, l1_ratio=l1_ratio) if n_outputs == 1 else MultiTaskElasticNet(alpha, l1_ratio=l1_ratio)
        model = plain if l1_ratio == 1 else mixed
        model.set_params(fit_intercept=False, tol=1e-14, max_iter=1_000_000)
        model.fit(features[task].numpy(), targets[task].squeeze(-1).numpy())
        np.testing.assert_allclose(found.weights[task].squeeze(0), model.coef_, atol=1e-6)


@pytest.mark.parametrize("n_features", [6, 80])
def test_ridge_agrees_with_scikit_learn(generator, n_features):
    features, targets = draw(generator, 2, 50, n_features, 3)
    weights = ridge_regression(features, targets, lambda2=0.01)
    by_ratio = ridge_regression(features, targets, lambda_ratio=0.2)
    for task in range(2):
        x, y = features[task].numpy(), targets[task].numpy()
        np.testing.assert_allclose(weights[task], Ridge(0.5, fit_intercept=False).fit(x, y).coef_, atol=1e-10)
        penalty = 0.2 * (x**2).sum()
        np.testing.assert_allclose(by_ratio[task], Ridge(penalty, fit_intercept=False).fit(x, y).coef_, atol=1e-10)


@pytest.mark.parametrize(("n_samples", "n_features", "n_outputs"), [(50, 6, 1), (20, 60, 1), (15, 40, 3)])
def test_thousands_of_problems_are_solved_to_a_gap_of_1e_8(generator, n_samples, n_features, n_outputs):
    features, targets = draw(generator, 1000, n_samples, n_features, n_outputs)
    ratio = torch.rand(1000, generator=generator, dtype=torch.float64).square().clamp(min=0.01)
    lambda2 = 0.01 * torch.randint(2, (1000,), generator=generator).double()
    lambda1 = ratio * lambda_max(features, targets)
    found = sparse_regression(features, targets, lambda1=lambda1, lambda2=lambda2, on_failure="raise")
    start = targets.square().sum((-2, -1)) / (2 * n_samples)
    gap = certificate(features, targets, found.weights, lambda1, lambda2)
    assert (gap <= 1e-8 * start).all()
    assert (found.gap <= 1e-10 * start).all()
    assert (found.gap >= 0).all()


@pytest.mark.parametrize(("n_samples", "n_features"), [(6, 6), (50, 6), (30, 60)])
@pytest.mark.parametrize("decay", [1e-2, 1e-6])
def test_nearly_collinear_features_converge(generator, n_samples, n_features, decay):
    """Singular values that fall geometrically to `decay`."""
    rank = min(n_samples, n_features)
    values = torch.logspace(0, math.log10(decay), rank, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(50, n_samples, rank, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(50, n_features, rank, generator=generator, dtype=torch.float64))[0]
    features = (left * values) @ right.mT
    targets = features @ torch.randn(50, n_features, 1, generator=generator, dtype=torch.float64)
    for ratio in (0.003, 0.1):
        for dtype in (torch.float64, torch.float32):
            sparse_regression(features.to(dtype), targets.to(dtype), lambda_ratio=ratio, on_failure="raise")


@pytest.mark.parametrize("n_outputs", [1, 2])
@pytest.mark.parametrize("ratio", [0.05, 0.5])
def test_columns_that_repeat_share_the_weight(generator, ratio, n_outputs):
    """With a ridge all copies are in use: more than a working set takes in at a time, beside others that pull alike and less."""
    different = torch.randn(300, 4, generator=generator, dtype=torch.float64)
    targets = different[:, :1] + 0.3 * different[:, 1:2] * torch.ones(n_outputs)
    found = sparse_regression(different.repeat(1, 60), targets, lambda_ratio=ratio, lambda2=0.1, on_failure="raise")
    copies = found.weights.unflatten(-1, (60, 4))
    assert (copies[..., 0] != 0).all()
    torch.testing.assert_close(copies, copies[..., :1, :].expand_as(copies), rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    n_samples=st.integers(1, 30),
    n_features=st.integers(1, 70),
    n_outputs=st.integers(1, 3),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
    ratio=st.sampled_from([0.0, 0.003, 0.1, 0.9, 1.0]),
    lambda2=st.sampled_from([0.0, 1e-3, 1.0]),
    flaws=st.sets(st.sampled_from(["duplicates", "zero columns", "zero targets", "equal samples", "mixed units"])),
)
def test_hostile_data_are_solved_or_reported(seed, n_samples, n_features, n_outputs, scale, ratio, lambda2, flaws):
    if ratio == 0 and lambda2 == 0:
        ratio = 0.1
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, n_samples, n_features, generator=generator, dtype=torch.float64)
    targets = torch.randn(2, n_samples, n_outputs, generator=generator, dtype=torch.float64)
    if "duplicates" in flaws:
        features[:, :, n_features // 2 :] = features[:, :, : n_features - n_features // 2]
    if "zero columns" in flaws:
        features[..., ::3] = 0
    if "zero targets" in flaws:
        targets[0] = 0
    if "equal samples" in flaws:
        features[:, n_samples // 2 :] = features[:, :1]
    if "mixed units" in flaws:
        features = features * 10.0 ** torch.randint(-3, 4, (n_features,), generator=generator)
    features, lambda2 = features * scale, lambda2 * scale**2
    found = sparse_regression(features, targets, lambda_ratio=ratio, lambda2=lambda2, on_failure="ignore")
    start = targets.square().sum((-2, -1)) / (2 * n_samples)
    converged = found.status == StatusCode.CONVERGED
    assert found.weights.isfinite().all()
    assert (found.gap[converged] <= 1e-10 * start[converged]).all()
    assert (found.gap <= start).all()
    # Several outputs, few samples and copies of features leave the solution almost undetermined: only there may a task give up.
    assert converged.all() or n_outputs > 1 or ("duplicates" in flaws and lambda2 > 0)
    lambda1 = ratio * lambda_max(features, targets)
    gap = certificate(features, targets, found.weights, lambda1, torch.full((2,), lambda2, dtype=torch.float64))
    rounding = 1e-9 if ratio > 0 else 1e-6
    assert (gap <= found.gap + rounding * start + 1e-300).all()
    assert torch.equal(found.active, (found.weights != 0).any(-2))


@pytest.mark.parametrize(("n_samples", "n_features", "n_outputs"), [(12, 5, 1), (10, 25, 1), (9, 8, 3)])
@pytest.mark.parametrize("lambda2", [0.0, 0.05])
def test_gradients_agree_with_finite_differences(generator, n_samples, n_features, n_outputs, lambda2):
    features, targets = draw(generator, 2, n_samples, n_features, n_outputs)
    lambda1 = 0.3 * lambda_max(features, targets)
    penalty2 = torch.full((2,), lambda2, dtype=torch.float64)
    inputs = [features.requires_grad_(), targets.requires_grad_(), lambda1.detach().requires_grad_()]
    if lambda2:
        inputs.append(penalty2.requires_grad_())

    def weights(features, targets, lambda1, lambda2=penalty2):
        return sparse_regression(features, targets, lambda1=lambda1, lambda2=lambda2, tol=1e-15, on_failure="ignore").weights

    found = sparse_regression(features, targets, lambda1=lambda1, lambda2=penalty2, tol=1e-15, on_failure="ignore")
    assert 0 < found.active.sum() < found.active.numel()
    pull = (features.mT @ (targets - features @ found.weights.mT)).norm(dim=-1) / n_samples
    margin = (lambda1.unsqueeze(-1) - pull)[~found.active]
    assert margin.min() > 1e-4  # away from the kinks, where there is no derivative
    assert torch.autograd.gradcheck(weights, tuple(inputs), eps=1e-6, atol=1e-6, rtol=1e-6)


def test_the_derivative_of_a_known_solution():
    """With orthogonal features, F'F = n I, weights are soft-thresholded correlations."""
    features = math.sqrt(4) * torch.eye(4, dtype=torch.float64)
    targets = torch.tensor([3.0, -2.0, 0.1, 0.0], dtype=torch.float64, requires_grad=True)
    lambda1 = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    lambda2 = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    weights = sparse_regression(features, targets, lambda1=lambda1, lambda2=lambda2).weights
    correlation = 2 * targets.detach() / 4
    expected = correlation.sign() * (correlation.abs() - 0.4).clamp(min=0) / 1.5
    torch.testing.assert_close(weights, expected)
    weights[0].backward()
    torch.testing.assert_close(targets.grad, torch.tensor([0.5 / 1.5, 0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(lambda1.grad, torch.tensor(-1 / 1.5, dtype=torch.float64))
    torch.testing.assert_close(lambda2.grad, -expected[0] / 1.5)


def test_gradients_in_single_precision(generator):
    features, targets = draw(generator, 4, 30, 60, 1)

    def gradients(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x, y = features.to(dtype).requires_grad_(), targets.to(dtype).requires_grad_()
        sparse_regression(x, y, lambda_ratio=0.1).weights.square().sum().backward()
        return x.grad, y.grad

    for single, double in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=1e-3)


def test_the_gradient_at_dependent_features_fits_every_direction_that_keeps_them_dependent(generator):
    """Duplicated columns: the prediction moves like that of the problem without the copy."""
    features, targets = draw(generator, 1, 20, 4, 1)
    double = torch.cat([features, features], -1).requires_grad_()
    single = features.clone().requires_grad_()
    y1, y2 = targets.clone().requires_grad_(), targets.clone().requires_grad_()
    (double.detach() @ sparse_regression(double, y1, lambda1=0.05).weights.mT).sin().sum().backward()
    (single.detach() @ sparse_regression(single, y2, lambda1=0.05).weights.mT).sin().sum().backward()
    torch.testing.assert_close(y1.grad, y2.grad, atol=1e-8, rtol=1e-6)


def test_zero_weights_from_lambda_max_on(generator):
    features, targets = draw(generator, 5, 20, 30, 2)
    largest = lambda_max(features, targets)
    assert not sparse_regression(features, targets, lambda_ratio=1.0).weights.any()
    assert not sparse_regression(features, targets, lambda1=largest, lambda2=1.0).weights.any()
    assert sparse_regression(features, targets, lambda1=0.999 * largest).active.any(-1).all()
    single = features.float(), targets.float()
    assert not sparse_regression(*single, lambda_ratio=1.0).weights.any()


def test_without_lambda1_it_is_ridge_regression(generator):
    for n_features in (6, 50):
        features, targets = draw(generator, 3, 20, n_features, 2)
        found = sparse_regression(features, targets, lambda1=0.0, lambda2=0.1, tol=1e-14)
        torch.testing.assert_close(found.weights, ridge_regression(features, targets, lambda2=0.1), atol=1e-8, rtol=1e-6)


def test_a_ratio_is_a_constant_of_the_gradient(generator):
    features, targets = draw(generator, 2, 20, 6, 1)
    lambda1 = 0.2 * lambda_max(features, targets)
    results = []
    for options in ({"lambda_ratio": 0.2}, {"lambda1": lambda1}):
        x = features.clone().requires_grad_()
        weights = sparse_regression(x, targets, **options).weights
        weights.square().sum().backward()
        results.append((weights, x.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-12, rtol=1e-9)
    ratio = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    sparse_regression(features, targets, lambda_ratio=ratio).weights.square().sum().backward()
    assert ratio.grad < 0


def test_permutations_and_shapes(generator):
    features, targets = draw(generator, 6, 20, 12, 1)
    base = sparse_regression(features, targets, lambda_ratio=0.1).weights
    order = torch.randperm(12, generator=generator)
    permuted = sparse_regression(features[..., order], targets, lambda_ratio=0.1).weights
    torch.testing.assert_close(permuted, base[..., order])
    rows = torch.randperm(20, generator=generator)
    torch.testing.assert_close(sparse_regression(features[:, rows], targets[:, rows], lambda_ratio=0.1).weights, base)
    vector = sparse_regression(features, targets.squeeze(-1), lambda_ratio=0.1)
    assert torch.equal(vector.weights, base.squeeze(-2))
    nested = sparse_regression(features.reshape(2, 3, 20, 12), targets.reshape(2, 3, 20, 1), lambda_ratio=0.1)
    assert torch.equal(nested.weights.flatten(0, 1), base)
    one = sparse_regression(features[2], targets[2], lambda_ratio=0.1)
    assert one.gap.shape == ()
    assert torch.equal(one.weights, base[2])
    strided = features.transpose(-2, -1).contiguous().transpose(-2, -1)
    assert torch.equal(sparse_regression(strided, targets, lambda_ratio=0.1).weights, base)
    none = sparse_regression(features[:0].requires_grad_(), targets[:0], lambda_ratio=0.1)
    none.weights.sum().backward()
    assert none.weights.shape == (0, 1, 12)
    half = sparse_regression(features.half(), targets.half(), lambda_ratio=0.1)
    assert half.weights.dtype == torch.float32
    features.requires_grad_(False)


def test_threads_do_not_change_the_result(generator, four_threads):
    features, targets = draw(generator, 9, 20, 40, 1)
    x = features.clone().requires_grad_()
    found = sparse_regression(x, targets, lambda_ratio=0.1)
    found.weights.square().sum().backward()
    torch.set_num_threads(1)
    again = features.clone().requires_grad_()
    weights = sparse_regression(again, targets, lambda_ratio=0.1).weights
    weights.square().sum().backward()
    assert torch.equal(weights, found.weights)
    assert torch.equal(x.grad, again.grad)


def test_function_transforms(generator):
    features, targets = draw(generator, 3, 15, 6, 1)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return sparse_regression(x, y, lambda1=0.1).weights.square().sum()

    x = features.clone().requires_grad_()
    loss(x, targets).backward()
    each = torch.func.vmap(torch.func.grad(loss))(features, targets)
    torch.testing.assert_close(each, x.grad)
    jacobian = torch.func.jacrev(lambda y: sparse_regression(features[0], y, lambda1=0.1).weights)(targets[0])
    assert jacobian.shape == (1, 6, 15, 1)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    z = features.clone().requires_grad_()
    compiled(z, targets).backward()
    torch.testing.assert_close(z.grad, x.grad)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        (gradient,) = torch.autograd.grad(loss(x, targets), x, create_graph=True)
        gradient.sum().backward()


def test_operators_are_registered_correctly(generator):
    from sparsesvm.bilevel import _solve

    features, targets = draw(generator, 2, 8, 5, 2)
    penalty = torch.full((2,), 0.1, dtype=torch.float64)
    torch.library.opcheck(_solve.solve_op, (features, targets, penalty, penalty, 1e-10, 100, "warn"))
    weights, *_, status, active = _solve.solve(features, targets, penalty, penalty, 1e-10, 100, "warn")
    torch.library.opcheck(_solve.vjp_op, (features, targets, penalty, penalty, weights, status, active, weights))


def test_features_on_another_device_are_refused():
    features, targets = torch.empty(4, 3, device="meta"), torch.empty(4, device="meta")
    with pytest.raises(TypeError, match="features must be on one of cpu"):
        sparse_regression(features, targets, lambda1=0.1)


def test_failures_are_reported(generator):
    features, targets = draw(generator, 2, 20, 100, 1)
    with pytest.warns(ConvergenceWarning, match="iteration limit"):
        found = sparse_regression(features.requires_grad_(), targets, lambda_ratio=0.01, max_iter=0)
    assert (found.status == StatusCode.MAX_ITER).any()
    with pytest.warns(ConvergenceWarning, match="gradient of a regression that did not converge"):
        found.weights.sum().backward()
    with pytest.raises(ConvergenceError, match=r"2 of 2 regressions did not converge; task 0, after"):
        sparse_regression(features, targets, lambda_ratio=0.01, max_iter=0, on_failure="raise")
    silent = sparse_regression(features, targets, lambda_ratio=0.01, max_iter=0, on_failure="ignore")
    assert (silent.status == StatusCode.MAX_ITER).all()
    features = features.detach()
    for feature, value in ((2, math.nan), (90, math.inf)):
        wrong = features.clone()
        wrong[1, 3, feature] = value
        with pytest.raises(ValueError, match="features and targets must be finite; task 1 holds NaN or infinity"):
            sparse_regression(wrong, targets, lambda1=0.1)
    targets[0, 5] = math.inf
    with pytest.raises(ValueError, match="features and targets must be finite; task 0 holds NaN or infinity"):
        sparse_regression(features[:1], targets[:1], lambda1=0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": [[1.0]]}, TypeError, "features must be a torch.Tensor; got list"),
        ({"features": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "features must be a floating-point tensor"),
        ({"targets": [1.0]}, TypeError, "targets must be a torch.Tensor; got list"),
        ({"targets": torch.ones(3, dtype=torch.float64)}, TypeError, "targets must have the dtype of features, torch.float32"),
        ({"targets": torch.ones(4)}, ValueError, r"targets must have shape \(3,\) or \(3, 'n_outputs'\)"),
        ({"targets": torch.ones(3, 0)}, ValueError, "targets must have shape"),
        ({"lambda_ratio": 0.1}, ValueError, "exactly one of lambda1 and lambda_ratio is required; got both"),
        ({"lambda1": None}, ValueError, "exactly one of lambda1 and lambda_ratio is required; got neither"),
        ({"lambda1": -1.0}, ValueError, "lambda1 must be >= 0 and finite; got -1.0"),
        ({"lambda1": torch.tensor(-1.0)}, ValueError, "lambda1 must be >= 0 and finite; got -1.0"),
        ({"lambda1": 0.0}, ValueError, "lambda1 or lambda2 must be positive in every task"),
        ({"lambda1": torch.tensor(0.0)}, ValueError, "lambda1 or lambda2 must be positive in every task"),
        ({"lambda1": None, "lambda_ratio": 0.0}, ValueError, "lambda_ratio or lambda2 must be positive in every task"),
        ({"lambda1": None, "lambda_ratio": 1.5}, ValueError, r"lambda_ratio must lie in \[0, 1\]; got 1.5"),
        ({"lambda2": "x"}, TypeError, "lambda2 must be a number or a tensor; got str"),
        ({"tol": -1.0}, ValueError, "tol must be >= 0"),
        ({"max_iter": 1.5}, TypeError, "max_iter must be an integer"),
        ({"on_failure": "stop"}, ValueError, "on_failure must be"),
    ],
)
def test_errors_say_what_to_do(change, error, message):
    arguments = {"features": torch.ones(3, 2), "targets": torch.ones(3), "lambda1": 0.1, **change}
    features, targets = arguments.pop("features"), arguments.pop("targets")
    with pytest.raises(error, match=message):
        sparse_regression(features, targets, **arguments)


def test_some_penalty_is_asked_for_in_every_task(generator):
    features, targets = draw(generator, 2, 15, 6, 1)
    penalty = torch.tensor([0.1, 0.0], dtype=torch.float64)

    def weights(features, targets, penalty):
        return sparse_regression(features, targets, lambda1=penalty).weights

    for function in (weights, torch.func.vmap(weights), torch.compile(weights, fullgraph=True, backend="aot_eager")):
        with pytest.raises(ValueError, match="lambda1 or lambda2 must be positive in every task; got zero for both"):
            function(features, targets, penalty)
    assert sparse_regression(features, targets, lambda1=penalty, lambda2=0.1 - penalty).weights[1].all()
    # A share of a penalty that is zero itself is none of these.
    found = sparse_regression(features, torch.zeros_like(targets), lambda_ratio=0.1)
    assert (found.status == StatusCode.CONVERGED).all() and not found.weights.any()


def test_ridge_errors():
    features, targets = torch.ones(3, 2), torch.ones(3)
    with pytest.raises(ValueError, match="exactly one of lambda2 and lambda_ratio is required; got neither"):
        ridge_regression(features, targets)
    with pytest.raises(ValueError, match="lambda2 must be positive and finite"):
        ridge_regression(features, targets, lambda2=0.0)
    with pytest.raises(ValueError, match="lambda_ratio must be positive"):
        ridge_regression(features, targets, lambda_ratio=torch.tensor(0.0))


def test_ridge_gradient(generator):
    features, targets = draw(generator, 2, 6, 4, 1)
    ridge = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)
    inputs = (features.requires_grad_(), targets.requires_grad_(), ridge)
    assert torch.autograd.gradcheck(lambda x, y, r: ridge_regression(x, y, lambda2=r), inputs)


def test_the_package_does_not_need_the_extra():
    assert sparsesvm.bilevel.__doc__


@pytest.mark.parametrize("exponent", [-37, -25, 12, 25, 37])
@pytest.mark.parametrize("penalty", [{"lambda_ratio": 0.1}, {"lambda2": 0.3}])
@pytest.mark.parametrize("n_features", [6, 30])
def test_single_precision_gives_the_same_weights_in_every_unit(generator, exponent, penalty, n_features):
    features, targets = torch.randn(20, n_features, generator=generator), torch.randn(20, generator=generator)
    unit = 10.0**exponent

    def in_unit(function, **given):
        scaled = {name: value * (unit**2 if name == "lambda2" else 1) for name, value in given.items()}
        return function(features * unit, targets * unit, **scaled), function(features.double(), targets.double(), **given)

    found, expected = in_unit(ridge_regression, **penalty)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    if "lambda_ratio" in penalty:
        found, expected = (solution.weights for solution in in_unit(sparse_regression, **penalty))
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_what_leaves_the_range_is_not_blamed_on_a_penalty(generator):
    features, targets = torch.randn(20, 6, generator=generator), torch.randn(20, generator=generator)
    for call in (
        lambda f, y: sparse_regression(f, y, lambda_ratio=0.1),
        lambda f, y: ridge_regression(f, y, lambda_ratio=0.1),
        lambda_max,
    ):
        with pytest.raises(ValueError, match="features and targets, and what comes of their products, must be finite"):
            call(1e200 * features.double(), 1e200 * targets.double())
    for unit in (1e-30, 1e30):
        with pytest.raises(ValueError, match=r"must be of torch.float64 where lambda_max leaves torch.float32; convert with"):
            lambda_max(unit * features, unit * targets)
    assert lambda_max(features, 0 * targets) == 0
    degenerate = features[:, [0] * 6]
    with pytest.raises(ValueError, match="lambda2 must be larger: added to the products of these features"):
        ridge_regression(degenerate.expand(20, 6), targets, lambda2=1e-300)
