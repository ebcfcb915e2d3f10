"""The CUDA kernels' bodies on emulated blocks: the CPU solver's answers, whatever the team and the order of its threads.

Needs the C++ compiler, not CUDA. What only a device can show is in test_cuda.py.
"""

from __future__ import annotations

import dataclasses
import subprocess

import numpy as np
import pytest
import torch
from emulation import FLAGS, SOURCES, Emulator, Problem, compiler
from test_reference_data import SMALL_CASES, load_small

from benchmarks.certificate import certify
from benchmarks.problems import Problem as Drawn
from benchmarks.problems import adversarial, episode, uniform_bound, weakly_ridged
from sparsesvm import Solution, StatusCode, _ops


def problem_of(data, dtype=torch.float64):
    """All levels of a stored case as one batch."""
    levels, n = len(data["lam1"]), len(data["y"])

    def repeated(array):
        return torch.from_numpy(np.ascontiguousarray(array)).expand(levels, *array.shape).contiguous()

    return Problem(
        features=repeated(data["F"]).to(dtype),
        labels=repeated(data["y"]),
        sample_weight=repeated(data.get("sample_weight", np.ones(n))),
        lambda1=torch.from_numpy(data["lam1"]).double(),
        lambda2=torch.full((levels,), float(data["lam2"]), dtype=torch.float64),
        n_way=int(data["k"]),
        group_size=int(data.get("group_size", 1)),
        dual_reg=float(data.get("dual_reg", 0.0)),
    )


def random_problem(rng, *, n_tasks=2, n_way=4, n_samples=10, n_features=30, lambda1=0.2, dtype=torch.float64, **others):
    tasks = [torch.from_numpy(episode(rng, n_way, n_samples, n_features)[0]) for _ in range(n_tasks)]
    return Problem(
        features=torch.stack(tasks).to(dtype),
        labels=(torch.arange(n_samples) % n_way).expand(n_tasks, -1).contiguous(),
        sample_weight=torch.ones(n_tasks, n_samples, dtype=torch.float64),
        lambda1=torch.full((n_tasks,), lambda1, dtype=torch.float64),
        lambda2=torch.full((n_tasks,), 0.1, dtype=torch.float64),
        n_way=n_way,
        **others,
    )


def solve_on_cpu(problem, tol, init_dual=None, identify=False):
    inputs = (problem.features, problem.labels, problem.sample_weight, problem.lambda1, problem.lambda2, init_dual)
    options = (problem.n_way, problem.group_size, problem.dual_reg, tol, 100, "ignore", identify)
    return Solution(*_ops.solve(*inputs, None, *options, problem.group_weight, problem.task_way))


def derivatives_on_cpu(problem, solution, cotangent, tangents):
    """As `Emulator.vjp` and `Emulator.jvp`."""
    inputs = (problem.features, problem.labels, problem.sample_weight, problem.lambda1, problem.lambda2)
    point = (*inputs, solution.weights, solution.dual, solution.status)
    options = (problem.group_size, problem.dual_reg, problem.group_weight, problem.task_way)
    features, weight, lambda1, lambda2 = _ops.vjp(*point, cotangent, *options)
    moved = _ops.jvp(*point, tangents[0], tangents[3], tangents[1], tangents[2], *options)
    return (features, lambda1, lambda2, weight), moved


def assert_close(found, expected, relative):
    """Relative to the largest entry, or to one: what would vanish is computed from numbers of that size."""
    assert torch.isfinite(found).all()
    assert float((found - expected).abs().max()) <= relative * max(float(expected.abs().max()), 1.0)


