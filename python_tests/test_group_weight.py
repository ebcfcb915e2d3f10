"""Groups with penalties of their own: the same promises as with one penalty for all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsesvm
from benchmarks.certificate import certify
from benchmarks.problems import Problem, adversarial, episode, weakly_ridged
from sparsesvm import SparseSVMHead, StatusCode, _ops, reference

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 2**32 - 1)
LABELS = torch.arange(8) % 4


def weighted(problem: Problem, rng: np.random.Generator, decades: float = 1.0) -> Problem:
    """With log-uniform weights, up to so many powers of ten to either side of one."""
    groups = problem.features.shape[1] // problem.group_size
    return replace(problem, group_weight=10 ** rng.uniform(-decades, decades, groups))


def assert_certified(problem: Problem, found: sparsesvm.Solution, dtype: torch.dtype, tol: float) -> None:
    problem = replace(problem, features=torch.from_numpy(problem.features).to(dtype).double().numpy())
    certificate = certify(problem, found.weights.numpy(), found.dual.numpy())
    assert certificate.confirms(max(tol, float(found.gap) / certificate.total)), certificate
    assert certificate.primal == pytest.approx(float(found.objective), abs=1e-6 * certificate.total)


@SETTINGS
@given(seed=SEEDS, single=st.booleans())
def test_every_answer_is_certified_by_numpy(seed, single):
    rng = np.random.default_rng(seed)
    problem = weighted(adversarial(rng, max_samples=40, max_features=400), rng)
    dtype = torch.float32 if single else torch.float64
    found = problem.solve(dtype, on_failure="ignore")
    assert bool(found.status == StatusCode.CONVERGED) == bool(found.gap <= 1e-6 * problem.sample_weight.sum())
    assert (reference.group_norms(found.weights, problem.group_size)[~found.active] == 0).all()
    if problem.sample_weight.any():
        assert_certified(problem, found, dtype, 1e-6)


@SETTINGS
@given(seed=SEEDS, single=st.booleans(), sparse=st.booleans())
def test_the_proximal_method_and_sparse_rows(seed, single, sparse):
    rng = np.random.default_rng(seed)
    problem = weighted(weakly_ridged(rng), rng)
    dtype = torch.float32 if single else torch.float64
    found = problem.solve(dtype, sparse=sparse, on_failure="raise")
    assert_certified(problem, found, dtype, 1e-6)


@pytest.mark.parametrize(("lambda2", "dual_reg"), [(0.0, 0.0), (10.0, 0.0), (10.0, 1.0)])
def test_many_samples(rng, lambda2, dual_reg):
    features, labels = episode(rng, 3, 600, 40)
    problem = weighted(Problem(features, labels, 3, 5.0, lambda2, np.ones(600), 2, dual_reg * lambda2), rng)
    found = problem.solve(on_failure="raise")
    assert found.active.any() and not found.active.all()
    assert_certified(problem, found, torch.float64, 1e-6)


@SETTINGS
@given(seed=SEEDS)
def test_ones_change_nothing(seed):
    problem = adversarial(np.random.default_rng(seed), max_samples=30, max_features=100)
    ones = replace(problem, group_weight=np.ones(problem.features.shape[1] // problem.group_size))
    for plain, weighed in zip(problem.solve(on_failure="ignore"), ones.solve(on_failure="ignore"), strict=True):
        torch.testing.assert_close(weighed, plain, rtol=1e-9, atol=1e-9)


@SETTINGS
@given(seed=SEEDS, power=st.integers(-60, 60))
def test_what_counts_is_the_product_with_lambda1(seed, power):
    """Powers of two are exact."""
    rng = np.random.default_rng(seed)
    problem = weighted(adversarial(rng, max_samples=30, max_features=100), rng)
    scale = 2.0**power
    other = replace(problem, lambda1=problem.lambda1 / scale, group_weight=problem.group_weight * scale)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(other.solve(dtype, on_failure="ignore").weights, problem.solve(dtype, on_failure="ignore").weights)


@SETTINGS
@given(seed=SEEDS)
def test_the_largest_useful_penalty_and_shares_of_it(seed):
    rng = np.random.default_rng(seed)
    problem = weighted(adversarial(rng, max_samples=20, max_features=50), rng)
    features, labels = torch.from_numpy(problem.features), torch.from_numpy(problem.labels)
    options = {
        "n_way": problem.n_way,
        "sample_weight": torch.from_numpy(problem.sample_weight),
        "group_size": problem.group_size,
        "group_weight": torch.from_numpy(problem.group_weight),
    }
    bound, exact = (sparsesvm.lambda1_max(features, labels, exact=exact, **options) for exact in (False, True))
    assert exact <= bound * (1 + 1e-6)
    total = problem.sample_weight.sum()
    if exact > 1e-6 * bound:
        problem = replace(problem, lambda2=0.0, dual_reg=0.0)
        above, below = (
            replace(problem, lambda1=share * float(exact)).solve(tol=1e-9, on_failure="ignore") for share in (1 + 1e-6, 1 - 1e-3)
        )
        assert float(above.objective) == pytest.approx(total, rel=1e-8)
        assert below.objective < (1 - 1e-7) * total
    shared = sparsesvm.solve(features, labels, lambda1_ratio=0.3, lambda2=0.1, on_failure="ignore", **options)
    direct = sparsesvm.solve(features, labels, lambda1=0.3 * bound, lambda2=0.1, on_failure="ignore", **options)
    assert (shared.objective - direct.objective).abs() <= shared.gap + direct.gap + 1e-6 * total


def test_groups_of_unequal_size_by_columns_of_zeros(rng):
    """Sizes 1, 2 and 3 padded to 3: no weights of the unpadded features are better, by their own objective."""
    features, labels = episode(rng, 3, 12, 6)
    members, padded = [[0], [1, 2], [3, 4, 5]], np.zeros((12, 9))
    for number, columns in enumerate(members):
        padded[:, 3 * number : 3 * number + len(columns)] = features[:, columns]
    weight = np.sqrt([1.0, 2.0, 3.0])
    problem = Problem(padded, labels, 3, 0.3, 0.1, np.ones(12), 3, group_weight=weight)
    found = problem.solve(tol=1e-12, on_failure="ignore")
    places = [0, 3, 4, 6, 7, 8]
    kept, filled = found.weights[:, places], np.delete(found.weights.numpy(), places, axis=1)
    assert (filled == 0).all()

    def objective(weights):
        scores = torch.from_numpy(features) @ weights.mT
        one_hot = torch.eye(3, dtype=torch.float64)[torch.from_numpy(labels)]
        loss = (1 - one_hot + scores - (scores * one_hot).sum(1, keepdim=True)).amax(1).sum()
        norms = [float(w) * weights[:, columns].norm() for w, columns in zip(weight, members, strict=True)]
        return loss + 0.3 * sum(norms) + 0.05 * weights.square().sum()

    assert float(objective(kept)) == pytest.approx(float(found.objective), abs=1e-10)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(20):
            assert objective(kept + size * torch.from_numpy(rng.normal(size=(3, 6)))) >= found.objective - 1e-10


def test_a_weight_beyond_all_norms_leaves_the_group_out(rng):
    features, labels = episode(rng, 4, 16, 12)
    problem = Problem(features, labels, 4, 0.1, 0.1, np.ones(16), 3, group_weight=np.array([1.0, 1e30, 2.0, 0.5]))
    without = replace(problem, features=np.delete(features, range(3, 6), 1), group_weight=np.array([1.0, 2.0, 0.5]))
    found, expected = (each.solve(tol=1e-12, on_failure="ignore") for each in (problem, without))
    assert not found.active[1]
    torch.testing.assert_close(found.weights[:, [0, 1, 2, *range(6, 12)]], expected.weights, rtol=0, atol=1e-8)


@pytest.mark.parametrize("lambda2", [1e-300, 1e-30])
@pytest.mark.parametrize("max_iter", [0, 1, 2])
def test_a_group_that_costs_nothing_and_hardly_any_ridge_leave_the_dual_feasible(max_iter, lambda2):
    """The start on the dual then lies at the labels, but for rounding."""
    features = torch.tensor([[-0.75, -2.375, -7.6875, -5.5], [-3.0625, 6.25, 0.3125, 1.3125], [4.4375, 7.0625, 4.8125, -6.6875]])
    options = {"sample_weight": torch.tensor([1.96875, 5.125, 2.15625]), "max_iter": max_iter, "on_failure": "ignore"}
    penalties = {"lambda1": 2.84375, "lambda2": lambda2, "group_weight": torch.tensor([1e-300, 0.5625], dtype=torch.float64)}
    found = sparsesvm.solve(features.double(), torch.tensor([1, 3, 0]), n_way=4, group_size=2, **penalties, **options)
    assert (found.dual >= 0).all()


@pytest.mark.parametrize("lambda1", [0.0, 0.2])
@pytest.mark.parametrize("dual_reg", [0.0, 0.5])
@pytest.mark.parametrize("group_size", [1, 5])
def test_gradcheck_of_every_input_in_both_modes(rng, lambda1, dual_reg, group_size):
    features = torch.from_numpy(episode(rng, 4, 8, 10)[0]).requires_grad_()
    weight = torch.from_numpy(rng.uniform(0.5, 2, 8)).requires_grad_()
    penalties = [torch.tensor(value, dtype=torch.float64, requires_grad=value > 0) for value in (lambda1, 0.3)]
    group_weight = torch.from_numpy(rng.uniform(0.5, 1.5, 10 // group_size))

    def weights(features, lambda1, lambda2, sample_weight):
        problem = {"lambda1": lambda1, "lambda2": lambda2, "sample_weight": sample_weight, "group_weight": group_weight}
        # Difference quotients divide errors by 1e-5.
        problem |= {"group_size": group_size, "dual_reg": dual_reg, "n_way": 4, "tol": 1e-15}
        found = sparsesvm.solve(features, LABELS, **problem, on_failure="raise")
        assert found.active.any()
        return found.weights

    arguments = (features, *penalties, weight)
    torch.autograd.gradcheck(
        weights,
        arguments,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        eps=1e-5,
        atol=1e-6,
    )


def test_the_gradient_of_single_precision(rng):
    features = torch.from_numpy(episode(rng, 4, 20, 60)[0])
    labels, cotangent = torch.arange(20) % 4, torch.from_numpy(rng.normal(size=(4, 60)))
    group_weight = torch.from_numpy(rng.uniform(0.3, 3, 60))
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = features.to(dtype).requires_grad_()
        found = sparsesvm.solve(leaf, labels, lambda1_ratio=0.1, lambda2=0.1, n_way=4, group_weight=group_weight)
        assert found.status == StatusCode.CONVERGED
        gradients.append(torch.autograd.grad((found.weights * cotangent.to(dtype)).sum(), leaf)[0].double())
    assert (gradients[0] - gradients[1]).norm() <= 1e-3 * gradients[0].norm()


@SETTINGS
@given(seed=SEEDS)
def test_gradients_are_finite_and_know_only_the_product_with_lambda1(seed):
    """Powers of two are exact."""
    rng = np.random.default_rng(seed)
    problem = weighted(adversarial(rng, max_samples=15, max_features=60), rng)
    features, labels = torch.from_numpy(problem.features).requires_grad_(), torch.from_numpy(problem.labels)
    gradients = []
    for scale in (1.0, 0.25):
        lambda1 = torch.tensor(problem.lambda1 / scale, dtype=torch.float64, requires_grad=True)
        found = sparsesvm.solve(
            features,
            labels,
            lambda1=lambda1,
            lambda2=problem.lambda2,
            n_way=problem.n_way,
            sample_weight=torch.from_numpy(problem.sample_weight),
            group_size=problem.group_size,
            group_weight=scale * torch.from_numpy(problem.group_weight),
            dual_reg=problem.dual_reg,
            on_failure="ignore",
        )
        if found.status != StatusCode.CONVERGED:
            return
        by_features, by_lambda1 = torch.autograd.grad(found.weights.square().sum(), (features, lambda1))
        assert by_features.isfinite().all() and by_lambda1.isfinite()
        gradients.append((by_features, by_lambda1 / scale))
    assert torch.equal(gradients[0][0], gradients[1][0]) and torch.equal(gradients[0][1], gradients[1][1])


def test_no_gradient_of_its_own(rng):
    features = torch.from_numpy(episode(rng, 4, 8, 10)[0])
    weight = torch.ones(10, dtype=torch.float64, requires_grad=True)
    options = {"lambda1": 0.1, "lambda2": 0.1, "n_way": 4}
    for call in (sparsesvm.solve, sparsesvm.lambda1_max):
        given = options if call is sparsesvm.solve else {"n_way": 4}
        with pytest.raises(NotImplementedError, match=r"group_weight has no gradient.*group_weight\.detach\(\)"):
            call(features, LABELS, group_weight=weight, **given)
        with torch.no_grad():
            call(features, LABELS, group_weight=weight, **given)
    with pytest.raises(NotImplementedError, match="group_weight has no gradient"):
        torch.func.jvp(
            lambda w: sparsesvm.solve(features, LABELS, group_weight=w, **options).weights, (weight.detach(),), (weight.detach(),)
        )
    with pytest.raises(NotImplementedError, match="group_weight has no gradient"):
        torch.func.grad(lambda w: sparsesvm.solve(features, LABELS, group_weight=w, **options).weights.sum())(weight.detach())


@pytest.mark.parametrize(
    ("group_weight", "error", "message"),
    [
        ([1.0] * 10, TypeError, "group_weight must be a torch.Tensor; got list. Convert with torch.as_tensor"),
        (torch.ones(10, dtype=torch.int64), TypeError, "group_weight must be a floating-point tensor; got torch.int64"),
        (torch.ones(9), ValueError, r"group_weight must have shape \(10,\) to match features \(8, 10\); got \(9,\)"),
        (torch.zeros(10), ValueError, "group_weight must be positive and finite; got 0"),
        (-torch.ones(10), ValueError, "group_weight must be positive and finite; got -1"),
        (torch.full((10,), float("nan")), ValueError, "group_weight must be positive and finite; got nan"),
        (torch.full((10,), float("inf")), ValueError, "group_weight must be positive and finite; got inf"),
    ],
)
def test_errors(rng, group_weight, error, message):
    features = torch.from_numpy(episode(rng, 4, 8, 10)[0])
    for call in (sparsesvm.solve, sparsesvm.duality_gap, sparsesvm.regularization_path, sparsesvm.lambda1_max):
        options = {"lambda2": 0.1, "n_way": 4, "group_weight": group_weight}
        if call in (sparsesvm.solve, sparsesvm.duality_gap):
            options["lambda1"] = 0.1
        if call is sparsesvm.duality_gap:
            options["dual"] = torch.full((8, 4), 0.25)
        with pytest.raises(error, match=message):
            call(features, LABELS, **options)


def test_tasks_share_the_weights_also_when_mapped_compiled_and_exported(rng):
    features = torch.stack([torch.from_numpy(episode(rng, 4, 8, 10)[0]) for _ in range(6)]).reshape(2, 3, 8, 10)
    labels, weight = LABELS.expand(2, 3, -1), torch.from_numpy(rng.uniform(0.5, 2, 10))

    def solve_tasks(features, labels, group_weight):
        options = {"lambda1_ratio": 0.2, "lambda2": 0.1, "n_way": 4, "on_failure": "ignore"}
        return sparsesvm.solve(features, labels, group_weight=group_weight, **options).weights

    expected = solve_tasks(features, labels, weight)
    for i in range(2):
        for j in range(3):
            assert torch.equal(solve_tasks(features[i, j], LABELS, weight), expected[i, j])
    mapped = torch.func.vmap(torch.func.vmap(solve_tasks, (0, 0, None)), (0, 0, None))
    assert torch.equal(mapped(features, labels, weight), expected)
    several = torch.stack([weight, 2 * weight])
    each = torch.func.vmap(solve_tasks)(features[:, 0], labels[:, 0], several)
    assert torch.equal(each[1], solve_tasks(features[1, 0], LABELS, several[1]))
    assert torch.equal(torch.compile(solve_tasks, fullgraph=True, backend="eager")(features, labels, weight), expected)
    rows = torch.func.jacrev(solve_tasks)(features[0, 0], LABELS, weight)
    columns = torch.func.jacfwd(solve_tasks)(features[0, 0], LABELS, weight)
    torch.testing.assert_close(rows, columns, rtol=0, atol=1e-8)


def test_the_operators_take_weights_and_numbers_of_classes(rng):
    features = torch.stack([torch.from_numpy(episode(rng, way, 8, 10)[0]) for way in (4, 2)])
    inputs = (
        features,
        torch.arange(8) % torch.tensor([[4], [2]]),
        torch.ones(2, 8).double(),
        *[torch.full((2,), 0.1).double()] * 2,
    )
    others = torch.from_numpy(rng.uniform(0.5, 2, 10)).expand(2, -1), torch.tensor([4, 2])
    options = (4, 1, 0.0, 1e-9, 100, "raise", False)
    torch.library.opcheck(_ops.solve_op, (*inputs, None, None, *options, *others))
    found = _ops.solve(*inputs, None, None, *options, *others)
    point = (*inputs, found[0], found[1], found[5])
    torch.library.opcheck(_ops.vjp_op, (*point, torch.ones_like(found[0]), 1, 0.0, *others))
    torch.library.opcheck(_ops.jvp_op, (*point, features, *inputs[2:], 1, 0.0, *others))


def test_a_path_and_its_certificates(rng):
    features, labels = episode(rng, 4, 20, 30)
    weight, penalty = rng.uniform(0.5, 2, 10), 0.1
    options = {"n_way": 4, "group_size": 3, "group_weight": torch.from_numpy(weight)}
    arguments = torch.from_numpy(features), torch.from_numpy(labels)
    path = sparsesvm.regularization_path(*arguments, lambda2=penalty, n_lambdas=6, **options)
    torch.testing.assert_close(path.lambda1[0], sparsesvm.lambda1_max(*arguments, **options), rtol=1e-6, atol=0)
    assert not path.solution.active[0].any()
    for step, lambda1 in enumerate(path.lambda1.tolist()):
        problem = Problem(features, labels, 4, lambda1, penalty, np.ones(20), 3, group_weight=weight)
        weights, dual = path.solution.weights[step], path.solution.dual[step]
        assert certify(problem, weights, dual).confirms(1e-6)
        gap = sparsesvm.duality_gap(*arguments, weights, dual=dual, lambda1=lambda1, lambda2=penalty, **options)
        assert float(gap) == pytest.approx(float(path.solution.gap[step]), abs=1e-8)


@pytest.mark.parametrize("intercept", [False, True])
def test_the_head_takes_them(rng, intercept):
    support = torch.from_numpy(episode(rng, 4, 20, 30)[0]).float() + 0.1
    labels, weight = torch.arange(20) % 4, torch.ones(30)
    head = SparseSVMHead(0.2, group_weight=weight, intercept=intercept)
    plain = SparseSVMHead(0.2, intercept=intercept)
    torch.testing.assert_close(head(support, support, labels), plain(support, support, labels), rtol=1e-4, atol=1e-4)
    weight = torch.cat([torch.ones(15), torch.full((15,), 50.0)])
    head = SparseSVMHead(0.2, group_weight=weight, intercept=intercept)
    fitted = head.fit(support, labels)
    assert head.last_solution.active[:15].any() and not head.last_solution.active[15:].any()
    assert fitted.weights[:, 15:].abs().max() == 0
    assert "group_weight" not in head.state_dict()
    scaled = SparseSVMHead(0.2, group_weight=1e-3 * weight, intercept=intercept)
    torch.testing.assert_close(scaled(support, support, labels), head(support, support, labels), rtol=1e-4, atol=1e-3)
