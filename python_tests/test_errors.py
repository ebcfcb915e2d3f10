"""Bad input: each message names the argument, what was required and what came."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sparsesvm

FEATURES = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 3
NAN = FEATURES.clone()
NAN[2, 1] = float("nan")


def solve(features=FEATURES, labels=LABELS, **options):
    arguments = {"lambda1": 0.1, "lambda2": 1.0, **options}
    return sparsesvm.solve(features, labels, **{name: value for name, value in arguments.items() if value is not ...})


VALUE_ERRORS = {
    "features of one dimension": ({"features": FEATURES[0]}, "features"),
    "labels of another length": ({"labels": LABELS[:4]}, "labels"),
    "a label too large": ({"labels": LABELS + 1, "n_way": 3}, "labels"),
    "a negative label": ({"labels": LABELS - 1, "n_way": 3}, "labels"),
    "nan": ({"features": NAN}, "features.*finite"),
    "both penalties": ({"lambda1_ratio": 0.1}, "lambda1.*lambda1_ratio"),
    "no penalty": ({"lambda1": None}, "lambda1.*lambda1_ratio"),
    "negative lambda1": ({"lambda1": -0.1}, "lambda1.*-0.1"),
    "nan lambda1": ({"lambda1": float("nan")}, "lambda1.*nan"),
    "negative lambda1 tensor": ({"lambda1": torch.tensor(-0.1)}, "lambda1"),
    "lambda1 of a wrong shape": ({"lambda1": torch.ones(4)}, "lambda1"),
    "neither penalty": ({"lambda1": 0.0, "lambda2": 0.0}, "lambda1 or lambda2 must be positive.*zero for both"),
    "neither penalty, tensor": (
        {"lambda1": 0.0, "lambda2": torch.tensor(0.0)},
        "lambda1 or lambda2 must be positive.*zero for both",
    ),
    "smoothing without lambda2": ({"lambda2": 0.0, "dual_reg": 0.5}, "lambda2 must be positive where dual_reg is.*0.5"),
    "infinite lambda2": ({"lambda2": float("inf")}, "lambda2.*inf"),
    "negative ratio": ({"lambda1": None, "lambda1_ratio": -1.0}, "lambda1_ratio"),
    "group_size that does not divide": ({"group_size": 3}, "group_size.*3"),
    "group_size zero": ({"group_size": 0}, "group_size.*0"),
    "negative dual_reg": ({"dual_reg": -1.0}, "dual_reg.*-1"),
    "negative tol": ({"tol": -1.0}, "tol.*-1"),
    "no samples": ({"features": FEATURES[:0], "labels": LABELS[:0]}, "features.*at least one sample"),
    "no features": ({"features": FEATURES[:, :0]}, "features.*one feature"),
    "negative max_iter": ({"max_iter": -1}, "max_iter"),
    "unknown on_failure": ({"on_failure": "panic"}, "on_failure.*panic"),
    "sample_weight of a wrong shape": ({"sample_weight": torch.ones(5)}, "sample_weight"),
    "negative sample_weight": ({"sample_weight": -torch.ones(6)}, "sample_weight"),
    "nan sample_weight": ({"sample_weight": torch.full((6,), float("nan"))}, "sample_weight"),
    "init_dual of a wrong shape": ({"init_dual": torch.ones(6, 4)}, "init_dual"),
    "n_way zero": ({"n_way": 0}, "n_way.*0"),
    "max_iter beyond 64 bits": ({"max_iter": 2**63}, "max_iter.*below 2"),
    "labels of another task shape": ({"labels": LABELS[:, None]}, r"labels must have shape \(6,\).*got \(6, 1\)"),
    "nan in a lambda1 tensor": ({"lambda1": torch.tensor(float("nan"))}, "lambda1.*nan"),
    "ratio above one": ({"lambda1": None, "lambda1_ratio": 1.5}, r"lambda1_ratio must lie in \[0, 1\]; got 1.5"),
    "ratio tensor above one": ({"lambda1": None, "lambda1_ratio": torch.tensor(1.5)}, "lambda1_ratio.*1.5"),
    "negative ratio tensor": ({"lambda1": None, "lambda1_ratio": torch.tensor(-0.5)}, "lambda1_ratio.*-0.5"),
    "nan with a ratio": ({"features": NAN, "lambda1": None, "lambda1_ratio": 0.1}, "features.*finite"),
    "one-hot labels": (
        {"labels": torch.eye(3)[LABELS]},
        r"labels must have shape \(6,\).*got \(6, 3\)\. labels\.argmax\(-1\) makes numbers of one-hot labels",
    ),
    "labels in a column": ({"labels": LABELS[:, None]}, r"got \(6, 1\)\. labels\.squeeze\(-1\) drops the last dimension"),
    "padding without weight": (
        {"labels": LABELS - 100, "n_way": 3},
        "minimum -100.*padding takes sample_weight 0",
    ),
    "infinite tol": ({"tol": float("inf")}, "tol.*inf"),
    "nan in init_dual": ({"init_dual": torch.full((6, 3), float("nan"))}, "init_dual must be finite; got nan"),
    "infinity in init_dual": ({"init_dual": torch.full((6, 3), float("inf"))}, "init_dual must be finite; got inf"),
    "overflow": ({"features": FEATURES.double() * 1e200}, "features.*overflows"),
}

TYPE_ERRORS = {
    "features of integers": ({"features": FEATURES.long()}, "features"),
    "features as a list": ({"features": FEATURES.tolist()}, "features"),
    "labels of floats": ({"labels": LABELS.float()}, "labels"),
    "lambda1 as text": ({"lambda1": "0.1"}, "lambda1"),
    "features of complex numbers": ({"features": FEATURES.to(torch.complex64)}, "features.*complex64"),
    "sparse features": ({"features": FEATURES.to_sparse()}, r"features.*sparse.*to_dense"),
    "labels of booleans": ({"labels": LABELS.bool()}, r"labels.*bool.*long\(\)"),
    "labels as a list": ({"labels": LABELS.tolist()}, "labels.*list"),
    "labels elsewhere": ({"labels": LABELS.to("meta")}, "labels must be on the device of features, cpu; got meta"),
    "lambda1 of integers": ({"lambda1": torch.tensor(1)}, r"lambda1.*int64.*double\(\)"),
    "lambda2 as a list": ({"lambda2": [1.0]}, "lambda2.*list"),
    "lambda2 as a boolean": ({"lambda2": True}, "lambda2.*bool"),
    "sample_weight as a list": ({"sample_weight": [1.0] * 6}, "sample_weight.*list"),
    "complex sample_weight": ({"sample_weight": torch.ones(6, dtype=torch.complex64)}, "sample_weight.*complex64"),
    "init_dual of integers": ({"init_dual": torch.ones(6, 3, dtype=torch.long)}, "init_dual.*int64"),
    "n_way as a float": ({"n_way": 3.0}, "n_way must be an integer; got float"),
    "group_size as text": ({"group_size": "2"}, "group_size.*str"),
    "dual_reg as text": ({"dual_reg": "1"}, "dual_reg.*str"),
    "labels of names": (
        {"labels": ["a", "b", "c"] * 2},
        r"got list\. Number the classes: .*numpy.unique\(labels",
    ),
    "an array of names": ({"labels": np.array(["a", "b", "c"] * 2)}, r"got ndarray\. Number the classes: "),
    "names of pandas": ({"labels": np.array(["a", "b", "c"] * 2, dtype=object)}, r"got ndarray\. Number the classes: "),
    "structured labels": (
        {"labels": np.array([(1, 2.0)] * 6, [("class", int), ("score", float)])},
        r"got ndarray\. Take one of the fields, e\.g\. labels\['class'\]",
    ),
    "mirrored features": (
        {"features": FEATURES.numpy()[:, ::-1]},
        r'got ndarray\. Convert with torch.as_tensor\(numpy.ascontiguousarray\(features, "float32"\)\)',
    ),
    "big-endian labels": (
        {"labels": LABELS.numpy().astype(">i4")},
        r'Convert with torch.as_tensor\(numpy.ascontiguousarray\(labels, "int32"\)\)',
    ),
    "n_way as a tensor": ({"n_way": LABELS.max() + 1}, r"n_way must be an integer; got Tensor\. Convert with int\(n_way\)"),
    "tol as an array": ({"tol": np.array([1e-3])}, r"tol must be a number; got ndarray\. Convert with float\(tol\)"),
    "tol as text": ({"tol": "1"}, "tol.*str"),
}


@pytest.mark.parametrize("name", VALUE_ERRORS)
def test_value_errors(name):
    options, message = VALUE_ERRORS[name]
    with pytest.raises(ValueError, match=message):
        solve(**options)


@pytest.mark.parametrize("name", TYPE_ERRORS)
def test_type_errors(name):
    options, message = TYPE_ERRORS[name]
    with pytest.raises(TypeError, match=message):
        solve(**options)


def test_the_task_with_the_nan_is_named():
    features = torch.stack([FEATURES, NAN, FEATURES])
    with pytest.raises(ValueError, match=r"task.*1"):
        solve(features=features, labels=LABELS.expand(3, -1))


def test_the_task_with_the_nan_is_named_by_its_position():
    features = torch.stack([FEATURES, FEATURES, FEATURES, NAN]).reshape(2, 2, 6, 8)
    with pytest.raises(ValueError, match=r"task \(1, 1\) holds NaN"):
        solve(features=features, labels=LABELS.expand(2, 2, -1))


def test_other_devices_are_refused():
    with pytest.raises(TypeError, match="device meta"):
        solve(features=FEATURES.to("meta"), labels=LABELS.to("meta"), n_way=3)


def test_nothing_to_certify():
    with pytest.raises(ValueError, match="weights and dual"):
        sparsesvm.duality_gap(FEATURES, LABELS, lambda1=0.1, lambda2=1.0)
    with pytest.raises(ValueError, match="weights"):
        sparsesvm.duality_gap(FEATURES, LABELS, torch.ones(3, 7), lambda1=0.1, lambda2=1.0)


PROBLEM = {"lambda1": 0.1, "lambda2": 1.0, "n_way": 3}
CERTIFICATE_ERRORS = {
    "labels": ({"labels": LABELS + 1}, "labels.*maximum 3"),
    "features": ({"features": NAN}, "features must be finite"),
    "weights": ({"weights": torch.full((3, 8), float("nan"))}, "weights must be finite"),
    "dual nan": ({"dual": torch.full((6, 3), float("nan"))}, "dual must be finite"),
    "dual sum": ({"dual": torch.ones(6, 3)}, "dual must hold a probability vector.*sums from 3 to 3"),
    "dual sign": ({"dual": torch.tensor([1.5, -0.5, 0]).expand(6, 3)}, "dual.*smallest entry -0.5"),
    "lambda1": ({"lambda1": torch.tensor(-1.0)}, "lambda1.*-1"),
    "lambda2": ({"lambda2": torch.tensor(0.0)}, "lambda2.*0"),
    "sample_weight": ({"sample_weight": -torch.ones(6)}, "sample_weight.*-1"),
    "dual_reg": ({"dual_reg": -1.0}, "dual_reg.*-1"),
}


@pytest.mark.parametrize("name", CERTIFICATE_ERRORS)
def test_certificates_of_nonsense(name):
    changed, message = CERTIFICATE_ERRORS[name]
    arguments = {"features": FEATURES, "labels": LABELS, "dual": torch.full((6, 3), 1 / 3), **PROBLEM, **changed}
    with pytest.raises(ValueError, match=message):
        sparsesvm.duality_gap(**arguments)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": LABELS + 1}, "labels.*maximum 3"),
        ({"features": NAN}, "features must be finite"),
        ({"sample_weight": -torch.ones(6)}, "sample_weight.*-1"),
        ({"sample_weight": torch.full((6,), float("nan"))}, "sample_weight.*nan"),
        ({"group_size": 3}, "group_size"),
        ({"dual_reg": -1.0}, "dual_reg.*-1"),
        ({"dual_reg": 1.0}, "lambda2 is required where dual_reg is positive; got none"),
        ({"dual_reg": 1.0, "lambda2": 0.0}, "lambda2.*0"),
        ({"dual_reg": 1.0, "lambda2": torch.tensor(-1.0)}, "lambda2.*-1"),
        ({"lambda2": torch.ones(2)}, "lambda2.*shape"),
    ],
)
def test_lambda1_max_of_nonsense(exact, changed, message):
    with pytest.raises(ValueError, match=message):
        sparsesvm.lambda1_max(**{"features": FEATURES, "labels": LABELS, "n_way": 3, "exact": exact, **changed})


def test_lambda1_max_never_takes_a_label_out_of_range_for_an_answer():
    mapped = torch.func.vmap(lambda f, y: sparsesvm.lambda1_max(f, y, n_way=3))
    assert mapped(FEATURES[None], LABELS[None] + 1).isnan().all()


def test_scores_of_nonsense():
    weights = torch.ones(3, 8)
    with pytest.raises(TypeError, match=r"features must be a torch.Tensor; got list"):
        sparsesvm.decision_function(FEATURES.tolist(), weights)
    with pytest.raises(TypeError, match=r"dtype of weights, torch.float32; got torch.float64"):
        sparsesvm.decision_function(FEATURES.double(), weights)
    with pytest.raises(ValueError, match=r"features must have shape \(n_samples, 8\).*got \(6, 5\)"):
        sparsesvm.decision_function(FEATURES[:, :5], weights)


HEADS = [sparsesvm.SparseSVMHead, sparsesvm.RidgeHead, sparsesvm.PrototypeHead]
HEAD_ERRORS = {
    "support as a list": ({"support": FEATURES.tolist()}, TypeError, "support must be a torch.Tensor"),
    "support of one dimension": ({"support": FEATURES[0]}, ValueError, "support must have shape"),
    "nan in the support": ({"support": NAN}, ValueError, "support must be finite; got nan"),
    "labels of floats": ({"support_labels": LABELS + 0.5}, TypeError, "support_labels must be an integer tensor"),
    "labels of another length": (
        {"support_labels": LABELS[:4]},
        ValueError,
        r"support_labels must have shape \(6,\) to match support",
    ),
    "a label too large": ({"support_labels": LABELS + 1}, ValueError, "support_labels must lie in.*maximum 3"),
    "negative weight": ({"sample_weight": -torch.ones(6)}, ValueError, "sample_weight must be >= 0"),
    "nan weight": (
        {"sample_weight": torch.full((6,), float("nan"))},
        ValueError,
        "sample_weight must be >= 0 and finite; got nan",
    ),
    "weight of another length": (
        {"sample_weight": torch.ones(5)},
        ValueError,
        r"sample_weight must have shape \(6,\) to match support",
    ),
    "weight as a list": ({"sample_weight": [1.0] * 6}, TypeError, "sample_weight must be a torch.Tensor"),
    "query as a list": ({"query": FEATURES.tolist()}, TypeError, "query must be a torch.Tensor"),
    "query of integers": ({"query": FEATURES.long()}, TypeError, r"query must be a floating-point tensor.*float\(\)"),
    "query of other features": ({"query": FEATURES[:, :5]}, ValueError, r"query must have shape \(n_samples, 8\).*got \(6, 5\)"),
    "n_way as text": ({"n_way": "3"}, TypeError, "n_way must be an integer"),
    "n_way zero": ({"n_way": 0}, ValueError, "n_way must be at least 1"),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", HEAD_ERRORS)
def test_heads_name_their_own_arguments(head, name):
    changed, error, message = HEAD_ERRORS[name]
    with pytest.raises(error, match=message):
        head()(**{"query": FEATURES, "support": FEATURES, "support_labels": LABELS, "n_way": 3, **changed})


@pytest.mark.parametrize("head", HEADS)
def test_query_of_other_tasks(head):
    with pytest.raises(ValueError, match=r"query must have shape \(2, n_samples, 8\)"):
        head()(FEATURES.expand(3, 6, 8), FEATURES.expand(2, 6, 8), LABELS.expand(2, 6))


@pytest.mark.parametrize("head", HEADS[1:])
def test_mapped_heads_never_take_a_label_out_of_range_for_an_answer(head):
    mapped = torch.func.vmap(lambda f, y: head()(f, f, y, 3))
    assert mapped(FEATURES[None], LABELS[None] + 1).isnan().all()


CALLS = {
    "solve": lambda labels, **options: sparsesvm.solve(FEATURES, labels, lambda1=0.1, lambda2=1.0, **options).weights,
    "lambda1_max": lambda labels, **options: sparsesvm.lambda1_max(FEATURES, labels, **options),
    "exact lambda1_max": lambda labels, **options: sparsesvm.lambda1_max(FEATURES, labels, exact=True, **options),
    "duality_gap": lambda labels, **options: sparsesvm.duality_gap(
        FEATURES, labels, torch.ones(3, 8), lambda1=0.1, lambda2=1.0, **options
    ),
    "path": lambda labels, **options: (
        sparsesvm.regularization_path(FEATURES, labels, lambda2=1.0, n_lambdas=3, **options).solution.weights
    ),
    **{head.__name__: lambda labels, head=head, **options: head()(FEATURES, FEATURES, labels, **options) for head in HEADS},
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("label", [-100, 255, 3, 2**40])
@pytest.mark.parametrize("n_way", [3, None])
def test_samples_of_weight_zero_may_have_any_label(name, label, n_way):
    weight = torch.tensor([1.0, 1, 1, 1, 0, 1])
    padded = LABELS.clone()
    padded[4] = label
    expected = CALLS[name](LABELS, n_way=3, sample_weight=weight)
    torch.testing.assert_close(CALLS[name](padded, n_way=n_way, sample_weight=weight), expected, rtol=0, atol=0)
    torch.testing.assert_close(CALLS[name](padded, n_way=n_way, sample_weight=weight > 0), expected, rtol=1e-6, atol=1e-6)


def test_the_label_of_padding_is_nothing_to_vmap_compile_and_the_gradient():
    weight = torch.tensor([1.0, 1, 1, 1, 0, 1])
    padded = LABELS.clone()
    padded[4] = -100

    def weights(features, labels):
        return sparsesvm.solve(features, labels, lambda1=0.1, lambda2=1.0, n_way=3, sample_weight=weight).weights

    expected = weights(FEATURES, LABELS)
    torch.testing.assert_close(torch.func.vmap(weights)(FEATURES[None], padded[None])[0], expected, rtol=0, atol=0)
    gradients = [torch.func.grad(lambda f, y=y: weights(f, y).square().sum())(FEATURES) for y in (LABELS, padded)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)
    assert not gradients[1][4].any()


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"duality_gap"}))  # whose weights say how many classes there are
def test_classes_that_the_labels_leave_empty_are_noted(name):
    with pytest.warns(UserWarning, match=r"labels begin at 1, so that n_way, .* becomes 4 and a class is without samples"):
        CALLS[name](LABELS + 1)
    with pytest.warns(UserWarning, match=r"labels reach 255, so that n_way, .* give samples that are padding sample_weight 0"):
        CALLS[name](LABELS.where(LABELS < 2, 255))
    CALLS[name](LABELS + 1, n_way=4)
    CALLS[name](LABELS * 2)  # of six samples some might be of any of the five classes


def test_path_options():
    with pytest.raises(TypeError, match="n_lambdas must be an integer; got str"):
        sparsesvm.regularization_path(FEATURES, LABELS, lambda2=1.0, n_lambdas="3")
    with pytest.raises(TypeError, match="min_ratio must be a number; got str"):
        sparsesvm.regularization_path(FEATURES, LABELS, lambda2=1.0, min_ratio="0.1")
    with pytest.raises(ValueError, match=r"n_lambdas.*0"):
        sparsesvm.regularization_path(FEATURES, LABELS, lambda2=1.0, n_lambdas=0)
    with pytest.raises(ValueError, match=r"min_ratio.*2"):
        sparsesvm.regularization_path(FEATURES, LABELS, lambda2=1.0, min_ratio=2.0)


def test_a_vmapped_call_needs_n_way():
    with pytest.raises(ValueError, match="n_way must be given"):
        torch.func.vmap(lambda f, y: sparsesvm.solve(f, y, lambda1=0.1, lambda2=1.0).weights)(FEATURES[None], LABELS[None])
