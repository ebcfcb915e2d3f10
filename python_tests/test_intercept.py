"""The intercept is as good as one that is not penalised, and the penalty that leaves nothing else is right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from sparsesvm import _intercept


def problem(seed: int, n: int = 40, m: int = 12, k: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping, unbalanced classes around means far from zero."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(k, n, p=np.arange(1, k + 1) / (k * (k + 1) / 2))
    labels[:k] = np.arange(k)
    features = rng.normal(size=(n, m)) + np.eye(k, m)[labels] * 1.5 + rng.normal(size=m)
    return torch.from_numpy(features / np.sqrt((features**2).sum(1).mean())), torch.from_numpy(labels)


def smoothed_loss(scores: np.ndarray, labels: np.ndarray, smoothing: float) -> tuple[float, np.ndarray]:
    """sum_i max_p <p, 1 - y + z> - z_y - s / 2 ||p - y||^2 over the simplex, and its gradient in the scores."""
    one_hot = np.eye(scores.shape[1])[labels]
    margins = 1 - one_hot + scores - scores[np.arange(len(labels)), labels][:, None]
    raised = one_hot + margins / smoothing
    ordered = -np.sort(-raised, 1)
    excess = (ordered.cumsum(1) - 1) / np.arange(1, scores.shape[1] + 1)
    last = (ordered > excess).sum(1) - 1
    p = np.maximum(raised - excess[np.arange(len(labels)), last][:, None], 0)
    return float((p * margins).sum() - smoothing / 2 * ((p - one_hot) ** 2).sum()), p - one_hot


def proximal_gradient(F: np.ndarray, labels: np.ndarray, k: int, lambda1: float, lambda2: float, smoothing: float):
    """Weights, intercept and objective of the problem without any penalty on the intercept, by accelerated proximal gradient."""
    G = np.hstack([F, np.ones((len(F), 1))])
    step = 1 / (np.linalg.norm(G, 2) ** 2 / smoothing + lambda2)
    W = previous = np.zeros((k, G.shape[1]))
    momentum = 1.0
    for _ in range(200_000):
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        Z = W + (momentum - 1) / following * (W - previous)
        gradient = smoothed_loss(G @ Z.T, labels, smoothing)[1].T @ G
        gradient[:, :-1] += lambda2 * Z[:, :-1]
        U = Z - step * gradient
        norms = np.linalg.norm(U[:, :-1], axis=0)
        U[:, :-1] *= np.maximum(1 - step * lambda1 / np.maximum(norms, 1e-300), 0)
        restart = ((Z - U) * (U - W)).sum() > 0
        change = np.abs(U - W).max()
        previous, W, momentum = W, U, 1.0 if restart else following
        if change < 1e-13:
            break
    b = W[:, -1] - W[:, -1].mean()
    loss = smoothed_loss(G @ W.T, labels, smoothing)[0]
    best = loss + lambda1 * np.linalg.norm(W[:, :-1], axis=0).sum() + lambda2 / 2 * (W[:, :-1] ** 2).sum()
    return W[:, :-1], b, best


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5])
def test_it_is_the_solution_whose_intercept_is_not_penalised(dtype, ratio):
    lambda2, smoothing = 0.1, 1.0
    for seed in range(3):
        features, labels = problem(seed)
        options = {"lambda2": lambda2, "n_way": 3, "dual_reg": smoothing * lambda2}
        lambda1 = ratio * float(_intercept.lambda1_max(features, labels, **options))
        W, b, minimum = proximal_gradient(features.numpy(), labels.numpy(), 3, lambda1, lambda2, smoothing)
        solution, bias = _intercept.solve(features.to(dtype), labels, lambda1=lambda1, tol=1e-6, on_failure="raise", **options)
        weights, bias = solution.weights.double().numpy(), bias.double().numpy()
        scores = features.numpy() @ weights.T + bias
        reached = smoothed_loss(scores, labels.numpy(), smoothing)[0]
        reached += lambda1 * np.linalg.norm(weights, axis=0).sum() + lambda2 / 2 * (weights**2).sum()
        assert abs(reached - minimum) <= 1e-6 * len(labels)
        # A gap of tol is a distance of its root.
        np.testing.assert_allclose(weights, W, rtol=0, atol=2e-3)
        np.testing.assert_allclose(bias, b, rtol=0, atol=2e-3)
        np.testing.assert_allclose(scores, features.numpy() @ W.T + b, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_exact_hinge_of_two_classes_is_the_svm_with_intercept(dtype):
    for seed in range(3):
        features, labels = problem(seed, k=2)
        peer = SVC(kernel="linear", C=4.0, tol=1e-9).fit(features.numpy(), labels.numpy())
        # Two rows of opposite sign have half the squared norm of the difference.
        solution, bias = _intercept.solve(features.to(dtype), labels, lambda1=0.0, lambda2=0.5, n_way=2, on_failure="raise")
        difference = (solution.weights[1] - solution.weights[0]).double().numpy()
        np.testing.assert_allclose(difference, peer.coef_[0], rtol=0, atol=5e-3)
        np.testing.assert_allclose(float(bias[1] - bias[0]), peer.intercept_[0], rtol=0, atol=5e-3)


@pytest.mark.parametrize("dual_reg", [0.0, 0.1])
@pytest.mark.parametrize("group_size", [1, 3])
def test_from_lambda1_max_on_all_weights_are_zero(dual_reg, group_size):
    for seed in range(10):
        features, labels = problem(seed)
        weight = torch.from_numpy(np.random.default_rng(seed).exponential(size=40))
        options = {"lambda2": 0.1, "n_way": 4, "dual_reg": dual_reg, "sample_weight": weight, "group_size": group_size}
        solution, bias = _intercept.solve(features, labels, lambda1_ratio=1.0, on_failure="raise", tol=1e-9, **options)
        assert solution.weights.abs().max() < 1e-9
        assert bias.isfinite().all()
        if dual_reg:  # the smallest such penalty
            assert bias.any()
            assert _intercept.solve(features, labels, lambda1_ratio=0.999, tol=1e-9, **options)[0].active.any()


@pytest.mark.parametrize("k", [64, 66])
def test_many_classes_of_equal_size(k):
    """Where the intercept is zero and the hinge smoothed over a width of one, the dual is uniform."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(2 * k, 20, generator=generator, dtype=torch.float64), torch.arange(2 * k) % k
    found = _intercept.lambda1_max(features, labels, lambda2=0.1, n_way=k, dual_reg=0.1)
    residual = torch.nn.functional.one_hot(labels, k).double() - 1 / k
    expected = (residual.mT @ features).norm(dim=0).max()
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_tasks_share_a_batch_and_scale_with_their_features():
    (one, labels), (other, other_labels) = problem(0), problem(1)
    options = {"lambda2": 0.1, "n_way": 3, "lambda1_ratio": 0.2, "dual_reg": 0.1}
    both, bias = _intercept.solve(torch.stack([one, other]), torch.stack([labels, other_labels]), **options)
    alone, alone_bias = _intercept.solve(other, other_labels, **options)
    torch.testing.assert_close(both.weights[1], alone.weights)
    torch.testing.assert_close(bias[1], alone_bias)
    scaled, scaled_bias = _intercept.solve(1000 * other, other_labels, lambda2=1e5, n_way=3, lambda1_ratio=0.2, dual_reg=1e5)
    torch.testing.assert_close(1000 * scaled.weights, alone.weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scaled_bias, alone_bias, rtol=1e-3, atol=1e-4)