def check_against_cpu(emulator, problem, rng, *, tol, weights, derivatives, rounding):
    """`rounding` of the weights, relative to the objective at W = 0: it counts in the gap."""
    found, expected = emulator.solve(problem, tol=tol), solve_on_cpu(problem, tol)
    assert (found.status == StatusCode.CONVERGED).all()
    total = problem.sample_weight.sum(-1)
    # Each is within its own gap of the minimum.
    assert ((found.objective - expected.objective).abs() <= found.gap + expected.gap + rounding * total).all()
    assert (found.gap <= (tol + rounding) * total).all()
    assert_close(found.weights, expected.weights, weights)
    assert torch.equal(found.active, expected.active)

    def random(like):
        return torch.from_numpy(rng.normal(size=tuple(like.shape))).to(like.dtype)

    cotangent = random(expected.weights)
    tangents = tuple(random(t) for t in (problem.features, problem.lambda1, problem.lambda2, problem.sample_weight))
    pulled, moved = derivatives_on_cpu(problem, expected, cotangent, tangents)
    for ours, theirs in zip(emulator.vjp(problem, expected, cotangent), pulled, strict=True):
        assert_close(ours, theirs, derivatives)
    assert_close(emulator.jvp(problem, expected, *tangents), moved, derivatives)


@pytest.mark.parametrize("case", SMALL_CASES)
def test_float64_equals_the_cpu_solver(emulator, rng, case):
    check_against_cpu(emulator, problem_of(load_small(case)), rng, tol=1e-13, weights=1e-12, derivatives=1e-12, rounding=1e-13)


@pytest.mark.parametrize("case", SMALL_CASES)
def test_float32_equals_the_cpu_solver(emulator, rng, case):
    """To an accuracy of the solutions far below the rounding of their types, which is then all that differs."""
    check_against_cpu(
        emulator, problem_of(load_small(case), torch.float32), rng, tol=1e-10, weights=1e-6, derivatives=1e-6, rounding=1e-7
    )


