"""Tasks of different numbers of classes in one batch: each has the solution that it has alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsesvm
from benchmarks.problems import adversarial, episode
from sparsesvm import PrototypeHead, RidgeHead, SparseSVMHead, StatusCode, reference

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
WAYS = [5, 3, 1, 2]


def tasks(rng, n_samples=12, n_features=20, dtype=torch.float64):
    """Features (4, n, m), labels (4, n) and the classes of each task."""
    drawn = [episode(rng, way, n_samples, n_features) for way in WAYS]
    features = torch.stack([torch.from_numpy(x) for x, _ in drawn]).to(dtype)
    return features, torch.stack([torch.from_numpy(y) for _, y in drawn]), torch.tensor(WAYS)


def assert_alone(found: sparsesvm.Solution, task: int, way: int, alone: sparsesvm.Solution) -> None:
    """Bit for bit, and zeros beyond."""
    ours = sparsesvm.Solution(*(field[task] for field in found))
    assert torch.equal(ours.weights[:way], alone.weights) and not ours.weights[way:].any()
    assert torch.equal(ours.dual[:, :way], alone.dual) and not ours.dual[:, way:].any()
    for name in ("gap", "objective", "n_iter", "status", "active"):
        assert torch.equal(getattr(ours, name), getattr(alone, name)), name


@SETTINGS
@given(seed=st.integers(0, 2**32 - 1), single=st.booleans(), ridge=st.booleans())
def test_every_task_is_solved_as_it_is_alone(seed, single, ridge):
    """Without ridge, and with little, by the proximal method."""
    rng = np.random.default_rng(seed)
    problem = adversarial(rng, max_samples=20, max_features=60)
    features = torch.from_numpy(problem.features).to(torch.float32 if single else torch.float64)
    labels, weight = torch.from_numpy(problem.labels), torch.from_numpy(problem.sample_weight)
    ways = [problem.n_way, *rng.integers(1, problem.n_way + 1, 2).tolist()]
    batch = torch.stack([torch.where(labels < way, labels, 0) for way in ways])
    start = torch.from_numpy(rng.dirichlet(np.ones(problem.n_way), size=(3, len(labels))))
    options = {"lambda2": problem.lambda2 if ridge else 0.0, "lambda1": problem.lambda1, "group_size": problem.group_size}
    if not ridge:
        options["lambda1"] = max(problem.lambda1, 1e-3 * float(problem.sample_weight.sum() or 1.0))
    options |= {"dual_reg": problem.dual_reg if ridge else 0.0, "on_failure": "ignore", "max_iter": 30}
    found = sparsesvm.solve(
        features.expand(3, -1, -1),
        batch,
        n_way=torch.tensor(ways),
        sample_weight=weight.expand(3, -1),
        init_dual=start,
        **options,
    )
    for task, way in enumerate(ways):
        own = {"n_way": way, "sample_weight": weight, "init_dual": start[task, :, :way]}
        assert_alone(found, task, way, sparsesvm.solve(features, batch[task], **own, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dual_reg", [0.0, 0.3])
def test_gradients_of_every_input_are_those_of_the_task_alone(rng, dtype, dual_reg):
    features, labels, n_way = tasks(rng, dtype=dtype)
    features.requires_grad_()
    weight = torch.from_numpy(rng.uniform(0.5, 2, (4, 12)))
    weight[1, -2:] = 0  # padding
    labels[1, -2:] = 255
    weight.requires_grad_()
    penalties = [torch.full((4,), value, dtype=torch.float64, requires_grad=True) for value in (0.1, 0.3)]
    cotangent = torch.from_numpy(rng.normal(size=(4, 5, 20))).to(dtype)
    leaves = (features, *penalties, weight)

    def solve(features, lambda1, lambda2, weight, labels, n_way):
        problem = {"lambda1": lambda1, "lambda2": lambda2, "sample_weight": weight, "n_way": n_way, "dual_reg": dual_reg}
        return sparsesvm.solve(features, labels, **problem).weights

    gradients = torch.autograd.grad((solve(*leaves, labels, n_way) * cotangent).sum(), leaves)
    tangents = tuple(torch.from_numpy(rng.normal(size=tuple(leaf.shape))).to(leaf.dtype) for leaf in leaves)
    plain = tuple(leaf.detach() for leaf in leaves)
    _, moved = torch.func.jvp(lambda *given: solve(*given, labels, n_way), plain, tangents)
    for task, way in enumerate(WAYS):
        own = [leaf.detach()[task].requires_grad_() for leaf in leaves]
        weights = solve(*own, labels[task], way)
        for ours, alone in zip(gradients, torch.autograd.grad((weights * cotangent[task, :way]).sum(), own), strict=True):
            assert torch.equal(ours[task], alone)
        directions = tuple(tangent[task] for tangent in tangents)
        primals = tuple(leaf[task] for leaf in plain)
        _, alone = torch.func.jvp(lambda *given, t=task, k=way: solve(*given, labels[t], k), primals, directions)
        assert torch.equal(moved[task, :way], alone) and not moved[task, way:].any()


@pytest.mark.parametrize("problem", [{}, {"dual_reg": 0.2, "lambda2": 0.1}, {"exact": True}])
def test_the_largest_useful_penalty_of_each_task(rng, problem):
    features, labels, n_way = tasks(rng)
    found = sparsesvm.lambda1_max(features, labels, n_way=n_way, **problem)
    alone = [sparsesvm.lambda1_max(features[t], labels[t], n_way=way, **problem) for t, way in enumerate(WAYS)]
    torch.testing.assert_close(found, torch.stack(alone), rtol=2e-4 if "exact" in problem else 1e-12, atol=0)


def test_shares_of_it_and_paths(rng):
    features, labels, n_way = tasks(rng)
    options = {"lambda2": 0.1, "dual_reg": 0.05}
    found = sparsesvm.solve(features, labels, lambda1_ratio=0.2, n_way=n_way, **options)
    path = sparsesvm.regularization_path(features, labels, n_way=n_way, n_lambdas=5, **options)
    assert not path.solution.active[0].any() and path.solution.active[-1].any()
    for task, way in enumerate(WAYS):
        alone = sparsesvm.solve(features[task], labels[task], lambda1_ratio=0.2, n_way=way, **options, on_failure="ignore")
        torch.testing.assert_close(found.weights[task, :way], alone.weights, rtol=0, atol=1e-5)
        steps = sparsesvm.regularization_path(
            features[task], labels[task], n_way=way, n_lambdas=5, **options, on_failure="ignore"
        ).solution
        torch.testing.assert_close(path.solution.weights[:, task, :way], steps.weights, rtol=0, atol=1e-5)
        assert not path.solution.weights[:, task, way:].any()


@pytest.mark.parametrize("dual_reg", [0.0, 0.3])
@pytest.mark.parametrize("given", ["weights", "dual", "both"])
def test_certificates_are_those_of_the_task_alone(rng, dual_reg, given):
    features, labels, n_way = tasks(rng)
    options = {"lambda1": 0.1, "lambda2": 0.3, "dual_reg": dual_reg}
    found = sparsesvm.solve(features, labels, n_way=n_way, **options)
    uniform = (torch.arange(5) < n_way[:, None]) / n_way[:, None].double()
    solution = {"weights": 0.9 * found.weights, "dual": 0.9 * found.dual + 0.1 * uniform[:, None]}
    solution = solution if given == "both" else {given: solution[given]}
    gap = sparsesvm.duality_gap(features, labels, n_way=n_way, **solution, **options)
    for task, way in enumerate(WAYS):
        own = {name: value[task, :way] if name == "weights" else value[task, :, :way] for name, value in solution.items()}
        alone = sparsesvm.duality_gap(features[task], labels[task], n_way=way, **own, **options)
        torch.testing.assert_close(gap[task], alone, rtol=1e-12, atol=1e-12)
    exact = sparsesvm.duality_gap(features, labels, found.weights, dual=found.dual, n_way=n_way, **options)
    assert (exact <= 1.01e-6 * 12).all()


@pytest.mark.parametrize("dual_reg", [0.0, 0.3])
def test_the_reference_solves_them_too(rng, dual_reg):
    features, labels, n_way = tasks(rng)
    options = {"lambda1": 0.1, "lambda2": 0.3, "dual_reg": dual_reg, "n_way": n_way}
    problem = reference.make_problem(features, labels, **options)
    found = sparsesvm.solve(features, labels, tol=1e-10, **options)
    torch.testing.assert_close(reference.solve(problem, tol=1e-10).weights, found.weights, rtol=0, atol=1e-4)


def test_certificates_of_what_a_task_lacks(rng):
    features, labels, n_way = tasks(rng)
    options = {"lambda1": 0.1, "lambda2": 0.3, "n_way": n_way}
    message = r"must be zero for classes that a task lacks; got others for class 3 of task \[1\], which has n_way=3"
    with pytest.raises(ValueError, match=f"weights {message}"):
        sparsesvm.duality_gap(features, labels, torch.ones(4, 5, 20, dtype=torch.float64), **options)
    with pytest.raises(ValueError, match=f"dual {message}"):
        sparsesvm.duality_gap(features, labels, dual=torch.full((4, 12, 5), 0.2), **options)


HEADS = {
    "svm": lambda: SparseSVMHead(0.2),
    "refit": lambda: SparseSVMHead(0.2, refit=True),
    "ridge refit": lambda: SparseSVMHead(0.2, dual_reg=0.1, refit="ridge"),
    "intercept": lambda: SparseSVMHead(0.2, intercept=True),
    "ridge": RidgeHead,
    "prototypes": PrototypeHead,
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_fit_each_task_as_it_is_alone_and_never_predict_what_it_lacks(rng, name):
    features, labels, n_way = tasks(rng, dtype=torch.float32)
    features, labels, n_way, ways = features[[0, 1, 3]], labels[[0, 1, 3]], n_way[[0, 1, 3]], [5, 3, 2]
    features.requires_grad_()
    head = HEADS[name]()
    logits = head(features, features, labels, n_way)
    loss = torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none").mean(-1)
    gradients = torch.autograd.grad(loss.sum(), (features, head.log_scale), retain_graph=True)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (head.fit(features, labels, n_way).predict(-features) < n_way.unsqueeze(-1)).all()
    assert (head(features.half(), features, labels, n_way).argmax(-1) < n_way.unsqueeze(-1)).all()
    for task, way in enumerate(ways):
        own = features.detach()[task].requires_grad_()
        alone = head(own, own, labels[task], way)
        torch.testing.assert_close(logits[task, :, :way], alone, rtol=1e-4, atol=1e-4)
        (expected,) = torch.autograd.grad(torch.nn.functional.cross_entropy(alone, labels[task]), own)
        torch.testing.assert_close(gradients[0][task], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_equal_numbers_are_one_number(rng):
    features, labels, _ = tasks(rng)
    options = {"lambda1": 0.1, "lambda2": 0.1}
    found = sparsesvm.solve(features, labels, n_way=torch.full((4,), 5, dtype=torch.int32), **options)
    assert all(torch.equal(a, b) for a, b in zip(found, sparsesvm.solve(features, labels, n_way=5, **options), strict=True))
    empty = sparsesvm.solve(features[:0], labels[:0], n_way=torch.zeros(0, dtype=torch.int64), **options)
    assert empty.weights.shape == (0, 1, 20)


def test_several_task_dimensions(rng):
    features, labels, n_way = tasks(rng)
    options = {"lambda1": 0.1, "lambda2": 0.1}
    flat = sparsesvm.solve(features, labels, n_way=n_way, **options)
    square = sparsesvm.solve(features.unflatten(0, (2, 2)), labels.unflatten(0, (2, 2)), n_way=n_way.reshape(2, 2), **options)
    assert all(torch.equal(a.flatten(0, 1), b) for a, b in zip(square, flat, strict=True))


@pytest.mark.parametrize(
    ("n_way", "error", "message"),
    [
        (torch.tensor([5.0, 3, 1, 2]), TypeError, r"n_way must be an integer or an integer tensor; got torch.float32"),
        (
            torch.tensor([5, 3, 1]),
            ValueError,
            r"n_way must be a number or have one value per task, shape \(4,\); got shape \(3,\)",
        ),
        (torch.tensor([5, 3, 0, 2]), ValueError, "n_way must be at least 1 in every task; got 0"),
        (
            torch.tensor([5, 2, 1, 2]),
            ValueError,
            r"labels must lie in \[0, n_way\) of their task; got 2 in task \[1\], which has n_way=2",
        ),
        (torch.tensor([4, 3, 1, 2]), ValueError, r"labels must lie in \[0, n_way\) with n_way=4; got maximum 4"),
    ],
)
def test_errors(rng, n_way, error, message):
    features, labels, _ = tasks(rng)
    options = {"lambda2": 0.1, "n_way": n_way}
    for call in (
        lambda: sparsesvm.solve(features, labels, lambda1=0.1, **options),
        lambda: sparsesvm.solve(features, labels, lambda1_ratio=0.1, **options),
        lambda: sparsesvm.lambda1_max(features, labels, **options),
        lambda: sparsesvm.regularization_path(features, labels, **options),
        lambda: sparsesvm.duality_gap(features, labels, torch.zeros(4, 5, 20), lambda1=0.1, **options),
        lambda: SparseSVMHead()(features, features, labels, n_way),
    ):
        with pytest.raises(error, match=message):
            call()


def test_where_values_cannot_be_looked_at(rng):
    features, labels, n_way = tasks(rng)

    def solve(features, labels, n_way):
        return sparsesvm.solve(features, labels, lambda1=0.1, lambda2=0.1, n_way=n_way).weights

    message = "n_way must be a number under torch.func.vmap, torch.compile and torch.export"
    with pytest.raises(ValueError, match=message):
        torch.func.vmap(solve)(features.unflatten(0, (2, 2)), labels.unflatten(0, (2, 2)), n_way.reshape(2, 2))
    assert sparsesvm.solve(features, labels, lambda1=0.1, lambda2=0.1, n_way=n_way).status.eq(StatusCode.CONVERGED).all()
