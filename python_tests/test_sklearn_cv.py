"""Cross-validation along paths: exact folds, the same on every backend, and a choice that is never less sparse than the best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from sklearn.datasets import make_classification
from sklearn.model_selection import StratifiedKFold

from sparsesvm.sklearn import SparseSVMClassifier, SparseSVMClassifierCV
from sparsesvm.sklearn.cross_validation import choose

OPTIONS = {"lambda1_ratios": 6, "min_ratio": 0.05, "cv": 3}


@pytest.fixture
def data():
    return make_classification(90, 20, n_informative=5, n_redundant=0, n_classes=3, random_state=0)


@pytest.mark.parametrize("options", [{}, {"refit": True}, {"refit": True, "group_weight": "adaptive"}])
def test_the_folds_are_fits_without_the_samples_held_out(data, options):
    X, y = data
    options = {"tol": 1e-9, **options}
    found = SparseSVMClassifierCV(**OPTIONS, lambda2=0.1, **options).fit(X, y)
    assert found.coefs_path_.shape == (3, 6, 3, 20)
    for fold, (train, test) in enumerate(StratifiedKFold(3).split(X, y)):
        largest = None
        for number, ratio in enumerate(found.lambda1_ratios_):
            scale = np.sqrt((X[train] - X[train].mean(0)).__pow__(2).sum(1).mean())
            # lambda2, and with it the smoothing term, in the units of the fold's own scale.
            lambda2 = 0.1 * (scale / found.scale_) ** -2
            alone = SparseSVMClassifier(lambda1_ratio=ratio, lambda2=lambda2, **options).fit(X[train], y[train])
            largest = alone.lambda1_ if largest is None else largest
            np.testing.assert_allclose(found.coefs_path_[fold, number], alone.coef_, rtol=0, atol=1e-4)
            assert found.scores_path_[fold, number] == pytest.approx(alone.score(X[test], y[test]))
    single = SparseSVMClassifier(lambda1_ratio=found.lambda1_ratio_, lambda2=0.1, **options).fit(X, y)
    np.testing.assert_array_equal(found.coef_, single.coef_)
    np.testing.assert_array_equal(found.predict(X), single.predict(X))


@given(st.integers(1, 6), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_one_standard_error_never_takes_a_smaller_penalty_than_the_best(folds, penalties, seed):
    scores = np.random.default_rng(seed).integers(0, 5, (folds, penalties)) / 4
    best, within = choose(scores, "best"), choose(scores, "1se")
    assert within <= best  # penalties decrease
    assert scores.mean(0)[best] == scores.mean(0).max()
    if folds > 1:
        assert scores.mean(0)[within] >= scores.mean(0)[best] - scores[:, best].std(ddof=1) / np.sqrt(folds)


@pytest.mark.parametrize("group_weight", [None, "adaptive"])
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_every_backend_gives_the_same_bits(data, backend, group_weight):
    options = {**OPTIONS, "selection": "1se", "group_weight": group_weight}
    alone = SparseSVMClassifierCV(**options).fit(*data)
    with parallel_config(backend, n_jobs=2):
        shared = SparseSVMClassifierCV(**options).fit(*data)
    for name in ("scores_path_", "coefs_path_", "intercepts_path_", "coef_"):
        np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))


@pytest.mark.filterwarnings("ignore")  # a cluster's own
def test_a_dask_cluster_gives_the_same_bits(data):
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    alone = SparseSVMClassifierCV(**OPTIONS).fit(*data)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster), parallel_config("dask"):
        shared = SparseSVMClassifierCV(**OPTIONS).fit(*data)
    np.testing.assert_array_equal(shared.coefs_path_, alone.coefs_path_)
    np.testing.assert_array_equal(shared.coef_, alone.coef_)


def test_samples_held_out_count_by_their_weight(data):
    X, y = data
    weight = np.random.default_rng(0).integers(0, 4, 90)
    train = [np.flatnonzero(np.arange(90) % 3 != fold) for fold in range(3)]
    test = [np.flatnonzero(np.arange(90) % 3 == fold) for fold in range(3)]
    repeated = np.arange(90).repeat(weight)
    again = [[np.flatnonzero(np.isin(repeated, part)) for part in parts] for parts in (train, test)]
    options = {**OPTIONS, "lambda2": 0.1}
    weighted = SparseSVMClassifierCV(**{**options, "cv": list(zip(train, test, strict=True))}).fit(X, y, sample_weight=weight)
    repeats = SparseSVMClassifierCV(**{**options, "cv": list(zip(*again, strict=True))}).fit(X[repeated], y[repeated])
    # At ratio 1 intercepts alone decide, and those of classes of equal weight tie.
    np.testing.assert_allclose(weighted.scores_path_[:, 1:], repeats.scores_path_[:, 1:])
    np.testing.assert_allclose(weighted.coef_, repeats.coef_, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="cv must hold out a sample of positive sample_weight in each fold; fold 1"):
        SparseSVMClassifierCV(cv=list(zip(train, test, strict=True))).fit(X, y, sample_weight=np.arange(90) % 3 != 1)


def test_ratios_and_scoring_as_given(data):
    X, y = data
    found = SparseSVMClassifierCV(lambda1_ratios=[0.1, 0.5, 0.2], cv=3, scoring="balanced_accuracy").fit(X, y)
    np.testing.assert_array_equal(found.lambda1_ratios_, [0.5, 0.2, 0.1])
    assert found.lambda1_ratio_ in found.lambda1_ratios_
    with pytest.raises(ValueError, match=r"selection must be .*; got 'median'"):
        SparseSVMClassifierCV(selection="median").fit(X, y)
    with pytest.raises(ValueError, match=r"lambda1_ratios must be a number of ratios, or ratios in \(0, 1\]"):
        SparseSVMClassifierCV(lambda1_ratios=[0.1, 2.0]).fit(X, y)
