"""Values of the solver: limiting cases, invariances, agreement with other people's solvers, independence of how it is run."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from emulation import FLAGS, SOURCES, compiler
from scipy.optimize import minimize
from sklearn.svm import LinearSVC

import sparsesvm
from benchmarks.problems import episode
from sparsesvm import StatusCode


def task(rng, n_way=4, n_samples=16, n_features=30, dtype=torch.float64):
    features, labels = episode(rng, n_way, n_samples, n_features)
    return torch.from_numpy(features).to(dtype), torch.from_numpy(labels)


def weights(features, labels, *, ratio=0.2, lambda2=0.05, **options):
    """Weights at a tight tolerance; lambda1 is a share of the bound of this very task unless given."""
    if "lambda1" not in options:
        options["lambda1_ratio"] = ratio
    return sparsesvm.solve(features, labels, lambda2=lambda2, tol=1e-11, on_failure="raise", **options).weights


def test_lambda1_zero_with_smoothing_is_the_svm_of_metaoptnet(rng):
    features, labels = task(rng, 3, 6, 10)
    penalty = 0.3
    ours = weights(features, labels, lambda1=0.0, lambda2=1 / penalty, dual_reg=1.0)
    gram, one_hot = (features @ features.T).numpy(), np.eye(3)[labels]

    def objective(flat):
        z = flat.reshape(6, 3)
        gradient = gram @ z + z - one_hot
        return 0.5 * (z * (gram @ z + z)).sum() - (z * one_hot).sum(), gradient.ravel()

    found = minimize(
        objective,
        np.zeros(18),
        jac=True,
        method="SLSQP",
        bounds=[(None, penalty * bound) for bound in one_hot.ravel()],
        constraints={"type": "eq", "fun": lambda z: z.reshape(6, 3).sum(1)},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    theirs = found.x.reshape(6, 3).T @ features.numpy()
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-6)


def test_lambda1_zero_is_the_svm_of_crammer_and_singer(rng):
    features, labels = task(rng, 4, 40, 12)
    svm = LinearSVC(multi_class="crammer_singer", fit_intercept=False, C=2.0, tol=1e-9, max_iter=1_000_000, random_state=0)
    svm.fit(features.numpy(), labels.numpy())
    ours = weights(features, labels, lambda1=0.0, lambda2=0.5)
    np.testing.assert_allclose(ours.numpy(), svm.coef_, atol=1e-5 * abs(svm.coef_).max())


@pytest.mark.parametrize("group_size", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_vanish_from_lambda1_max_on(rng, group_size, dtype):
    features, labels = task(rng, 4, 14, 30, dtype)
    exact = sparsesvm.lambda1_max(features, labels, exact=True, group_size=group_size)
    bound = sparsesvm.lambda1_max(features, labels, group_size=group_size)
    assert exact <= bound * (1 + 1e-6)
    for penalty in (bound, 1.5 * bound, exact * 1.001):
        found = sparsesvm.solve(
            features, labels, lambda1=penalty, lambda2=0.1, group_size=group_size, tol=1e-11, on_failure="raise"
        )
        assert not found.active.any()
        assert (found.weights == 0).all()
        assert found.objective == pytest.approx(len(labels))
    assert weights(features, labels, lambda1=0.99 * exact, group_size=group_size).abs().max() > 0


@pytest.mark.parametrize("dual_reg", [0.01, 1.0])
@pytest.mark.parametrize(("n_way", "group_size"), [(2, 1), (6, 5)])
def test_lambda1_max_of_the_smoothed_hinge_is_the_smallest_penalty_without_weights(rng, n_way, group_size, dual_reg):
    features, labels = task(rng, n_way, 14, 30)
    problem = {"sample_weight": torch.from_numpy(rng.uniform(0.5, 2.0, 14)), "group_size": group_size, "dual_reg": dual_reg}
    lambda2 = torch.tensor([0.05, 5.0])  # with the larger one every wrong class has 1 / (k - 1), as without smoothing
    smallest = [sparsesvm.lambda1_max(features, labels, lambda2=value, **problem) for value in lambda2]
    batch = sparsesvm.lambda1_max(
        features.expand(2, -1, -1),
        labels.expand(2, -1),
        lambda2=lambda2,
        exact=True,
        **{**problem, "sample_weight": problem["sample_weight"].expand(2, -1)},
    )
    torch.testing.assert_close(batch, torch.stack(smallest), rtol=1e-6, atol=0)
    for value, bound in zip(lambda2.tolist(), smallest, strict=True):
        options = {"lambda2": value, "tol": 1e-13, "on_failure": "raise", **problem}
        assert (sparsesvm.solve(features, labels, lambda1_ratio=1.0, **options).weights == 0).all()
        assert sparsesvm.solve(features, labels, lambda1=0.9999 * bound, **options).active.any()


def test_classes_samples_and_features_may_be_permuted(rng):
    features, labels = task(rng)
    expected = weights(features, labels)
    rows, columns, classes = (torch.from_numpy(rng.permutation(size)) for size in (16, 30, 4))
    torch.testing.assert_close(weights(features[rows], labels[rows]), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(weights(features[:, columns], labels), expected[:, columns], rtol=0, atol=1e-7)
    torch.testing.assert_close(weights(features, classes[labels])[classes], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_of_the_features_do_not_matter(rng, scale, dtype):
    features, labels = task(rng, dtype=dtype)
    rescaled = weights(features * scale, labels, lambda2=0.05 * scale**2) * scale
    tolerance = 1e-7 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(rescaled, weights(features, labels), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dual_reg", [0.0, 0.5])
def test_a_sample_given_twice_is_a_sample_of_weight_two(rng, dual_reg):
    features, labels = task(rng)
    twice = weights(torch.cat([features, features[:3]]), torch.cat([labels, labels[:3]]), lambda1=0.3, dual_reg=dual_reg)
    weight = torch.ones(16, dtype=torch.float64)
    weight[:3] = 2
    torch.testing.assert_close(
        weights(features, labels, lambda1=0.3, sample_weight=weight, dual_reg=dual_reg), twice, rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("lambda2", [5e-6, 0.0])
@pytest.mark.parametrize("max_iter", [0, 1, 100])
def test_the_tolerance_counts_weights_not_samples(rng, lambda2, max_iter):
    features, labels = task(rng)
    options = {"lambda1": 3e-5, "lambda2": lambda2, "sample_weight": torch.full((16,), 1e-4), "tol": 1e-3}
    found = sparsesvm.solve(features, labels, max_iter=max_iter, on_failure="ignore", **options)
    assert (found.status == StatusCode.MAX_ITER) == (float(found.gap) > 1e-3 * 16e-4) == (max_iter < 100)


@pytest.mark.parametrize("max_iter", [0, 2])
@pytest.mark.parametrize("gradient", [False, True])
def test_what_is_written_within_the_tolerance_is_no_failure(max_iter, gradient):
    """Weights dropped at the end can leave a gap that the last iterate did not. Then the task is solved."""
    solved = {StatusCode.CONVERGED, StatusCode.NOT_IDENTIFIED} if gradient else {StatusCode.CONVERGED}
    for seed, ratio, dual_reg, tol in itertools.product(range(20), (0.3, 0.9, 1.0), (0.0, 1.0), (1e-3, 1e-6)):
        features, labels = task(np.random.default_rng(seed))
        options = {"lambda1_ratio": ratio, "lambda2": 10.0 ** (seed % 8 - 6), "dual_reg": dual_reg, "tol": tol}
        found = sparsesvm.solve(features.requires_grad_(gradient), labels, max_iter=max_iter, on_failure="ignore", **options)
        assert (StatusCode(int(found.status)) in solved) == (float(found.gap) <= tol * len(labels)), (seed, options)


@pytest.mark.parametrize("lambda2", [0.05, 0.0])  # by the dual, and by the proximal method
def test_padding_changes_nothing_whatever_it_holds(rng, lambda2):
    features, labels = task(rng)
    padding = torch.full((3, 30), float("nan"), dtype=torch.float64)
    weight = torch.cat([torch.ones(16), torch.zeros(3)])
    padded = sparsesvm.solve(
        torch.cat([features, padding]).requires_grad_(),
        torch.cat([labels, torch.tensor([0, 3, 3])]),
        lambda1=0.3,
        lambda2=lambda2,
        sample_weight=weight,
        n_way=4,
    )
    alone = sparsesvm.solve(features, labels, lambda1=0.3, lambda2=lambda2, n_way=4)
    assert torch.equal(padded.weights, alone.weights)
    assert torch.equal(padded.dual[:16], alone.dual)
    torch.testing.assert_close(padded.dual[16:].sum(-1), torch.ones(3, dtype=torch.float64))


def test_a_batch_is_its_tasks_for_any_strides_and_penalties(rng):
    tasks = [task(rng) for _ in range(6)]
    features = torch.stack([f for f, _ in tasks], 2).movedim(2, 0)  # not contiguous
    labels = torch.stack([y for _, y in tasks])
    lambda1, lambda2 = torch.linspace(0, 0.5, 6), torch.linspace(0.01, 1, 6)
    batch = sparsesvm.solve(
        features.reshape(2, 3, 16, 30), labels.reshape(2, 3, 16), lambda1=lambda1.reshape(2, 3), lambda2=lambda2.reshape(2, 3)
    )
    assert batch.weights.shape == (2, 3, 4, 30)
    assert batch.dual.shape == (2, 3, 16, 4)
    assert batch.active.shape == (2, 3, 30)
    for field in (batch.gap, batch.objective, batch.n_iter, batch.status):
        assert field.shape == (2, 3)
    for index, (f, y) in enumerate(tasks):
        single = sparsesvm.solve(f, y, lambda1=lambda1[index], lambda2=lambda2[index])
        position = divmod(index, 3)
        assert torch.equal(batch.weights[position], single.weights)
        assert torch.equal(batch.gap[position], single.gap)


def test_the_number_of_threads_does_not_matter(rng, four_threads):
    features = torch.stack([task(rng, 5, 25, 200)[0] for _ in range(16)])
    labels = (torch.arange(25) % 5).expand(16, 25)
    several = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=0.05)
    torch.set_num_threads(1)
    one = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=0.05)
    assert all(torch.equal(a, b) for a, b in zip(several, one, strict=True))


@pytest.mark.parametrize("n_way", [1, 2, 5])
def test_one_sample_and_one_class(n_way):
    features = torch.tensor([[1.0, -2.0, 0.0]], dtype=torch.float64)
    found = sparsesvm.solve(features, torch.tensor([0]), lambda1=0.1, lambda2=0.5, n_way=n_way)
    assert found.status == StatusCode.CONVERGED
    assert bool(found.weights.any()) == (n_way > 1)


def test_no_tasks():
    found = sparsesvm.solve(torch.zeros(0, 4, 6), torch.zeros(0, 4, dtype=torch.long), lambda1=0.1, lambda2=1.0, n_way=3)
    assert found.weights.shape == (0, 3, 6)
    assert found.dual.shape == (0, 4, 3)


def test_a_warm_start_saves_iterations(rng):
    features, labels = task(rng, 5, 50, 200)
    cold = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=0.05)
    warm = sparsesvm.solve(features, labels, lambda1_ratio=0.1, lambda2=0.05, init_dual=cold.dual)
    assert warm.n_iter < cold.n_iter
    assert warm.status == StatusCode.CONVERGED


def test_too_few_iterations_are_reported(rng):
    features, labels = task(rng, 5, 50, 200)
    options = {"lambda1_ratio": 0.1, "lambda2": 0.01, "tol": 1e-10, "max_iter": 1}
    found = sparsesvm.solve(features, labels, **options, on_failure="ignore")
    assert found.status == StatusCode.MAX_ITER
    assert found.gap > 1e-10 * 50
    with pytest.warns(sparsesvm.ConvergenceWarning, match="max_iter"):
        sparsesvm.solve(features, labels, **options)
    with pytest.raises(sparsesvm.ConvergenceError, match="max_iter"):
        sparsesvm.solve(features, labels, **options, on_failure="raise")


@pytest.mark.parametrize("lambda1_ratio", [0.0, 0.3])
@pytest.mark.parametrize("dual_reg", [0.0, 1.0])
def test_the_gap_is_that_of_an_independent_computation(rng, lambda1_ratio, dual_reg):
    features, labels = task(rng)
    lambda1 = lambda1_ratio * sparsesvm.lambda1_max(features, labels)
    options = {"lambda1": lambda1, "lambda2": 0.05, "dual_reg": dual_reg}
    found = sparsesvm.solve(features, labels, **options, tol=1e-3)
    recomputed = sparsesvm.duality_gap(features, labels, dual=found.dual, **options)
    assert float(recomputed) == pytest.approx(float(found.gap), rel=1e-6, abs=1e-12)
    recomputed = sparsesvm.duality_gap(features, labels, found.weights, dual=found.dual, **options)
    assert float(recomputed) == pytest.approx(float(found.gap), rel=1e-6, abs=1e-11)


def test_instruction_sets_agree(rng):
    """Every level that this processor has, in a process of its own, as the choice is made once."""
    program = (
        "import torch, sparsesvm; g = torch.Generator().manual_seed(0);"
        "f = torch.rand(20, 70, generator=g, dtype=torch.float64); y = torch.arange(20) % 4;"
        "s = sparsesvm.solve(f, y, lambda1_ratio=0.1, lambda2=0.1, tol=1e-11, on_failure='raise');"
        "print(sparsesvm.backends()['cpu']['simd'], float(s.objective), int(s.active.sum()))"
    )
    best = sparsesvm.backends()["cpu"]["simd"]
    built = sparsesvm.backends()["cpu"]["built"]
    usable = built[: built.index(best) + 1]
    outputs = []
    for level in usable:
        environment = {**os.environ, "SPARSESVM_SIMD": level}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        name, objective, active = done.stdout.split()
        assert name == level
        outputs.append((float(objective), int(active)))
    for objective, active in outputs:
        assert objective == pytest.approx(outputs[0][0], rel=1e-10)
        assert active == outputs[0][1]


def test_many_classes_and_samples_without_group_penalty(rng):
    """The face of the solution is too large to be worth factoring."""
    features, labels = (torch.from_numpy(array) for array in episode(rng, 20, 100, 512))
    penalties = {"lambda1": 0.0, "lambda2": 0.1, "n_way": 20}
    found = sparsesvm.solve(features, labels, **penalties, tol=1e-10, on_failure="raise")
    assert (found.dual > 0).sum() - len(labels) > 500
    assert sparsesvm.duality_gap(features, labels, dual=found.dual, **penalties) <= 1.01e-10 * len(labels)


@pytest.mark.parametrize("tol", [1e-6, 1e-9, 1e-12, 1e-15])
@pytest.mark.parametrize(("n_way", "n_samples", "n_features"), [(5, 75, 4000), (5, 75, 640), (20, 30, 500)])
@pytest.mark.parametrize("lambda1", [0.0, 0.3])
def test_the_dual_stays_feasible_at_any_tolerance(rng, n_way, n_samples, n_features, lambda1, tol):
    """The certificate holds for probability vectors only."""
    features, labels = (torch.from_numpy(array) for array in episode(rng, n_way, n_samples, n_features))
    penalties = {"lambda1": lambda1, "lambda2": 0.1, "n_way": n_way}
    found = sparsesvm.solve(features, labels, **penalties, tol=tol, on_failure="ignore")
    assert (found.dual >= 0).all()
    torch.testing.assert_close(found.dual.sum(-1), torch.ones(n_samples).double(), rtol=0, atol=1e-14)
    certificate = sparsesvm.duality_gap(features, labels, found.weights, dual=found.dual, **penalties)
    torch.testing.assert_close(certificate, found.gap, rtol=1e-6, atol=1e-13 * n_samples)


def test_few_iterations_suffice_near_lambda1_max(rng):
    """Where every step moves groups across their threshold, which the quadratic model must foresee."""
    features, labels = (torch.from_numpy(array) for array in episode(rng, 5, 75, 640))
    largest = sparsesvm.lambda1_max(features, labels, exact=True)
    for share in (0.9, 0.95, 0.98):
        found = sparsesvm.solve(features, labels, lambda1=share * largest, lambda2=0.01, on_failure="raise")
        assert 0 < found.active.double().mean() < 0.1
        assert found.n_iter <= 20


@pytest.mark.parametrize("dual_reg", [0.1, 1.0])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.3])
def test_few_iterations_suffice_with_the_smoothed_hinge(rng, dual_reg, share):
    """Which bounds the curvature from below, so that few conjugate gradients do what takes many sweeps."""
    labels = torch.arange(5).repeat(75)
    features = torch.from_numpy(rng.standard_normal((5, 640))[labels] + 2 * rng.standard_normal((375, 640)))
    features = torch.nn.functional.normalize(features - features.mean(0), dim=-1)
    options = {"lambda1_ratio": share, "lambda2": 0.1, "dual_reg": dual_reg}
    found = sparsesvm.solve(features, labels, **options, on_failure="raise")
    assert found.n_iter <= 10


def test_steps_on_a_face_keep_each_sample_sum_however_many_entries_vanish(tmp_path):
    """Entries that the vanished ones determine, and more vanished ones than a face keeps at zero; the scratch is NaN before."""
    program = tmp_path / "face_check"
    sources = [str(SOURCES / name) for name in ("tests/face_check.cpp", "cpu/interrupt.cpp")]
    subprocess.run([*compiler(), *FLAGS, "-O2", "-fopenmp-simd", *sources, "-pthread", "-o", str(program)], check=True)
    run = subprocess.run([str(program)], capture_output=True, text=True)
    wrong, overflowed = (int(part.split()[0]) for part in run.stdout.split(","))
    assert (run.returncode, wrong) == (0, 0)
    assert overflowed


@pytest.mark.parametrize("n_way", [64, 66, 71])
def test_a_start_where_the_face_leaves_nothing_to_gain(n_way):
    """All wrong classes alike: on its face the start is the minimum but for rounding, along which no step may grow."""
    features, labels = torch.ones(n_way, 1, dtype=torch.float64), torch.arange(n_way)
    start = (1 - torch.eye(n_way, dtype=torch.float64)) / (n_way - 1)
    options = {"lambda1": 1.0, "lambda2": 1.0, "dual_reg": 1.0, "sample_weight": torch.full((n_way,), 20.0)}
    found = sparsesvm.solve(features, labels, **options, init_dual=start, on_failure="raise")
    assert not found.active.any()
    torch.testing.assert_close(found.objective.item(), 10.0 * (n_way - 1), rtol=1e-9, atol=0.0)


def test_absent_samples_of_a_hardly_smoothed_hinge_have_probabilities():
    """Their scores divided by dual_reg / lambda2 leave the range of numbers."""
    features = torch.tensor([[1.0, 2.0], [3.0, 1.0], [1e300, 0.0]], dtype=torch.float64)
    weight = torch.tensor([1e12, 1.0, 0.0], dtype=torch.float64)
    options = {"lambda1": 0.0, "lambda2": 1.7e308, "dual_reg": 3.5, "n_way": 2, "sample_weight": weight}
    found = sparsesvm.solve(features, torch.tensor([1, 0, 1]), **options, on_failure="raise")
    torch.testing.assert_close(found.dual.sum(-1), torch.ones(3, dtype=torch.float64))