@pytest.mark.parametrize(("group_size", "lambda1", "dual_reg"), [(1, 0.2, 0.0), (3, 0.2, 0.3), (5, 0.0, 0.0)])
def test_groups_with_weights_of_their_own(emulator, rng, group_size, lambda1, dual_reg):
    weight = torch.from_numpy(rng.uniform(0.5, 2, (2, 30 // group_size)))
    problem = random_problem(rng, lambda1=lambda1, group_size=group_size, dual_reg=dual_reg, group_weight=weight)
    # Weights are within sqrt(2 gap / lambda2) of the solution's.
    check_against_cpu(emulator, problem, rng, tol=1e-13, weights=1e-5, derivatives=1e-12, rounding=1e-13)


def test_the_proximal_method_with_weights_of_groups(emulator):
    for seed in range(12):
        drawn = weakly_ridged(np.random.default_rng(seed))
        if drawn.features.size * drawn.n_way < 40_000:
            groups = drawn.features.shape[1] // drawn.group_size
            weight = 10 ** np.random.default_rng(seed).uniform(-1, 1, groups)
            assert_certified(emulator, dataclasses.replace(drawn, group_weight=weight), 1e-6, torch.float32)


@pytest.mark.parametrize(("parts", "threads"), [(1, 32), (3, 32)])
@pytest.mark.parametrize("lambda2", [0.1, 0.0])
def test_tasks_of_different_numbers_of_classes(library, rng, parts, threads, lambda2):
    """Each as it is alone, bit for bit, and as on the CPU."""
    emulator = Emulator(library, parts, threads)
    ways = torch.tensor([4, 2, 1, 3])
    problem = dataclasses.replace(random_problem(rng, n_tasks=4), task_way=ways)
    problem.labels.remainder_(ways.unsqueeze(-1))
    problem.lambda2.fill_(lambda2)
    problem.sample_weight[:, -2:] = 0
    start = torch.from_numpy(rng.dirichlet(np.ones(4), size=(4, 10)))
    found = emulator.solve(problem, tol=1e-12 if lambda2 else 1e-6, init_dual=start)
    cotangent = torch.from_numpy(rng.normal(size=(4, 4, 30)))
    tangents = [
        torch.from_numpy(rng.normal(size=tuple(t.shape)))
        for t in (problem.features, *[problem.lambda1] * 2, problem.sample_weight)
    ]
    pulled, moved = emulator.vjp(problem, found, cotangent), emulator.jvp(problem, found, *tangents)
    for task, way in enumerate(ways.tolist()):
        own = {
            name: getattr(problem, name)[task : task + 1]
            for name in ("features", "labels", "sample_weight", "lambda1", "lambda2")
        }
        alone = dataclasses.replace(problem, **own, n_way=way, task_way=None)
        first = start[task : task + 1, :, :way].contiguous()
        expected = emulator.solve(alone, tol=1e-12 if lambda2 else 1e-6, init_dual=first)
        assert torch.equal(found.weights[task, :way], expected.weights[0]) and not found.weights[task, way:].any()
        assert torch.equal(found.dual[task, :, :way], expected.dual[0]) and not found.dual[task, :, way:].any()
        assert all(torch.equal(a[task], b[0]) for a, b in zip(found[2:], expected[2:], strict=True))
        if lambda2:
            gradients = emulator.vjp(alone, expected, cotangent[task : task + 1, :way].contiguous())
            assert all(torch.equal(a[task], b[0]) for a, b in zip(pulled, gradients, strict=True))
            tangent = emulator.jvp(alone, expected, *(t[task : task + 1] for t in tangents))
            assert torch.equal(moved[task, :way], tangent[0]) and not moved[task, way:].any()
    if lambda2:
        on_cpu = solve_on_cpu(problem, 1e-12, start)
        assert_close(found.weights, on_cpu.weights, 1e-9)
        gradients, tangent = derivatives_on_cpu(problem, on_cpu, cotangent, tangents)
        for ours, theirs in zip(emulator.vjp(problem, on_cpu, cotangent), gradients, strict=True):
            assert_close(ours, theirs, 1e-9)
        assert_close(emulator.jvp(problem, on_cpu, *tangents), tangent, 1e-9)


def test_every_reference_file_reaches_the_stored_objective(emulator, reference_file):
    with np.load(reference_file) as data:
        if data["F"].size > 2_000:
            pytest.skip("takes too long in emulation")
        for dtype, tol in ((torch.float64, 1e-10), (torch.float32, 1e-6)):
            problem = problem_of(dict(data), dtype)
            found = emulator.solve(problem, tol=tol)
            assert (found.status == StatusCode.CONVERGED).all()
            optimum, total = torch.from_numpy(data["P"]), problem.sample_weight.sum(-1)
            assert ((found.objective - optimum).abs() <= 2 * tol * total).all()


def drawn_problem(drawn, dtype=torch.float64):
    """A problem of `benchmarks.problems` as a batch of one task."""
    return Problem(
        features=torch.from_numpy(drawn.features)[None].contiguous().to(dtype),
        labels=torch.from_numpy(drawn.labels)[None].contiguous(),
        sample_weight=torch.from_numpy(drawn.sample_weight)[None].contiguous(),
        lambda1=torch.tensor([drawn.lambda1], dtype=torch.float64),
        lambda2=torch.tensor([drawn.lambda2], dtype=torch.float64),
        n_way=drawn.n_way,
        group_size=drawn.group_size,
        dual_reg=drawn.dual_reg,
        group_weight=None if drawn.group_weight is None else torch.from_numpy(drawn.group_weight)[None],
    )


def assert_certified(emulator, drawn, tol, dtype=torch.float64):
    """By numpy alone, and with the status of the CPU."""
    problem = drawn_problem(drawn, dtype)
    found, expected = emulator.solve(problem, tol=tol), solve_on_cpu(problem, tol)
    assert int(found.status) == int(expected.status)
    assert int(found.status) in (StatusCode.CONVERGED, StatusCode.NOT_UNIQUE)
    rounded = dataclasses.replace(drawn, features=problem.features[0].double().numpy())
    certificate = certify(rounded, found.weights[0].numpy(), found.dual[0].numpy())
    assert certificate.confirms(tol), certificate
    return found


@pytest.mark.parametrize("seed", range(24))
def test_hostile_problems_converge_to_the_cpu_objective(emulator, seed):
    drawn = adversarial(np.random.default_rng(1000 + seed), max_samples=12, max_features=60)
    problem = drawn_problem(drawn)
    found, expected = emulator.solve(problem), solve_on_cpu(problem, 1e-6)
    assert int(found.status) == StatusCode.CONVERGED
    assert abs(float(found.objective - expected.objective)) <= float(found.gap + expected.gap) + 1e-12 * drawn.sample_weight.sum()


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_random_problems_of_any_ridge(emulator, dtype, tol):
    for seed in range(25):
        drawn = weakly_ridged(np.random.default_rng(seed))
        if drawn.features.size * drawn.n_way < 40_000:  # the larger ones take too long in emulation
            assert_certified(emulator, drawn, tol, dtype)


@pytest.mark.parametrize("ratio", [0.01, 0.1])
def test_a_table_in_raw_units(emulator, rng, ratio):
    """Columns from 0.1 to 1000, far from zero beside their spread."""
    labels = np.arange(60) % 3
    centres = rng.normal(size=(3, 12))
    table = (3 + centres[labels] + rng.normal(size=(60, 12))) * np.logspace(-1, 3, 12)
    assert_certified(emulator, ratio_problem(table, labels, 3, ratio, 0.1), 1e-6)


@pytest.mark.parametrize("lambda2", [0.0, 1e-8])
def test_nearly_no_ridge_and_none(emulator, rng, lambda2):
    found = assert_certified(emulator, ratio_problem(rng.normal(size=(25, 64)), np.arange(25) % 5, 5, 0.1, lambda2), 1e-6)
    assert found.active.any()
    assert (int(found.status) == StatusCode.NOT_UNIQUE) == (lambda2 == 0)


@pytest.mark.parametrize("group_size", [1, 2])
def test_nothing_is_left_of_groups_that_go(library_of_large_tasks, group_size):
    """The rest that a shortened line search leaves of them is written neither by the CPU nor here, whatever the team."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        features, planted = rng.normal(size=(60, 120)), rng.normal(size=(30, 4))
        labels = (features[:, :30] @ planted + 3 * rng.normal(size=(60, 4))).argmax(1)
        drawn = ratio_problem(features, labels, 4, 0.1, 1.0)
        problem = drawn_problem(dataclasses.replace(drawn, dual_reg=1.0, group_size=group_size))
        exact = solve_on_cpu(problem, 1e-12)
        found = Emulator(library_of_large_tasks, 2, 32).solve(problem)
        assert (found.active != exact.active).sum() <= 1
        assert torch.equal(found.active[0], (found.weights[0] != 0).any(0).view(-1, group_size).any(1))
        other = Emulator(library_of_large_tasks, 2, 32, seed=1).solve(problem)
        assert all(torch.equal(a, b) for a, b in zip(found, other, strict=True))


def test_without_ridge_and_weights_the_solution_is_unique(emulator, rng):
    found = assert_certified(emulator, ratio_problem(rng.normal(size=(12, 20)), np.arange(12) % 3, 3, 1.0, 0.0), 1e-6)
    assert int(found.status) == StatusCode.CONVERGED
    assert not found.active.any()


@pytest.mark.parametrize("lambda2", [0.0, 0.1])
def test_one_class_has_no_weights(emulator, rng, lambda2):
    problem = random_problem(rng, n_way=1)
    problem.lambda2.fill_(lambda2)
    found = emulator.solve(problem)
    assert (found.status == StatusCode.CONVERGED).all()
    assert (found.weights == 0).all() and (found.dual == 1).all()
    assert (found.objective == 0).all() and (found.gap == 0).all()


def test_without_ridge_the_gradient_is_nan(emulator, rng):
    problem = drawn_problem(ratio_problem(rng.normal(size=(12, 20)), np.arange(12) % 3, 3, 0.3, 0.0))
    found = emulator.solve(problem)
    assert all(gradient.isnan().all() for gradient in emulator.vjp(problem, found, torch.ones_like(found.weights)))


@pytest.mark.parametrize(("n_way", "n_samples", "n_features"), [(2, 120, 12), (5, 60, 10)])
def test_dense_and_overlapping(emulator, rng, n_way, n_samples, n_features):
    features = rng.normal(size=(n_samples, n_features))
    noise = n_features**0.5 * rng.normal(size=(n_samples, n_way))
    labels = (features @ rng.normal(size=(n_features, n_way)) + noise).argmax(1)
    features /= np.sqrt((features**2).sum(1).mean())
    assert_certified(emulator, ratio_problem(features, labels, n_way, 0.0, 0.01), 1e-6)


def ratio_problem(features, labels, n_way, ratio, lambda2):
    weight = np.ones(len(labels))
    bound = uniform_bound(features, labels, n_way, weight, 1)
    return Drawn(features, labels, n_way, ratio * bound, lambda2, weight)


@pytest.mark.parametrize(("parts", "threads"), [(1, 64), (3, 32)])
def test_any_order_of_threads_gives_the_same_bits(library, rng, parts, threads):
    problem = random_problem(rng, n_features=300, dtype=torch.float32, group_size=3)
    problem.lambda2[1] = 0  # the proximal method's
    teams = [Emulator(library, parts, threads, seed) for seed in (0, 1, 2)]
    first, *others = (team.solve(problem) for team in teams)
    cotangent = torch.ones_like(first.weights)
    gradients = [team.vjp(problem, first, cotangent) for team in teams]
    for other, gradient in zip(others, gradients[1:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(gradients[0], gradient, strict=True))  # the other has none


def test_the_size_of_the_team_changes_rounding_only(library, rng):
    problem = random_problem(rng, n_features=700)
    cotangent = torch.from_numpy(rng.normal(size=(2, 4, 700)))
    one, many = Emulator(library, 1, 32), Emulator(library, 3, 96)
    found, other = one.solve(problem, tol=1e-13), many.solve(problem, tol=1e-13)
    assert_close(other.weights, found.weights, 1e-12)
    for a, b in zip(one.vjp(problem, found, cotangent), many.vjp(problem, found, cotangent), strict=True):
        assert_close(b, a, 1e-12)


def test_a_barrier_that_not_all_threads_reach_is_found(library):
    assert library.diverge(32)
    assert b"barrier divergence" in library.error_message()


def test_a_bad_task_leaves_the_others_unharmed(emulator, rng):
    problem = random_problem(rng, n_tasks=9, group_weight=torch.ones(9, 30, dtype=torch.float64))
    alone = emulator.solve(dataclasses.replace(problem, features=problem.features.clone()))
    problem.features[0, 3, 5] = torch.nan
    problem.labels[1, 2] = 4
    problem.labels[2, 2] = -1
    problem.lambda1[3] = -1
    problem.lambda2[4] = -1
    problem.sample_weight[5, 0] = torch.inf
    problem.group_weight[6, 3] = 0
    problem.group_weight[7, 3] = torch.nan
    found = emulator.solve(problem)
    assert (found.status[:8] == StatusCode.NON_FINITE).all()
    assert found.weights[:8].isnan().all() and found.gap[:8].isnan().all()
    assert not found.active[:8].any()
    assert all(torch.equal(a[8], b[8]) for a, b in zip(found, alone, strict=True))


def test_a_warm_start_that_is_not_finite_has_a_status(emulator, rng):
    problem, start = random_problem(rng), torch.full((2, 10, 4), 0.25, dtype=torch.float64)
    start[0, 3, 0] = torch.nan
    found = emulator.solve(problem, init_dual=start)
    assert found.status.tolist() == [StatusCode.NON_FINITE, StatusCode.CONVERGED]
    assert found.gap[0].isnan()


@pytest.mark.parametrize("seed", range(8))
def test_several_classes_without_samples(emulator, seed):
    """Their entries are averaged, which must leave the dual a probability vector for each sample."""
    rng = np.random.default_rng(seed)
    problem = dataclasses.replace(random_problem(rng, lambda1=(0.0, 0.2)[seed % 2], dual_reg=0.3 * (seed // 2 % 2)), n_way=8)
    start = torch.from_numpy(rng.dirichlet(np.ones(8), size=(2, 10))) if seed > 3 else None
    found, expected = emulator.solve(problem, tol=1e-9, init_dual=start), solve_on_cpu(problem, 1e-9)
    assert (found.status == StatusCode.CONVERGED).all()
    assert ((found.dual.sum(-1) - 1).abs() < 1e-12).all()
    assert ((found.objective - expected.objective).abs() <= found.gap + expected.gap + 1e-12).all()


def test_a_limit_that_32_bits_do_not_hold(emulator, rng):
    assert (emulator.solve(random_problem(rng), max_iter=2**40).status == StatusCode.CONVERGED).all()


def test_absent_samples_change_nothing_and_get_the_cpu_dual(emulator, rng):
    problem = random_problem(rng, n_samples=14)
    problem.sample_weight[:, 10:] = 0
    problem.features[:, 12] = torch.nan
    shorter = dataclasses.replace(
        problem,
        features=problem.features[:, :10],
        labels=problem.labels[:, :10].contiguous(),
        sample_weight=problem.sample_weight[:, :10].contiguous(),
    )
    found, expected, present = emulator.solve(problem), solve_on_cpu(problem, 1e-6), emulator.solve(shorter)
    assert torch.equal(found.weights, present.weights)
    assert torch.equal(found.dual[:, 10:], expected.dual[:, 10:])
    gradient = emulator.vjp(problem, found, torch.ones_like(found.weights))
    assert (gradient[0][:, 10:] == 0).all()
    assert gradient[0][:, :10].isfinite().all()


def test_samples_of_no_weight_at_all(emulator, rng):
    problem = random_problem(rng)
    problem.sample_weight[0] = 0
    found = emulator.solve(problem)
    assert (found.status == StatusCode.CONVERGED).all()
    assert (found.weights[0] == 0).all() and found.objective[0] == 0


def test_features_of_any_strides(emulator, rng):
    problem = random_problem(rng)
    wide = torch.full((10, 2, 40), torch.nan, dtype=torch.float64)
    wide[:, :, 5:35] = problem.features.movedim(0, 1)
    strided = dataclasses.replace(problem, features=wide[:, :, 5:35].movedim(1, 0))
    assert torch.equal(emulator.solve(strided).weights, emulator.solve(problem).weights)


def test_a_warm_start_at_the_solution_ends_at_once(emulator, rng):
    problem = random_problem(rng)
    found = emulator.solve(problem, tol=1e-10)
    again = emulator.solve(problem, tol=1e-6, init_dual=found.dual)
    assert (again.n_iter <= 1).all()
    assert (again.status == StatusCode.CONVERGED).all()


@pytest.mark.parametrize("lambda1", [0.0, 30.0])
def test_more_samples_than_a_dense_model_holds(emulator, rng, lambda1):
    """The proximal method solves, conjugate gradients differentiate."""
    problem = random_problem(rng, n_tasks=1, n_way=2, n_samples=2100, n_features=3, lambda1=lambda1, dual_reg=200.0)
    problem.lambda2.fill_(50.0)
    found, expected = emulator.solve(problem, tol=1e-6), solve_on_cpu(problem, 1e-6)
    assert int(found.status) == int(expected.status) == StatusCode.CONVERGED
    assert abs(float(found.objective - expected.objective)) <= float(found.gap + expected.gap)
    cotangent = torch.from_numpy(rng.normal(size=(1, 2, 3)))
    tangents = [torch.zeros_like(t) for t in (problem.features, problem.lambda1, problem.lambda2, problem.sample_weight)]
    pulled, _ = derivatives_on_cpu(problem, expected, cotangent, tangents)
    for ours, theirs in zip(emulator.vjp(problem, expected, cotangent), pulled, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8 * float(pulled[0].abs().max()))


def test_no_thread_reads_what_another_may_still_write(tmp_path):
    """Under ThreadSanitizer, every emulated thread a thread of its own."""
    program = tmp_path / "race_check"
    source = str(SOURCES / "tests" / "race_check.cpp")
    command = [*compiler(), *FLAGS, "-O1", "-g", "-fsanitize=thread", "-pthread", source, "-o", str(program)]
    subprocess.run(command, check=True)
    run = subprocess.run([str(program)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "WARNING" not in run.stderr
    planted = subprocess.run([str(program), "planted"], capture_output=True, text=True)
    assert planted.returncode and "data race" in planted.stderr
