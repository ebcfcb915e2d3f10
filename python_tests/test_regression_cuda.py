"""Sparse regression on a CUDA device: the CPU's answers and gradients, on any stream, without waiting for the device."""

from __future__ import annotations

import math

import pytest
import torch
from test_regression import draw

from sparsesvm import ConvergenceError, StatusCode
from sparsesvm.bilevel import lambda_max, sparse_regression

pytestmark = pytest.mark.cuda


def make_data(generator, n_tasks=3, n_samples=20, n_features=60, n_outputs=1):
    return tuple(tensor.cuda() for tensor in draw(generator, n_tasks, n_samples, n_features, n_outputs))


def weights(features, targets):
    return sparse_regression(features, targets, lambda1=0.1, lambda2=0.01, tol=1e-13, on_failure="ignore").weights


def gradient(features, targets):
    leaf = features.clone().requires_grad_()
    return torch.autograd.grad(weights(leaf, targets).square().sum(), leaf)[0]


@pytest.mark.parametrize(
    ("n_tasks", "n_samples", "n_features", "n_outputs"),
    [(200, 50, 6, 1), (20, 30, 200, 1), (10, 25, 70, 4), (2, 60, 3000, 1), (1, 1, 1, 1), (3000, 10, 8, 1), (0, 10, 8, 1)],
)
@pytest.mark.parametrize(("ratio", "lambda2"), [(0.05, 0.0), (0.2, 0.02)])
def test_weights_and_gradients_are_those_of_the_cpu(generator, n_tasks, n_samples, n_features, n_outputs, ratio, lambda2):
    features, targets = draw(generator, n_tasks, n_samples, n_features, n_outputs)
    lambda1 = ratio * lambda_max(features, targets)
    penalty2 = torch.full((n_tasks,), lambda2, dtype=torch.float64)
    cotangent = torch.randn(n_tasks, n_outputs, n_features, generator=generator, dtype=torch.float64)
    for dtype, tol, error in ((torch.float64, 1e-13, 1e-8), (torch.float32, 1e-10, 1e-4)):
        answers = []
        for device in ("cpu", "cuda"):
            given = (features.to(dtype), targets.to(dtype), lambda1, penalty2)
            inputs = [t.to(device).requires_grad_() for t in given]
            found = sparse_regression(inputs[0], inputs[1], lambda1=inputs[2], lambda2=inputs[3], tol=tol, on_failure="ignore")
            gradients = torch.autograd.grad((found.weights * cotangent.to(found.weights)).sum(), inputs)
            answers.append((found, gradients))
        (expected, theirs), (found, ours) = answers
        assert torch.equal(found.status.cpu(), expected.status)
        for mine, other in zip((found.weights, *ours), (expected.weights, *theirs), strict=True):
            scale = other.abs().flatten(1).amax(-1) if other.dim() > 1 else other.abs()
            difference = (mine.cpu() - other).abs()
            difference = difference.flatten(1).amax(-1) if other.dim() > 1 else difference
            assert (difference <= error * scale.clamp(min=1.0)).all()


def test_more_weights_in_use_than_a_matrix_is_kept_for(generator):
    features, targets = make_data(generator, 1, 40, 2100)
    given = [features.requires_grad_(), targets]
    found = sparse_regression(*given, lambda1=0.0, lambda2=1.0, on_failure="ignore")
    (ours,) = torch.autograd.grad(found.weights.square().sum(), features)
    host = features.detach().cpu().requires_grad_()
    expected = sparse_regression(host, targets.cpu(), lambda1=0.0, lambda2=1.0, on_failure="ignore")
    (theirs,) = torch.autograd.grad(expected.weights.square().sum(), host)
    torch.testing.assert_close(ours.cpu(), theirs, rtol=0, atol=1e-6 * float(theirs.abs().max()))


def test_torch_transforms_and_operators(generator):
    from sparsesvm.bilevel import _solve

    features, targets = make_data(generator)
    expected = gradient(features, targets)

    def loss(x, y):
        return weights(x, y).square().sum()

    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(features, targets), expected)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaf = features.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(compiled(leaf, targets), leaf)[0], expected)
    penalty = torch.full((3,), 0.1, dtype=torch.float64, device="cuda")
    inputs = (features, targets, penalty, penalty)
    torch.library.opcheck(_solve.solve_op, (*inputs, 1e-10, 100, "ignore"))
    found, *_, status, active = _solve.solve(*inputs, 1e-10, 100, "ignore")
    torch.library.opcheck(_solve.vjp_op, (*inputs, found, status, active, torch.ones_like(found)))


def test_nothing_waits_for_the_device(generator):
    features, targets = make_data(generator)
    penalty = torch.full((3,), 0.1, dtype=torch.float64, device="cuda")
    gradient(features, targets)
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradient(features, targets)
        sparse_regression(features, targets, lambda1=penalty, lambda2=penalty, on_failure="ignore")
        sparse_regression(features, targets, lambda_ratio=0.1, on_failure="ignore")
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_work_goes_to_the_current_stream_and_is_captured(generator):
    features, targets = make_data(generator, 4, 20, 100)
    expected = gradient(features, targets)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    static = torch.zeros_like(features)
    with torch.cuda.stream(stream):
        late = torch.zeros_like(features)
        torch.cuda._sleep(50_000_000)  # the features arrive late on this stream, and only there
        late.copy_(features)
        found = gradient(late, targets)
        gradient(static, targets)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradient(static, targets)
    for shift in (0.0, 0.1):
        static.copy_(features + shift)
        graph.replay()
        assert torch.equal(found, gradient(features + shift, targets))
    refusal = pytest.raises(ValueError, match='on_failure must be "ignore" while a CUDA graph is captured')
    with refusal, torch.cuda.graph(torch.cuda.CUDAGraph()):
        sparse_regression(features, targets, lambda1=0.1)


def test_reruns_and_strides_give_the_same_bits(generator):
    features, targets = make_data(generator, 40, 20, 100, 2)
    first, again = (sparse_regression(features, targets, lambda1=0.1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(gradient(features, targets), gradient(features, targets))
    strided = features.mT.contiguous().mT
    assert torch.equal(sparse_regression(strided, targets, lambda1=0.1).weights, first.weights)


def test_a_bad_task_has_a_status_and_leaves_the_others_unharmed(generator):
    features, targets = make_data(generator, 5)
    expected = sparse_regression(features[4:], targets[4:], lambda1=0.1)
    features[0, 3, 5] = math.nan
    targets[1, 2] = math.inf
    lambda1 = torch.tensor([0.1, 0.1, -1.0, 0.0, 0.1], dtype=torch.float64, device="cuda")
    leaf = features.clone().requires_grad_()
    found = sparse_regression(leaf, targets, lambda1=lambda1, on_failure="ignore")
    assert found.status.tolist() == [StatusCode.NON_FINITE] * 4 + [StatusCode.CONVERGED]
    assert found.weights[:4].isnan().all()
    assert torch.equal(found.weights[4:], expected.weights)
    found.weights.sum().backward()
    assert leaf.grad[:4].isnan().all() and leaf.grad[4].isfinite().all()
    with pytest.raises(ConvergenceError, match="4 of 5 regressions did not converge"):
        sparse_regression(features, targets, lambda1=lambda1, on_failure="raise")


def test_a_task_too_large_for_the_kernels_is_refused():
    from sparsesvm import _cuda

    with pytest.raises(ValueError, match=r"below 2\*\*30"):
        _cuda.solve_regression_plan(False, 1, 8, 2**30, 2, 8, 0)
