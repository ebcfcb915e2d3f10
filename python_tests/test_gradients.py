"""The derivative of the weights: against finite differences, the differentiable twin and itself, also where it is delicate."""

from __future__ import annotations

import pytest
import torch

import sparsesvm
from benchmarks import gradient_accuracy
from benchmarks.problems import episode
from sparsesvm import reference

LABELS = torch.arange(8) % 4


def inputs(rng, n_features=10, n_samples=8, n_way=4):
    features, _ = episode(rng, n_way, n_samples, n_features)
    weight = torch.from_numpy(rng.uniform(0.5, 2, n_samples))
    return torch.from_numpy(features).requires_grad_(), weight.requires_grad_()


def weights(features, lambda1, lambda2, sample_weight, labels=LABELS, **options):
    found = sparsesvm.solve(
        features,
        labels,
        lambda1=lambda1,
        lambda2=lambda2,
        sample_weight=sample_weight,
        n_way=4,
        tol=1e-14,  # difference quotients divide the error of the weights by their step
        on_failure="raise",
        **options,
    )
    return found.weights


@pytest.mark.parametrize("lambda1", [0.0, 0.2])
@pytest.mark.parametrize("dual_reg", [0.0, 0.5])
@pytest.mark.parametrize("group_size", [1, 5])
def test_gradcheck_of_every_input_in_both_modes(rng, lambda1, dual_reg, group_size):
    features, weight = inputs(rng)
    penalties = [torch.tensor(value, dtype=torch.float64, requires_grad=value > 0) for value in (lambda1, 0.3)]
    torch.autograd.gradcheck(
        lambda *arguments: weights(*arguments, group_size=group_size, dual_reg=dual_reg),
        (features, *penalties, weight),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        eps=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("lambda1", [0.0, 0.15])
def test_agreement_with_the_twin_differentiated_through_its_iterations(rng, lambda1):
    features, _ = inputs(rng)
    found = sparsesvm.solve(features, LABELS, lambda1=lambda1, lambda2=0.3, tol=1e-12)
    cotangent = torch.from_numpy(rng.normal(size=(4, 10)))
    (ours,) = torch.autograd.grad((found.weights * cotangent).sum(), features)
    problem = reference.make_problem(features, LABELS, lambda1=lambda1, lambda2=0.3, n_way=4)
    unrolled = reference.unrolled_weights(problem, found.dual, n_steps=3000)
    (theirs,) = torch.autograd.grad((unrolled * cotangent).sum(), features)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


def test_forward_and_backward_are_transposed(rng):
    features, weight = inputs(rng, 40, 20)
    labels = torch.arange(20) % 4
    primals = (features.detach(), torch.tensor(0.3).double(), torch.tensor(0.1).double(), weight.detach())
    tangents = tuple(torch.from_numpy(rng.normal(size=tuple(p.shape))) for p in primals)

    def solve(*arguments):
        return weights(*arguments, labels=labels)

    _, moved = torch.func.jvp(solve, primals, tangents)
    cotangent = torch.from_numpy(rng.normal(size=(4, 40)))
    _, pullback = torch.func.vjp(solve, *primals)
    pulled = pullback(cotangent)
    inner = sum(float((a * b).sum()) for a, b in zip(pulled, tangents, strict=True))
    assert inner == pytest.approx(float((moved * cotangent).sum()), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_features_have_a_finite_gradient_at_lambda1_zero(rng, dtype):
    features, _ = inputs(rng)
    features = features.detach().to(dtype)
    features[:, 3] = 0
    features.requires_grad_()
    found = sparsesvm.solve(features, LABELS, lambda1=0.0, lambda2=0.3, tol=1e-9)
    found.weights[0, 3].backward()
    assert features.grad.isfinite().all()
    assert features.grad[0, 3] != 0
    step = torch.zeros(8, 10, dtype=torch.float64)
    step[0, 3] = 1e-4
    for sign in (1, -1):
        moved = features.detach().double() + sign * step
        after = sparsesvm.solve(moved, LABELS, lambda1=0.0, lambda2=0.3, tol=1e-13).weights  # before it was zero
        assert float(after[0, 3]) / (sign * 1e-4) == pytest.approx(float(features.grad[0, 3]), rel=1e-2)


def test_no_gradient_where_all_weights_are_zero(rng):
    features, weight = inputs(rng)
    bound = sparsesvm.lambda1_max(features.detach(), LABELS, sample_weight=weight.detach())
    lambda1 = (1.1 * bound).requires_grad_()
    weights(features, lambda1, 0.3, weight).sum().backward()
    assert (features.grad == 0).all()
    assert (weight.grad == 0).all()
    assert lambda1.grad == 0


def test_rows_all_at_vertices(rng):
    """With a tiny lambda1 and a huge lambda2 no margin is reached: the weights are linear in the sum of features per class."""
    features, weight = inputs(rng)
    labels = torch.arange(8) % 2
    found = sparsesvm.solve(features, labels, lambda1=0.0, lambda2=100.0, n_way=2, sample_weight=weight, tol=1e-12)
    assert ((found.dual == 0) | (found.dual == 1)).all()
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64)
    expected = (weight[:, None] * sign[labels][:, None] * features).sum(0) / 100 * sign[:, None]
    cotangent = torch.from_numpy(rng.normal(size=(2, 10)))
    ours = torch.autograd.grad((found.weights * cotangent).sum(), (features, weight))
    theirs = torch.autograd.grad((expected * cotangent).sum(), (features, weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_singular_reduced_system_has_a_symmetric_minimum_norm_answer(rng):
    """Two copies of every row: the dual is not unique, the weights are, and moving both copies together has a derivative."""
    features, _ = inputs(rng)
    twice = features.detach().repeat(2, 1).requires_grad_()
    labels = LABELS.repeat(2)
    cotangent = torch.from_numpy(rng.normal(size=(4, 10)))
    found = sparsesvm.solve(twice, labels, lambda1=0.2, lambda2=0.3, tol=1e-12)
    (gradient,) = torch.autograd.grad((found.weights * cotangent).sum(), twice)
    once = sparsesvm.solve(features, LABELS, lambda1=0.2, lambda2=0.3, sample_weight=2 * torch.ones(8), tol=1e-12)
    (expected,) = torch.autograd.grad((once.weights * cotangent).sum(), features)
    torch.testing.assert_close(gradient[:8] + gradient[8:], expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def gradient_of(features, labels, n_way, cotangent, **penalties):
    leaf = features.clone().requires_grad_()
    found = sparsesvm.solve(leaf, labels, n_way=n_way, **penalties)
    (gradient,) = torch.autograd.grad((found.weights * cotangent.to(features.dtype)).sum(), leaf)
    return gradient.double()


@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("size", [(5, 5, 640), (5, 25, 1600)])
@pytest.mark.parametrize("lambda2", [0.1, 1.0])
def test_centred_features_have_the_same_gradient_in_both_types(rng, size, ratio, lambda2):
    """The dual is free along the all-ones direction where the face allows it; rounding of float32 must not tilt that."""
    features, labels = (torch.from_numpy(a) for a in episode(rng, *size))
    features = features - features.mean(0)
    cotangent = torch.from_numpy(rng.normal(size=(size[0], size[2])))
    penalties = {"lambda1": float(ratio * sparsesvm.lambda1_max(features, labels)), "lambda2": lambda2}
    double = gradient_of(features, labels, size[0], cotangent, **penalties)
    single = gradient_of(features.float(), labels, size[0], cotangent, **penalties)
    assert float((single - double).norm()) < 1e-5 * float(double.norm())


def test_of_many_derivatives_the_smallest_is_returned(rng):
    """Features whose samples sum to zero, and two copies of each: copies share the gradient, which sums to zero too where the
    dual is free along the all-ones direction."""
    features, labels = (torch.from_numpy(a) for a in episode(rng, 5, 5, 640))
    features = features - features.mean(0)
    cotangent = torch.from_numpy(rng.normal(size=(5, 640)))
    gradient = gradient_of(features, labels, 5, cotangent, lambda1=0.02, lambda2=0.02)
    found = sparsesvm.solve(features, labels, lambda1=0.02, lambda2=0.02)
    assert (found.dual > 0).all()
    assert float(gradient.sum(0).norm()) < 1e-10 * float(gradient.norm())
    twice = gradient_of(features.repeat(2, 1), labels.repeat(2), 5, cotangent, lambda1=0.04, lambda2=0.04)
    assert float((twice[:5] - twice[5:]).norm()) < 1e-10 * float(twice.norm())
    torch.testing.assert_close(twice[:5] + twice[5:], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("rank", [1, 3])
def test_forward_and_backward_are_transposed_where_the_derivative_is_not_unique(rng, rank):
    features = torch.from_numpy(rng.normal(size=(12, rank)) @ rng.normal(size=(rank, 10)))
    features = torch.cat((features, features[:4], torch.zeros(2, 10)))
    labels = torch.arange(18) % 4
    primals = (features, torch.tensor(0.3).double(), torch.tensor(5.0).double(), torch.from_numpy(rng.uniform(0.5, 2, 18)))
    tangents = tuple(torch.from_numpy(rng.normal(size=tuple(p.shape))) for p in primals)

    def solve(*arguments):
        return weights(*arguments, labels=labels)

    _, moved = torch.func.jvp(solve, primals, tangents)
    cotangent = torch.from_numpy(rng.normal(size=(4, 10)))
    pulled = torch.func.vjp(solve, *primals)[1](cotangent)
    inner = sum(float((a * b).sum()) for a, b in zip(pulled, tangents, strict=True))
    assert inner == pytest.approx(float((moved * cotangent).sum()), rel=1e-9)


def test_at_a_kink_the_derivative_is_one_of_the_two_sides(rng):
    """A group exactly on its threshold: the derivative with respect to lambda1 is the one for lambda1 a little larger."""
    features, _ = inputs(rng)
    exact = sparsesvm.lambda1_max(features.detach(), LABELS).item()
    lambda1 = torch.tensor(exact * 1.0, dtype=torch.float64, requires_grad=True)
    found = sparsesvm.solve(features, LABELS, lambda1=lambda1, lambda2=0.3)
    (gradient,) = torch.autograd.grad(found.weights.square().sum(), lambda1)
    assert gradient == 0


def test_a_learnt_zero_weight_has_a_gradient(rng):
    """A sample of weight zero that violates its margin would change the weights if it came in."""
    features, _ = inputs(rng)
    weight = torch.ones(8, dtype=torch.float64)
    weight[0] = 0
    weight.requires_grad_()
    cotangent = torch.from_numpy(rng.normal(size=(4, 10)))
    (gradient,) = torch.autograd.grad((weights(features, 0.1, 0.3, weight) * cotangent).sum(), weight)
    with torch.no_grad():
        step = torch.zeros(8, dtype=torch.float64)
        step[0] = 1e-6
        change = ((weights(features, 0.1, 0.3, weight + step) - weights(features, 0.1, 0.3, weight)) * cotangent).sum() / 1e-6
    assert float(change) == pytest.approx(float(gradient[0]), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("lambda1", [0.0, 0.2])
def test_an_absent_sample_has_a_gradient_of_zero_and_changes_no_other(rng, lambda1):
    features, labels = (torch.from_numpy(a) for a in episode(rng, 3, 9, 300))
    weight = torch.ones(10, dtype=torch.float64)
    weight[4] = 0
    padded = torch.cat((features[:4], torch.full((1, 300), torch.nan).double(), features[4:]))
    options = {"lambda1": lambda1, "lambda2": 0.3, "n_way": 3}
    cotangent = torch.from_numpy(rng.normal(size=(3, 300)))
    leaf, short = padded.requires_grad_(), features.requires_grad_()
    found = sparsesvm.solve(leaf, torch.cat((labels[:4], labels[:1], labels[4:])), sample_weight=weight, **options)
    (gradient,) = torch.autograd.grad((found.weights * cotangent).sum(), leaf)
    (expected,) = torch.autograd.grad((sparsesvm.solve(short, labels, **options).weights * cotangent).sum(), short)
    assert (gradient[4] == 0).all()
    assert torch.equal(torch.cat((gradient[:4], gradient[5:])), expected)


def test_second_derivatives_raise(rng):
    features, weight = inputs(rng)
    (gradient,) = torch.autograd.grad(weights(features, 0.2, 0.3, weight).square().sum(), features, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        gradient.sum().backward()


def test_the_gradient_of_an_unconverged_task_warns(rng):
    features, labels = episode(rng, 5, 50, 100)
    features = torch.from_numpy(features).requires_grad_()
    found = sparsesvm.solve(
        features, torch.from_numpy(labels), lambda1_ratio=0.1, lambda2=0.01, tol=1e-10, max_iter=1, on_failure="ignore"
    )
    with pytest.warns(sparsesvm.ConvergenceWarning):
        found.weights.sum().backward()


@pytest.mark.parametrize("dtype, bar", [(torch.float32, 1e-4), (torch.float64, 1e-5)])
def test_gradients_at_the_default_tolerance_are_exact_also_close_to_lambda1_max(rng, dtype, bar):
    for size, ratio in [((5, 25, 1600), 0.5), ((5, 25, 1600), 0.9), ((5, 75, 640), 0.95), ((5, 5, 640), 0.95)]:
        features, labels = (torch.from_numpy(a) for a in episode(rng, *size))
        features = features.float().double()
        cotangent = torch.from_numpy(rng.normal(size=(size[0], size[2])))
        lambda1 = float(ratio * sparsesvm.lambda1_max(features, labels, exact=True))
        exact = gradient_of(features, labels, size[0], cotangent, lambda1=lambda1, lambda2=0.1, tol=1e-12)
        found = gradient_of(features.to(dtype), labels, size[0], cotangent, lambda1=lambda1, lambda2=0.1)
        assert float((found - exact).norm()) < bar * float(exact.norm())


@pytest.mark.parametrize("seed", [9446, 9419])
def test_gradients_are_exact_where_newton_steps_on_the_dual_slow_down(seed):
    """Just below lambda1_max with strong ridge: the gap at tol is all that the weights gain, and faces change with every step."""
    case = gradient_accuracy.draw(seed, gradient_accuracy.SIZES, gradient_accuracy.SHARES)
    exact, _ = gradient_accuracy.gradient(case, case.features, 1e-12)
    for dtype, bar in gradient_accuracy.BARS.items():
        found, status = gradient_accuracy.gradient(case, case.features.to(dtype))
        assert status == sparsesvm.StatusCode.CONVERGED
        assert float((found - exact).norm()) < bar * float(exact.norm())


def test_copies_that_share_their_dual_unequally_are_not_identified(rng):
    """The weights are certified all the same: no warning."""
    features, _ = inputs(rng)
    twice = features.detach().repeat(2, 1)
    options = {"lambda1": 0.2, "lambda2": 0.3, "n_way": 4, "tol": 1e-12}
    assert sparsesvm.solve(twice, LABELS.repeat(2), **options).status == sparsesvm.StatusCode.CONVERGED
    found = sparsesvm.solve(twice.requires_grad_(), LABELS.repeat(2), **options)
    assert found.status == sparsesvm.StatusCode.NOT_IDENTIFIED
    found.weights.sum().backward()


def test_no_weights_above_lambda1_max_are_identified(rng):
    features, _ = inputs(rng)
    for ratio in (1.01, 1.5):
        lambda1 = float(ratio * sparsesvm.lambda1_max(features.detach(), LABELS, exact=True))
        found = sparsesvm.solve(features, LABELS, lambda1=lambda1, lambda2=0.3)
        assert found.status == sparsesvm.StatusCode.CONVERGED and not found.active.any()
