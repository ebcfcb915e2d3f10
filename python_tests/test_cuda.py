"""The solver on a CUDA device: the CPU's answers and gradients, on any stream, without waiting for the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_reference_data import AT_THRESHOLD, GRADIENT_KINKS, SMALL_CASES, load_small

import sparsesvm
from benchmarks.problems import adversarial, episode
from sparsesvm import StatusCode

pytestmark = pytest.mark.cuda
LABELS = torch.arange(20) % 5


def make_features(n_tasks=3, n_samples=20, n_features=60, dtype=torch.float64):
    tasks = [episode(np.random.default_rng(seed), 5, n_samples, n_features)[0] for seed in range(n_tasks)]
    return torch.from_numpy(np.stack(tasks)).to(dtype)


def solve(features, **options):
    labels = (torch.arange(features.shape[-2], device=features.device) % 5).expand(features.shape[:-1])
    return sparsesvm.solve(features, labels, **{"lambda1": 0.2, "lambda2": 0.1, "n_way": 5, **options})


def weights(features):
    return solve(features, tol=1e-10, on_failure="ignore").weights


def loss(features):
    return weights(features).square().sum()


def gradient(features):
    leaf = features.clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def assert_close(found, expected, relative):
    found, expected = found.detach().cpu(), expected.detach().cpu()
    assert float((found - expected).abs().max()) <= relative * max(float(expected.abs().max()), 1.0)


def compare_level(name, data, level, dtype, tol, error):
    """Objective, weights and gradient of one stored problem on both devices."""
    answers = []
    for device in ("cpu", "cuda"):
        features = torch.from_numpy(data["F"]).to(device, dtype).requires_grad_()
        options = {key: data[key].item() for key in ("group_size", "dual_reg") if key in data}
        if "sample_weight" in data:
            options["sample_weight"] = torch.from_numpy(data["sample_weight"]).to(device)
        found = sparsesvm.solve(
            features,
            torch.from_numpy(data["y"]).to(device),
            lambda1=float(data["lam1"][level]),
            lambda2=float(data["lam2"]),
            n_way=int(data["k"]),
            tol=tol,
            on_failure="raise",
            **options,
        )
        (found.weights * torch.from_numpy(data["C"]).to(found.weights)).sum().backward()
        answers.append((found, features.grad))
    (expected, expected_gradient), (found, found_gradient) = answers
    total = float(data["sample_weight"].sum()) if "sample_weight" in data else len(data["y"])
    assert abs(float(found.objective) - float(data["P"][level])) <= 2 * tol * total
    if (name, level) in AT_THRESHOLD:
        return
    assert_close(found.weights.detach(), expected.weights.detach(), error)
    if name not in GRADIENT_KINKS and "tie" not in data and name != "zero_row":
        assert_close(found_gradient, expected_gradient, 100 * error)


@pytest.mark.parametrize("case", SMALL_CASES)
@pytest.mark.parametrize(("dtype", "tol", "error"), [(torch.float64, 1e-12, 1e-9), (torch.float32, 1e-6, 1e-3)])
def test_small_problems_as_on_the_cpu(case, dtype, tol, error):
    data = load_small(case)
    for level in range(len(data["lam1"])):
        compare_level(case, data, level, dtype, tol, error)


@pytest.mark.parametrize(("dtype", "tol", "error"), [(torch.float64, 1e-11, 1e-6), (torch.float32, 1e-6, 3e-3)])
def test_every_reference_file_as_on_the_cpu(reference_file, dtype, tol, error):
    with np.load(reference_file) as data:
        for level in range(len(data["lam1"])):
            compare_level(reference_file.stem, dict(data), level, dtype, tol, error)


def test_hostile_problems_converge_to_the_cpu_objective():
    for seed in range(200):
        drawn = adversarial(np.random.default_rng(seed), max_samples=60, max_features=1000)
        options = {name: getattr(drawn, name) for name in ("lambda1", "lambda2", "n_way", "group_size", "dual_reg")} | {
            "on_failure": "ignore"
        }
        answers = []
        for device in ("cpu", "cuda"):
            arrays = (drawn.features, drawn.labels, drawn.sample_weight)
            features, labels, weight = (torch.from_numpy(array).to(device) for array in arrays)
            answers.append(sparsesvm.solve(features, labels, sample_weight=weight, **options))
        expected, found = answers
        assert int(found.status) == StatusCode.CONVERGED or int(expected.status) != StatusCode.CONVERGED, (seed, drawn.family)
        distance = abs(float(found.objective) - float(expected.objective))
        assert distance <= float(found.gap) + float(expected.gap) + 1e-9 * drawn.sample_weight.sum(), (seed, drawn.family)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 5, 16000), (2000, 5, 8), (300, 25, 640), (4, 75, 3200), (0, 5, 8)])
def test_batches_tiny_and_large(sizes):
    n_tasks, n_samples, n_features = sizes
    features = make_features(max(n_tasks, 1), n_samples, n_features, torch.float32)[:n_tasks]
    found = solve(features.cuda())
    assert (found.gap.cpu() <= 1e-6 * n_samples).all()
    if n_tasks:
        expected = solve(features[-1])
        assert abs(float(found.objective[-1]) - float(expected.objective)) <= 2e-6 * n_samples


def test_both_derivatives_in_the_torch_transforms():
    features = make_features().cuda()
    expected = gradient(features.cpu())
    assert_close(gradient(features), expected, 1e-9)
    assert_close(torch.func.grad(loss)(features), expected, 1e-9)
    assert_close(torch.func.vmap(torch.func.grad(loss))(features), expected, 1e-9)
    forward, backward = torch.func.jacfwd(weights)(features[0]), torch.func.jacrev(weights)(features[0])
    torch.testing.assert_close(forward, backward, rtol=0, atol=1e-10 * float(backward.abs().max()))


def test_compiled_without_graph_breaks():
    features = make_features().cuda()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaf = features.clone().requires_grad_()
    (found,) = torch.autograd.grad(compiled(leaf), leaf)
    assert torch.equal(found, gradient(features))


def test_operators_pass_torchs_own_checks():
    from sparsesvm import _ops

    features = make_features().cuda()
    weight = torch.ones(3, 20, dtype=torch.float64, device="cuda")
    penalty = torch.full((3,), 0.2, dtype=torch.float64, device="cuda")
    inputs = (features, LABELS.cuda().expand(3, -1).contiguous(), weight, penalty, penalty)
    torch.library.opcheck(_ops.solve_op, (*inputs, None, None, 5, 1, 0.0, 1e-6, 100, "ignore", False))
    found = _ops.solve(*inputs, None, None, 5, 1, 0.0, 1e-9, 100, "raise", False)
    solution = (found[0], found[1], found[5])
    torch.library.opcheck(_ops.vjp_op, (*inputs, *solution, torch.ones_like(found[0]), 1, 0.0))
    torch.library.opcheck(_ops.jvp_op, (*inputs, *solution, features, weight, penalty, penalty, 1, 0.0))


def test_weights_of_groups_and_tasks_of_different_numbers_of_classes():
    ways = torch.tensor([5, 3, 2])
    labels = (torch.arange(20) % ways[:, None]).long()
    group_weight = torch.linspace(0.5, 2, 30, dtype=torch.float64)
    answers = []
    for device in ("cpu", "cuda"):
        features = make_features().to(device).requires_grad_()
        options = {"n_way": ways.to(device), "group_size": 2, "group_weight": group_weight.to(device), "tol": 1e-12}
        found = sparsesvm.solve(features, labels.to(device), lambda1_ratio=0.2, lambda2=0.1, on_failure="raise", **options)
        answers.append((found.weights, torch.autograd.grad(found.weights.square().sum(), features)[0]))
    for found, expected in zip(answers[1], answers[0], strict=True):
        assert_close(found, expected, 1e-5)


def test_reruns_give_the_same_bits():
    features = make_features(40, 20, 640, torch.float32).cuda()
    first, again = solve(features), solve(features)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(gradient(features), gradient(features))


def test_nothing_waits_for_the_device():
    features = make_features().cuda()
    gradient(features)
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradient(features)
    finally:
        torch.cuda.set_sync_debug_mode(before)


def test_work_goes_to_the_current_stream():
    features = make_features(4, 20, 640).cuda()
    expected = gradient(features)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = features.new_zeros(features.shape)
        torch.cuda._sleep(50_000_000)  # the features arrive late on this stream, and only there
        late.copy_(features)
        found = gradient(late)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(found, expected)


def test_captured_and_replayed():
    features = make_features(4, 40, 3200, torch.float32).cuda()  # several blocks per task
    static = torch.zeros_like(features).requires_grad_()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(loss(static), static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (found,) = torch.autograd.grad(loss(static), static)
    for shift in (0.0, 0.1):
        with torch.no_grad():
            static.copy_(features + shift)
        graph.replay()
        assert torch.equal(found, gradient(features + shift))


def test_a_report_while_capturing_is_refused():
    features = make_features().cuda()
    solve(features, on_failure="ignore")
    refusal = pytest.raises(ValueError, match='on_failure must be "ignore" while a CUDA graph is captured')
    with refusal, torch.cuda.graph(torch.cuda.CUDAGraph()):
        solve(features)


def test_autocast_solves_in_single_precision():
    support = make_features().cuda().bfloat16()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = weights(support)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, weights(support.float()))
    leaf = support.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad.dtype == torch.bfloat16


def test_strided_features():
    features = make_features().cuda()
    wide = features.new_zeros(20, 3, 70)
    wide[:, :, :60] = features.movedim(0, 1)
    assert torch.equal(weights(wide[:, :, :60].movedim(1, 0)), weights(features))
    assert torch.equal(weights(features.mT.contiguous().mT), weights(features))


def test_a_bad_task_has_a_status_and_leaves_the_others_unharmed():
    features = make_features(4).cuda()
    expected = solve(features[3:])
    features[0, 3, 5] = torch.nan
    labels = LABELS.cuda().repeat(4, 1)
    labels[1, 2] = 77
    lambda2 = torch.tensor([0.1, 0.1, -1.0, 0.1], device="cuda")
    found = sparsesvm.solve(features, labels, lambda1=0.2, lambda2=lambda2, n_way=5, on_failure="ignore")
    assert found.status.tolist() == [StatusCode.NON_FINITE] * 3 + [StatusCode.CONVERGED]
    assert found.weights[:3].isnan().all()
    assert torch.equal(found.weights[3:], expected.weights)
    start = torch.full((2, 20, 5), 0.2, dtype=torch.float64, device="cuda")
    start[0] = torch.nan
    status = solve(features[2:], init_dual=start, on_failure="ignore").status
    assert status.tolist() == [StatusCode.NON_FINITE, StatusCode.CONVERGED]
    with pytest.raises(sparsesvm.ConvergenceError, match="3 of 4 tasks did not converge"):
        sparsesvm.solve(features, labels, lambda1=0.2, lambda2=lambda2, n_way=5, on_failure="raise")


def test_a_task_too_large_for_the_kernels_is_refused():
    from sparsesvm import _cuda

    with pytest.raises(ValueError, match=r"below 2\*\*31"):
        _cuda.solve_plan(False, 1, 2**25, 8, 5, 1, 0)


def test_the_whole_interface():
    support, query = make_features(3).cuda(), make_features(3).cuda()
    labels = LABELS.cuda().expand(3, -1)
    head = sparsesvm.SparseSVMHead(lambda1_ratio=0.1, learn_penalties=True).cuda()
    logits = head(query.float(), support.float(), labels, 5)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    path = sparsesvm.regularization_path(support, labels, lambda2=0.1, n_lambdas=4)
    assert path.solution.status.eq(0).all()
    exact, bound = sparsesvm.lambda1_max(support, labels, exact=True), sparsesvm.lambda1_max(support, labels)
    assert (exact <= bound).all()
    torch.testing.assert_close(exact.cpu(), sparsesvm.lambda1_max(support.cpu(), labels.cpu(), exact=True), rtol=1e-3, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_any_device_of_the_process():
    features = make_features()
    for device in ("cuda:1", "cuda:0"):
        assert_close(gradient(features.to(device)), gradient(features), 1e-9)
        assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_many_derivatives_the_smallest_as_on_the_cpu(dtype):
    """Centred features, whose dual is free along the all-ones direction where the face allows it; at the default tolerance."""
    features = make_features(dtype=dtype)
    features = features - features.mean(-2, keepdim=True)
    answers = []
    for device in ("cpu", "cuda"):
        leaf = features.to(device).requires_grad_()
        found = solve(leaf, lambda1=0.02, lambda2=0.05)
        answers.append((found.status.cpu(), torch.autograd.grad(found.weights.square().sum(), leaf)[0].cpu()))
    (expected_status, expected), (found_status, found) = answers
    assert torch.equal(found_status, expected_status)
    assert float((found - expected).norm()) < (1e-4 if dtype == torch.float32 else 1e-5) * float(expected.norm())
