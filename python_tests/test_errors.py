"""Bad input: each message names the argument, what was required and what came."""

from __future__ import annotations

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
    "zero lambda2": ({"lambda2": 0.0}, "lambda2.*0"),
    "zero lambda2 tensor": ({"lambda2": torch.tensor(0.0)}, "lambda2"),
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
}

TYPE_ERRORS = {
    "features of integers": ({"features": FEATURES.long()}, "features"),
    "features as a list": ({"features": FEATURES.tolist()}, "features"),
    "labels of floats": ({"labels": LABELS.float()}, "labels"),
    "lambda1 as text": ({"lambda1": "0.1"}, "lambda1"),
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


def test_other_devices_are_refused():
    with pytest.raises(TypeError, match="device meta"):
        solve(features=FEATURES.to("meta"), labels=LABELS.to("meta"), n_way=3)


def test_nothing_to_certify():
    with pytest.raises(ValueError, match="weights and dual"):
        sparsesvm.duality_gap(FEATURES, LABELS, lambda1=0.1, lambda2=1.0)
    with pytest.raises(ValueError, match="weights"):
        sparsesvm.duality_gap(FEATURES, LABELS, torch.ones(3, 7), lambda1=0.1, lambda2=1.0)


def test_path_options():
    with pytest.raises(ValueError, match=r"n_lambdas.*0"):
        sparsesvm.regularization_path(FEATURES, LABELS, lambda2=1.0, n_lambdas=0)
    with pytest.raises(ValueError, match=r"min_ratio.*2"):
        sparsesvm.regularization_path(FEATURES, LABELS, lambda2=1.0, min_ratio=2.0)


def test_a_vmapped_call_needs_n_way():
    with pytest.raises(ValueError, match="n_way"):
        torch.func.vmap(lambda f, y: sparsesvm.solve(f, y, lambda1=0.1, lambda2=1.0).weights)(FEATURES[None], LABELS[None])
