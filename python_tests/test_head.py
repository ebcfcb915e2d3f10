"""The heads: one call, standardisation, padding, and what each of them is by definition."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import sparsesvm
from benchmarks.problems import episode
from sparsesvm import FittedHead, PrototypeHead, RidgeHead, SparseSVMHead

HEADS = [
    SparseSVMHead,
    lambda: SparseSVMHead(0.0),
    lambda: SparseSVMHead(0.2, refit=True),
    lambda: SparseSVMHead(0.1, intercept=True),
    lambda: SparseSVMHead(0.1, intercept=True, refit=True, dual_reg=1.0),
    lambda: SparseSVMHead(0.1, refit=True, max_active=0.4, normalize="each"),
    lambda: SparseSVMHead(0.01, dual_reg=1.0, refit="ridge", max_active=0.4),
    RidgeHead,
    PrototypeHead,
    lambda: PrototypeHead(normalize="each"),
]


@pytest.fixture
def data(rng):
    features, labels = episode(rng, 5, 40, 60)
    features, labels = torch.from_numpy(features).float(), torch.from_numpy(labels)
    return features[15:], features[:15], labels[:15], labels[15:]


@pytest.mark.parametrize("make", HEADS)
def test_heads_are_interchangeable_and_learn(data, make):
    query, support, support_labels, query_labels = data
    head = make()
    logits = head(query, support, support_labels, 5, 3)
    assert logits.shape == (25, 5)
    assert (logits.argmax(-1) == query_labels).float().mean() > 0.5
    fitted = head.fit(support, support_labels)
    assert torch.equal(fitted.predict(query), logits.argmax(-1))
    torch.testing.assert_close(fitted.decision_function(query), logits)


@pytest.mark.parametrize("make", HEADS)
def test_gradients_reach_query_support_and_scale(data, make):
    query, support, labels, query_labels = data
    query, support = query.clone().requires_grad_(), support.clone().requires_grad_()
    head = make()
    torch.nn.functional.cross_entropy(head(query, support, labels, 5), query_labels).backward()
    for tensor in (query, support, head.log_scale):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0


@pytest.mark.parametrize("make", HEADS)
def test_padding_and_leading_dimensions(data, make):
    query, support, labels, _ = data
    head = make()
    alone = head(query, support, labels, 5)
    padded = torch.cat([support, torch.full((2, 60), float("nan"))])
    weight = torch.cat([torch.ones(15), torch.zeros(2)])
    batched = head(
        query.expand(2, 3, 25, 60),
        padded.expand(2, 3, 17, 60),
        torch.cat([labels, labels[:2]]).expand(2, 3, 17),
        5,
        sample_weight=weight.expand(2, 3, 17),
    )
    assert batched.shape == (2, 3, 25, 5)
    torch.testing.assert_close(batched[1, 2], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", HEADS)
def test_shift_and_scale_of_the_features_do_not_matter(data, make):
    query, support, labels, _ = (part.double() if part.is_floating_point() else part for part in data)
    head = make()
    torch.testing.assert_close(
        head(7 * query + 3, 7 * support + 3, labels, 5), head(query, support, labels, 5), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("make", HEADS)
def test_identical_support_samples_do_not_break_anything(make):
    support = torch.ones(4, 6, requires_grad=True)
    head = make()
    head(torch.ones(3, 6), support, torch.tensor([0, 1, 0, 1]), 2).sum().backward()
    assert support.grad.isfinite().all()


def test_the_sparse_head_is_the_solver_on_standardised_features(data):
    query, support, labels, _ = (part.double() if part.is_floating_point() else part for part in data)
    head = SparseSVMHead(0.2, lambda2=0.3, scale=1.0, learn_scale=False)
    mean = support.mean(0)
    norm = (support - mean).square().sum(-1).mean().sqrt()
    found = sparsesvm.solve((support - mean) / norm, labels, lambda1_ratio=0.2, lambda2=0.3)
    torch.testing.assert_close(head(query, support, labels), sparsesvm.decision_function((query - mean) / norm, found.weights))
    assert torch.equal(head.last_solution.active, found.active)
    assert not head.last_solution.weights.requires_grad


def test_refit_keeps_the_selected_features_and_drops_the_shrinkage(data):
    _, support, labels, _ = data
    sparse, refitted = SparseSVMHead(0.3), SparseSVMHead(0.3, refit=True)
    first, second = sparse.fit(support, labels).weights, refitted.fit(support, labels).weights
    used = (first != 0).any(0)
    assert 0 < used.sum() < 60
    assert not (second[:, ~used] != 0).any()
    mean = support.mean(0)
    norm = (support - mean).square().sum(-1).mean().sqrt()
    expected = sparsesvm.solve((support - mean) / norm * used, labels, lambda1=0.0, lambda2=0.1).weights
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-3)


def test_ridge_is_the_minimiser_of_its_objective(data):
    _, support, labels, _ = (part.double() if part.is_floating_point() else part for part in data)
    weight = torch.rand(15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fitted = RidgeHead(lambda2=0.3, center=False, normalize=False).fit(support, labels, sample_weight=weight)
    residual = support @ fitted.weights.T - (torch.eye(5, dtype=torch.float64)[labels] - 0.2)
    gradient = (weight[:, None] * residual).T @ support + 0.3 * fitted.weights
    assert gradient.abs().max() < 1e-10


def test_prototype_logits_are_minus_squared_distances_up_to_the_query(data):
    query, support, labels, _ = data
    head = PrototypeHead(center=False, normalize=False, scale=1.0)
    prototypes = torch.stack([support[labels == label].mean(0) for label in range(5)])
    expected = query.square().sum(-1, keepdim=True) - torch.cdist(query, prototypes).square()
    torch.testing.assert_close(head(query, support, labels, 5), expected, rtol=1e-3, atol=1e-3)


def test_a_class_without_support_is_never_predicted(data):
    query, support, labels, _ = data
    for head in (PrototypeHead(), SparseSVMHead(0.1)):
        assert head(query, support, labels, 7).shape == (25, 7)
    assert PrototypeHead().fit(support, labels, 7).predict(query).max() < 5


def test_copies_and_states_leave_the_last_solution_behind(data):
    query, support, labels, _ = data
    head = SparseSVMHead(0.1, learn_penalties=True)
    head(query, support, labels)
    assert copy.deepcopy(head).last_solution is None
    assert set(head.state_dict()) == {"log_scale", "log_lambda1_ratio", "log_lambda2"}
    other = SparseSVMHead(0.5, lambda2=3.0, learn_penalties=True)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other(query, support, labels), head(query, support, labels))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SparseSVMHead(0.1, lambda1=1.0), "lambda1 or lambda1_ratio, not both"),
        (lambda: SparseSVMHead(1.5), r"lambda1_ratio must lie in \[0, 1\]; got 1.5"),
        (lambda: SparseSVMHead(lambda1=-1.0), "lambda1 must be >= 0"),
        (lambda: SparseSVMHead(lambda2=0.0), "lambda2 must be positive"),
        (lambda: RidgeHead(lambda2=-1.0), "lambda2 must be positive"),
        (lambda: PrototypeHead(scale=0.0), "scale must be positive"),
        (lambda: SparseSVMHead(max_active=0.5), r"max_active must lie in \(0, 1\], and less than 1 needs refit; got 0.5"),
        (lambda: SparseSVMHead(refit="svm"), 'refit must be True, False or "ridge"; got .svm.'),
        (lambda: SparseSVMHead(refit="ridge"), r'refit="ridge" takes its penalty from dual_reg.*got dual_reg=0.0'),
        (lambda: SparseSVMHead(refit="ridge", dual_reg=1.0, learn_penalties=True), "no gradient for learn_penalties"),
        (lambda: SparseSVMHead(class_weight="even"), 'class_weight must be "balanced" or None; got .even.'),
        (lambda: SparseSVMHead(refit="ridge", dual_reg=1.0, intercept=True), 'refit="ridge" fits no intercept'),
        (lambda: SparseSVMHead(refit=True, max_active=1.5), r"max_active must lie in \(0, 1\].*got 1.5"),
        (lambda: SparseSVMHead(refit=True, max_active=0.0), "max_active must be positive"),
        (lambda: RidgeHead(normalize="all"), r"normalize must be True, False or \"each\"; got 'all'"),
        (lambda: SparseSVMHead(lambda2=float("nan")), "lambda2 must be positive and finite; got nan"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_n_shot_is_checked(data):
    query, support, labels, _ = data
    with pytest.raises(ValueError, match=r"n_way \* n_shot = 5 \* 2 samples; got 15"):
        SparseSVMHead()(query, support, labels, 5, 2)


@pytest.mark.parametrize("make", HEADS)
def test_copies_pickles_and_conversions_compute_the_same(data, make):
    query, support, labels, _ = data
    head = make()
    expected = head(query, support, labels)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), copy.deepcopy(head).double()):
        torch.testing.assert_close(twin(query, support, labels), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_logits_have_the_type_of_the_query(data, make, dtype):
    query, support, labels, _ = data
    assert make()(query.to(dtype), support, labels).dtype == dtype
    assert make()(query, support.to(dtype), labels).dtype == torch.float32
    assert make()(query[:0], support, labels).shape == (0, 5)


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("support_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("query_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_class_without_samples_has_finite_logits_losses_and_gradients(data, make, support_type, query_type):
    query, support, labels, query_labels = data
    leaf, head = query.to(query_type).requires_grad_(), make()
    logits = head(leaf, support.to(support_type), labels, 6)
    assert logits.isfinite().all()
    logits = logits.to(torch.promote_types(query_type, torch.float32))
    loss = torch.nn.functional.cross_entropy(logits, query_labels, label_smoothing=0.1)
    loss.backward()
    assert loss.isfinite()
    assert leaf.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
    assert (head.fit(support.to(support_type), labels, 6).predict(leaf) < 5).all()


def test_classes_that_half_precision_cannot_tell_apart_are_predicted_rightly():
    support = torch.tensor([[100.0, 0], [0, 100]])
    fitted = PrototypeHead(center=False, normalize=False, scale=100.0).fit(support, torch.arange(2))
    query = torch.tensor([[90.0, 80], [80, 90]]).half()
    assert fitted.decision_function(query).isfinite().all()
    assert fitted.predict(query).tolist() == [0, 1]


def test_refit_has_the_gradient_of_the_selected_features_alone(data):
    _, support, labels, _ = (part.double() if part.is_floating_point() else part for part in data)
    head = SparseSVMHead(0.3, refit=True, center=False, normalize=False, tol=1e-11)
    leaf = support.clone().requires_grad_()
    head.fit(leaf, labels).weights.square().sum().backward()
    used = sparsesvm.solve(support, labels, lambda1_ratio=0.3, lambda2=0.1, tol=1e-11).active
    alone = support[:, used].clone().requires_grad_()
    sparsesvm.solve(alone, labels, lambda1=0.0, lambda2=0.1, tol=1e-11).weights.square().sum().backward()
    assert 0 < used.sum() < 60
    assert (leaf.grad[:, ~used] == 0).all()
    torch.testing.assert_close(leaf.grad[:, used], alone.grad, rtol=1e-5, atol=1e-6 * float(alone.grad.abs().max()))


@pytest.mark.parametrize("group_size", [1, 3])
def test_ridge_refit_is_the_ridge_head_on_the_selected_features(data, group_size):
    query, support, labels, query_labels = (part.double() if part.is_floating_point() else part for part in data)
    weight = torch.tensor([1.0] * 13 + [0.5, 0.0], dtype=torch.float64)
    options = {"center": False, "normalize": False}
    # 13.5 / 5 shots
    settings = {"refit": "ridge", "max_active": 0.4, "group_size": group_size, "class_weight": None}
    head = SparseSVMHead(0.005, dual_reg=2.7 * 0.7, **settings, **options)
    leaf = support.clone().requires_grad_()
    logits = head(query, leaf, labels, 5, sample_weight=weight)
    torch.nn.functional.cross_entropy(logits, query_labels).backward()
    kept = head.last_solution.active.repeat_interleave(group_size)
    assert kept.sum() == 24
    alone = support[:, kept].clone().requires_grad_()
    expected = RidgeHead(lambda2=0.7, **options)(query[:, kept], alone, labels, 5, sample_weight=weight)
    torch.nn.functional.cross_entropy(expected, query_labels).backward()
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(leaf.grad[:, kept], alone.grad)
    assert (leaf.grad[:, ~kept] == 0).all()


def test_ridge_refit_is_the_svm_whose_bounds_are_idle(data):
    one_each = torch.stack([(data[2] == label).nonzero()[0, 0] for label in range(5)])
    support, labels = data[1].double()[one_each], data[2][one_each]
    heads = [SparseSVMHead(0.001, dual_reg=50.0, refit=refit, max_active=0.5, tol=1e-12) for refit in (True, "ridge")]
    svm, ridge = (head.fit(support, labels).weights for head in heads)
    assert torch.equal(heads[0].last_solution.active, heads[1].last_solution.active)
    assert heads[0].last_solution.dual.min() > 0  # no bound holds
    torch.testing.assert_close(svm, ridge, rtol=1e-5, atol=1e-8)
    # Its certificate is that of the selection.
    assert heads[1].last_solution.gap <= 1e-12 * 5


def test_a_ridge_refit_of_more_shots_has_a_smaller_penalty(data):
    query, support, labels, _ = data
    head = SparseSVMHead(0.001, dual_reg=0.6, refit="ridge", center=False, normalize=False)
    weights = torch.stack([torch.ones(15), 2 * torch.ones(15), torch.zeros(15)])
    tasks = (part.expand(3, *part.shape) for part in (query, support, labels))
    once, twice, never = head(*tasks, 5, sample_weight=weights)
    torch.testing.assert_close(once, RidgeHead(lambda2=0.2, center=False, normalize=False)(query, support, labels, 5))
    torch.testing.assert_close(once, head(query, support, labels, 5))
    torch.testing.assert_close(twice, head(query, support.repeat(2, 1), labels.repeat(2), 5))
    assert (never == 0).all()


@pytest.mark.parametrize("group_size", [1, 3])
def test_max_active_keeps_the_largest_weights(data, group_size):
    _, support, labels, _ = (part.double() if part.is_floating_point() else part for part in data)
    options = {"lambda2": 0.1, "group_size": group_size, "tol": 1e-11}
    head = SparseSVMHead(0.05, refit=True, max_active=0.25, center=False, normalize=False, **options)
    first = sparsesvm.solve(support, labels, lambda1_ratio=0.05, **options)
    norms = first.weights.norm(dim=-2).unflatten(-1, (-1, group_size)).norm(dim=-1)
    most = 15 // group_size
    assert first.active.sum() > most
    fitted = head.fit(support, labels)
    kept = head.last_solution.active
    assert kept.sum() == most
    assert norms[kept].min() > norms[~kept].max()
    columns = kept.repeat_interleave(group_size)
    alone = sparsesvm.solve(support[:, columns], labels, lambda1=0.0, **options)
    torch.testing.assert_close(fitted.weights[:, columns], alone.weights, rtol=1e-6, atol=1e-8)
    assert (fitted.weights[:, ~columns] == 0).all()


def test_max_active_bounds_every_task_and_adds_none(data):
    query, support, labels, _ = data
    tasks = torch.stack([support, support * torch.linspace(0.1, 2, 60), support.flip(-1)])
    for ratio in (0.0, 0.05, 0.3, 1.0):
        bounded, free = (SparseSVMHead(ratio, refit=True, max_active=share) for share in (0.1, 1.0))
        for head in (bounded, free):
            head(query.expand(3, -1, -1), tasks, labels.expand(3, -1))
        used, all_used = bounded.last_solution.active, free.last_solution.active
        assert torch.equal(used.sum(-1), all_used.sum(-1).clamp(max=6))
        assert (used <= all_used).all()
    # At least one feature may always be used, and no rounding costs one: 0.29 * 100 is below 29 in floating point.
    wide = torch.nn.functional.pad(support, (0, 40)) + 0.01 * torch.arange(100.0).cos()  # 100 features
    for share, most in ((1e-3, 1), (0.29, 29)):
        head = SparseSVMHead(0.0, refit=True, max_active=share, center=False)
        head.fit(wide, labels)
        assert head.last_solution.active.sum() == most


@pytest.mark.parametrize("make", HEADS)
def test_each_sample_is_divided_by_its_own_norm(data, make):
    query, support, labels, _ = data
    head, plain = make(), make()
    head.normalize, plain.normalize, plain.center = "each", False, False
    mean = support.mean(0)
    unit = [torch.nn.functional.normalize(part - mean, dim=-1) for part in (query, support)]
    torch.testing.assert_close(head(query, support, labels), plain(*unit, labels), rtol=1e-4, atol=1e-4)
    # Without centring, the lengths of the samples do not matter.
    head.center = False
    longer = [part * torch.linspace(0.1, 5, len(part)).unsqueeze(-1) for part in (query, support)]
    torch.testing.assert_close(head(*longer, labels), head(query, support, labels), rtol=1e-3, atol=1e-3)
    # A sample of zeros has no direction; gradients stay finite.
    blank = [part.clone().index_fill_(0, torch.tensor([1]), 0.0).requires_grad_() for part in (query, support)]
    head(*blank, labels).square().sum().backward()
    assert all(part.grad.isfinite().all() for part in blank)


def test_penalties_are_learnt(data):
    query, support, labels, query_labels = data
    for head in (SparseSVMHead(0.2, learn_penalties=True), SparseSVMHead(lambda1=0.5, learn_penalties=True)):
        torch.nn.functional.cross_entropy(head(query, support, labels), query_labels).backward()
        assert len(list(head.parameters())) == 3
        assert all(parameter.grad != 0 for parameter in head.parameters())


def test_the_last_solution_is_usable_after_every_kind_of_call(data):
    query, support, labels, _ = data
    head = SparseSVMHead(0.2)
    torch.func.grad(lambda x: head(query, x, labels, 5).sum())(support)
    assert float(head.last_solution.gap) < 1e-4
    torch.func.vmap(lambda x: head(query, x, labels, 5))(support[None])
    assert head.last_solution is None


def replace(fitted, **changes):
    names = ("weights", "bias", "mean", "norm", "scale", "each", "mean_is_small")
    return FittedHead(**{name: getattr(fitted, name) for name in names} | changes)


def gradients(fitted, query, cotangent, **kwargs):
    """Logits and their gradients for query, weights and mean."""
    parts = [part.detach().clone().requires_grad_() for part in (query, fitted.weights, fitted.mean)]
    logits = replace(fitted, weights=parts[1], mean=parts[2], scale=1.0).decision_function(parts[0])
    return logits.detach(), *torch.autograd.grad((logits * cotangent).sum(), parts, **kwargs)


@pytest.mark.parametrize("normalize", [True, False, "each"])
@pytest.mark.parametrize("make", [lambda **o: SparseSVMHead(0.1, **o), RidgeHead, PrototypeHead])
@pytest.mark.parametrize("shared", [False, True])
def test_scores_need_no_centred_queries(rng, make, normalize, shared):
    parts = [episode(rng, 5, 40, 60) for _ in range(3)]
    features, labels = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
    query = features[0, 15:] if shared else features[:, 15:]
    with torch.no_grad():
        fitted = make(normalize=normalize).fit(features[:, :15], labels[:, :15], 5)
    assert fitted.mean_is_small
    cotangent = torch.from_numpy(rng.standard_normal((3, 25, 5)))
    copied = gradients(replace(fitted, mean_is_small=False), query, cotangent)
    for found, expected in zip(gradients(fitted, query, cotangent), copied, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    for found, expected in zip(gradients(fitted, query, cotangent, create_graph=True), copied, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("normalize", [True, "each"])
def test_no_copy_of_the_queries_is_kept(data, normalize):
    query, support, labels, _ = data
    fitted = RidgeHead(normalize=normalize).fit(support, labels, 5)
    leaf, kept = query.clone().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        fitted.decision_function(leaf)
    as_large = [saved for saved in kept if saved.numel() >= query.numel()]
    assert as_large
    assert {saved.data_ptr() for saved in as_large} == {leaf.data_ptr()}


@pytest.mark.parametrize("normalize", [True, False, "each"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_digits_survive_a_large_mean_and_a_query_near_it(data, normalize, offset):
    query, support, labels, _ = (part + offset if part.is_floating_point() else part for part in data)
    query = torch.cat([query, support.mean(0, keepdim=True) + 1e-3 * torch.arange(60).cos()])
    fitted = RidgeHead(normalize=normalize).fit(support, labels, 5)
    assert fitted.mean_is_small == (offset < 1)
    norm = None if fitted.norm is None else fitted.norm.double()
    exact = replace(fitted, weights=fitted.weights.double(), mean=fitted.mean.double(), norm=norm, mean_is_small=False)
    expected = exact.decision_function(query.double()).float()
    error = (fitted.decision_function(query) - expected).abs() / expected.abs().amax(-1, keepdim=True)
    # Of the query near the mean only `each` asks more than the difference of nearly equal numbers.
    assert error[: None if normalize == "each" else -1].max() < 3e-5


def test_a_ridge_penalty_that_is_lost_to_rounding_is_named():
    support, labels = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2
    exact = RidgeHead(lambda2=1e-8).fit(support.double(), labels).weights
    torch.testing.assert_close(RidgeHead(lambda2=1e-8).fit(support, labels).weights.double(), exact, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="lambda2 must be larger: added to the products of these features"):
        RidgeHead(lambda2=1e-300, center=False).fit(torch.ones(10, 4), labels)
    with pytest.raises(ValueError, match="dual_reg must be larger: added to the products of these features"):
        SparseSVMHead(0.0, dual_reg=1e-300, refit="ridge", center=False, normalize=False).fit(torch.eye(2).repeat(5, 1), labels)


def test_95_samples_to_5():
    means = {}
    for name, options in {
        "as they come": {"class_weight": None},
        "intercept": {"class_weight": None, "intercept": True},
        "balanced": {},
        "balanced, all features, strong ridge": {"lambda1_ratio": 0.0, "lambda2": 10.0},
    }.items():
        found = []
        for seed in range(4):
            generator = torch.Generator().manual_seed(seed)
            labels, targets = (torch.arange(100) >= 95).long(), (torch.arange(400) >= 200).long()
            support = torch.randn(100, 10, generator=generator) + (1.4 * labels - 0.7).unsqueeze(1)
            query = torch.randn(400, 10, generator=generator) + (1.4 * targets - 0.7).unsqueeze(1)
            right = (SparseSVMHead(**{"lambda1_ratio": 0.05, **options}).fit(support, labels).predict(query) == targets).float()
            found.append(float(right[:200].mean() + right[200:].mean()) / 2)
        means[name] = sum(found) / 4
    assert means["as they come"] < 0.82
    assert means["intercept"] > 0.9
    assert means["balanced"] > 0.93
    # All ten features tell as much and five samples are few: near the class means (0.98), of 0.99 possible.
    assert means["balanced, all features, strong ridge"] > 0.97


def test_balanced_classes_are_sample_weights_and_equal_ones_change_nothing(data):
    query, support, labels, _ = data
    equal, plain = SparseSVMHead(0.1), SparseSVMHead(0.1, class_weight=None)
    assert torch.equal(equal(query, support, labels), plain(query, support, labels))
    labels = torch.tensor([0] * 9 + [1] * 4 + [2] * 2)
    weight = torch.tensor([15 / 27] * 9 + [15 / 12] * 4 + [15 / 6] * 2)
    torch.testing.assert_close(
        equal(query, support, labels, 5), plain(query, support, labels, 5, sample_weight=weight), rtol=1e-4, atol=1e-4
    )
    # A sample of weight two is one that comes twice; a class without samples takes no share.
    twice = torch.cat([support, support[:1]]), torch.cat([labels, labels[:1]])
    weight = torch.tensor([2.0] + [1.0] * 14)
    torch.testing.assert_close(
        equal(query, *twice, 5), equal(query, support, labels, 5, sample_weight=weight), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("options", [{"intercept": True}, {"intercept": True, "dual_reg": 1.0}, {"class_weight": "balanced"}])
def test_the_gradient_of_unbalanced_tasks_is_that_of_finite_differences(options):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 8 + [1] * 3)
    support = torch.randn(11, 4, generator=generator, dtype=torch.float64) + labels.unsqueeze(1)
    query = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    head = SparseSVMHead(lambda1=0.3, tol=1e-12, learn_scale=False, **options)
    assert torch.autograd.gradcheck(lambda support: head(query, support, labels), support.requires_grad_(), eps=1e-6, atol=1e-4)


def test_intercept_and_class_weights_map_and_compile(data):
    query, support, labels, _ = data
    labels = torch.tensor([0] * 9 + [1] * 4 + [2] * 2)
    head = SparseSVMHead(0.1, intercept=True, learn_scale=False)
    expected = head(query, support, labels, 3)
    mapped = torch.func.vmap(lambda s: head(query, s, labels, 3))(torch.stack([support, support]))
    torch.testing.assert_close(mapped[1], expected, rtol=1e-4, atol=1e-4)
    compiled = torch.compile(head, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(query, support, labels, 3), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", HEADS)
def test_a_fitted_head_is_a_module(data, make):
    query, support, labels, _ = data
    head = make()
    fitted = head.fit(support, labels).detach()
    expected = fitted(query)
    torch.testing.assert_close(expected, head(query, support, labels))
    assert not fitted.scale.requires_grad
    file = io.BytesIO()
    torch.save(fitted, file)
    file.seek(0)
    assert torch.equal(torch.load(file)(query), expected)
    other = head.fit(support + labels.unsqueeze(1), labels).detach()
    other.load_state_dict(fitted.state_dict())
    torch.testing.assert_close(other(query), expected)
    assert copy.deepcopy(fitted).double()(query.double()).dtype == torch.float64
    exported = torch.export.export(fitted, (query,)).module()
    torch.testing.assert_close(exported(query), expected)
