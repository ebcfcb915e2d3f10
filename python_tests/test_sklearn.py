"""The estimators behave as scikit-learn's do, and solve what they say."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine, make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import ElasticNet, MultiTaskElasticNet
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import sparsesvm
from sparsesvm.sklearn import SparseRegression, SparseSVMClassifier, SparseSVMClassifierCV
from sparsesvm.sklearn._arrays import place_groups


@pytest.fixture
def data():
    return make_classification(120, 30, n_informative=6, n_redundant=0, n_classes=3, random_state=0)


@pytest.mark.parametrize(
    "estimator",
    ["SparseSVMClassifier()", "SparseRegression()", "SparseSVMClassifier(group_weight='adaptive', refit=True)"]
    + [f"SparseSVMClassifierCV(lambda1_ratios=4, cv=3, refit={refit})" for refit in (False, True)],
)
def test_every_check_of_scikit_learn_passes_and_none_is_skipped(estimator):
    # Whether SciPy reads its arrays' namespaces is settled when it is imported.
    program = f"""
from sklearn.utils.estimator_checks import check_estimator
from sparsesvm.sklearn import SparseRegression, SparseSVMClassifier, SparseSVMClassifierCV
results = check_estimator({estimator}, on_skip=None, on_fail="raise")
print(len(results), {{result["status"] for result in results}})
"""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, statuses = done.stdout.strip().split(" ", 1)
    assert int(count) > 50
    assert statuses == "{'passed'}"


def test_it_is_the_solver_on_centred_features_of_one_scale(data):
    X, y = data
    fitted = SparseSVMClassifier(lambda1=3.0, lambda2=0.3, smoothing=2.0).fit(X, y)
    centred = torch.from_numpy(X - X.mean(0))
    scale = centred.square().sum(1).mean().sqrt()
    column = torch.full((120, 1), 1e4)
    solution = sparsesvm.solve(
        torch.cat([centred / scale, column], 1), torch.from_numpy(y), lambda1=3.0, lambda2=0.3, dual_reg=0.6
    )
    np.testing.assert_allclose(fitted.coef_, solution.weights[:, :-1] / scale, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fitted.intercept_ + fitted.coef_ @ X.mean(0), 1e4 * solution.weights[:, -1], rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(fitted.support_, np.flatnonzero(solution.active[:-1]))
    assert fitted.scale_ == pytest.approx(float(scale))
    assert fitted.dual_gap_ <= 1e-6 * 120


def test_without_group_penalty_and_intercept_it_is_crammer_and_singers_svm(data):
    X, y = data
    scale = np.sqrt((X**2).sum(1).mean())
    peer = LinearSVC(multi_class="crammer_singer", C=2.0, fit_intercept=False, tol=1e-8, max_iter=100_000).fit(X / scale, y)
    fitted = SparseSVMClassifier(lambda1=0.0, lambda2=0.5, smoothing=0.0, fit_intercept=False, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(fitted.decision_function(X), (X / scale) @ peer.coef_.T, rtol=0, atol=1e-3)
    assert not fitted.intercept_.any()


@pytest.mark.parametrize("shift", [0.0, 50.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_units_and_origin_of_the_features_do_not_matter(data, shift, dtype):
    X, y = data
    expected = SparseSVMClassifier().fit(X, y)
    moved = (1000 * X + 1000 * shift).astype(dtype)
    fitted = SparseSVMClassifier().fit(moved, y)
    assert fitted.coef_.dtype == fitted.intercept_.dtype == dtype
    np.testing.assert_array_equal(fitted.support_, expected.support_)
    np.testing.assert_allclose(fitted.decision_function(moved), expected.decision_function(X), rtol=0, atol=1e-2)


def test_names_of_classes_and_features_and_the_binary_form():
    pandas = pytest.importorskip("pandas")
    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    fitted = SparseSVMClassifier(lambda1_ratio=0.01).fit(X, names)
    assert list(fitted.feature_names_in_) == list(X.columns)
    assert set(fitted.predict(X)) == set(names)
    assert fitted.score(X, names) > 0.9
    two = SparseSVMClassifier().fit(X[:100], names[:100])
    assert two.coef_.shape == (1, 4)
    assert two.intercept_.shape == (1,)
    scores = two.decision_function(X[:100])
    assert scores.shape == (100,)
    np.testing.assert_array_equal(two.predict(X[:100]) == "versicolor", scores > 0)
    selector = SelectFromModel(SparseSVMClassifier(lambda1_ratio=0.01), threshold=1e-12).set_output(transform="pandas")
    selected = selector.fit(X, names).transform(X)
    assert isinstance(selected, pandas.DataFrame)
    assert list(selected.columns) == [X.columns[j] for j in fitted.support_]


def test_it_works_in_the_tools_of_scikit_learn(data):
    X, y = data
    pipeline = make_pipeline(StandardScaler(), SparseSVMClassifier())
    search = GridSearchCV(pipeline, {"sparsesvmclassifier__lambda1_ratio": [0.03, 0.1, 0.9]}, cv=3).fit(X, y)
    assert search.best_params_["sparsesvmclassifier__lambda1_ratio"] < 0.9
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(X), search.predict(X))
    copy = clone(SparseSVMClassifier(groups=[[0, 2], [1]], class_weight={0: 2.0}))
    assert copy.get_params()["groups"] == [[0, 2], [1]]


def test_sample_weights_are_routed_and_count_as_repetitions(data):
    X, y = data
    weight = np.arange(120) % 3
    repeated = SparseSVMClassifier(class_weight="balanced").fit(X.repeat(weight, 0), y.repeat(weight))
    weighted = SparseSVMClassifier(class_weight="balanced").fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-6, atol=1e-9)
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        estimator = SparseSVMClassifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        found = cross_validate(estimator, X, y, cv=3, params={"sample_weight": weight}, return_estimator=True)
    first = found["estimator"][0]
    assert (first.coef_ != cross_validate(SparseSVMClassifier(), X, y, cv=3, return_estimator=True)["estimator"][0].coef_).any()


def test_ratio_one_keeps_nothing_and_the_intercept_predicts_the_largest_class(data):
    X, y = data
    X, y = X[: 30 + (y[30:] == 1).sum()], np.r_[y[:30], np.ones((y[30:] == 1).sum(), dtype=int)]
    fitted = SparseSVMClassifier(lambda1_ratio=1.0).fit(X, y)
    assert np.abs(fitted.coef_).max() < 1e-9
    assert (fitted.predict(X) == 1).all()
    assert len(SparseSVMClassifier(lambda1_ratio=0.98).fit(X, y).support_) > 0


def test_unequal_groups_are_exact(data):
    X, y = data
    groups = [[3, 1, 29], [0], list(range(4, 29)), [2]]
    grouped = SparseSVMClassifier(groups=groups, lambda1_ratio=0.3).fit(X, y)
    for group in groups:
        used = np.isin(group, grouped.support_)
        assert used.all() or not used.any()
    assert 0 < len(grouped.support_) < 30
    # Within each group a rotation changes nothing but the coordinates.
    rotated = X.copy()
    rng = np.random.default_rng(0)
    for group in groups:
        rotated[:, group] = X[:, group] @ np.linalg.qr(rng.normal(size=(len(group),) * 2))[0]
    again = SparseSVMClassifier(groups=groups, lambda1_ratio=0.3).fit(rotated, y)
    np.testing.assert_allclose(again.decision_function(rotated), grouped.decision_function(X), rtol=0, atol=1e-4)
    sizes, lists = [10, 15, 5], [list(range(10)), list(range(10, 25)), list(range(25, 30))]
    np.testing.assert_array_equal(
        SparseSVMClassifier(groups=sizes).fit(X, y).coef_, SparseSVMClassifier(groups=lists).fit(X, y).coef_
    )
    np.testing.assert_array_equal(
        SparseSVMClassifier(groups=5).fit(X, y).coef_, SparseSVMClassifier(groups=[5] * 6).fit(X, y).coef_
    )


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("fit", [lambda **o: SparseSVMClassifier(lambda1_ratio=0.3, **o), SparseSVMClassifierCV])
def test_weights_of_groups(data, fit, fit_intercept):
    X, y = data
    sizes = [10, 15, 5]
    plain = fit(groups=sizes, fit_intercept=fit_intercept).fit(X, y)
    ones = fit(groups=sizes, group_weight=[1, 1, 1], fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(ones.coef_, plain.coef_, rtol=0, atol=1e-6)
    weighted = fit(groups=sizes, group_weight=[1.0, 1e6, 1.0], fit_intercept=fit_intercept).fit(X, y)
    assert not weighted.coef_[:, 10:25].any() and weighted.coef_[:, :10].any()
    scaled = fit(groups=sizes, group_weight=[1e-3, 1e3, 1e-3], fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(scaled.coef_, weighted.coef_, rtol=0, atol=1e-4)
    assert scaled.lambda1_ == pytest.approx(1e3 * weighted.lambda1_, rel=1e-4)
    sparse_fit = fit(groups=sizes, group_weight=[1.0, 2.0, 0.5], fit_intercept=False, tol=1e-9, lambda2=0.1)
    np.testing.assert_allclose(
        clone(sparse_fit).fit(sparse.csr_matrix(X), y).coef_, clone(sparse_fit).fit(X, y).coef_, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("group_weight", [[1.0], [1.0, 2.0, 0.0], [1.0, np.nan, 1.0], 2.0, "adapted"])
def test_weights_of_groups_that_are_none(data, group_weight):
    with pytest.raises(ValueError, match=r"group_weight must .* hold a positive number for each of the 3 groups"):
        SparseSVMClassifier(groups=[10, 15, 5], group_weight=group_weight).fit(*data)


def test_groups_of_too_different_sizes_for_the_memory():
    X = sparse.csr_matrix((np.ones(40), (np.arange(40) % 20, np.arange(40))), (20, 3000))
    with pytest.raises(ValueError, match=r"groups must not differ so much.*the largest, with 1500 features.*750 times that of X"):
        SparseSVMClassifier(groups=[1500] + [1] * 1500).fit(X, np.arange(20) % 2)
    SparseSVMClassifier(groups=[20] + [1] * 20, lambda1_ratio=0.5).fit(X[:, :40], np.arange(20) % 2)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (7, "groups must divide the 30 features of X where it is one size; got 7"),
        ([10, 10], "groups must hold positive sizes with sum 30, the features of X; got sum 20"),
        ([[0, 1], [1]], "groups must hold each of the 30 features of X once; got 3 entries"),
        (["a"], "groups must be a size, a list of sizes or a list of lists"),
        ([], "groups must be a size, a list of sizes or a list of lists"),
    ],
)
def test_groups_that_are_none(groups, message):
    with pytest.raises(ValueError, match=message):
        place_groups(groups, 30)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("options", [{}, {"groups": 5, "refit": True}, {"fit_intercept": False, "smoothing": 0.0}])
def test_adaptive_weights_are_those_of_a_dense_fit(data, kind, options):
    X, y = data
    X[:, 7] = 0.0
    X, options = kind(X), {"lambda2": 0.1, "tol": 1e-9, **options}
    found = SparseSVMClassifier(group_weight="adaptive", lambda1_ratio=0.2, **options).fit(X, y)
    dense = SparseSVMClassifier(lambda1=0.0, **options).fit(X, y).coef_
    norm = np.sqrt((dense**2).sum(0).reshape(-1, options.get("groups", 1)).sum(1))
    given = np.minimum(norm.max() / np.maximum(norm, 1e-300), 1e6)
    expected = SparseSVMClassifier(group_weight=given, lambda1_ratio=0.2, **options).fit(X, y)
    assert 0 < len(found.support_) < 30
    np.testing.assert_array_equal(found.support_, expected.support_)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-4, atol=1e-8)
    path = found.path(X, y, n_lambdas=3, min_ratio=0.04)
    np.testing.assert_allclose(path.coef[1], found.coef_, rtol=0, atol=1e-4)


def test_units_matter_little_to_adaptive_weights(data):
    X, y = data
    options = {"group_weight": "adaptive", "lambda1_ratio": 0.1}
    expected = SparseSVMClassifier(lambda2=1e-3, **options).fit(X, y)
    units = 10.0 ** np.linspace(-1, 1, 30)
    fitted = SparseSVMClassifier(**options, lambda2=1e-5).fit(X * units, y)
    np.testing.assert_array_equal(fitted.support_, expected.support_)
    assert len(set(fitted.support_) ^ set(SparseSVMClassifier(lambda1_ratio=0.1).fit(X * units, y).support_)) > 3


def test_class_weight_and_intercept_with_95_samples_to_5():
    scores = {"none": [], "intercept": [], "balanced": [], "balanced, strong ridge": []}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        y, target = np.arange(100) >= 95, np.arange(400) >= 200
        X, Q = rng.normal(size=(100, 10)) + 1.4 * y[:, None] - 0.7, rng.normal(size=(400, 10)) + 1.4 * target[:, None] - 0.7
        options = {"lambda1_ratio": 0.05, "smoothing": 0.0}
        for name, estimator in {
            "none": SparseSVMClassifier(fit_intercept=False, **options).fit(X - X.mean(0), y),
            "intercept": SparseSVMClassifier(**options).fit(X - X.mean(0), y),
            "balanced": SparseSVMClassifier(class_weight="balanced", **options).fit(X - X.mean(0), y),
            "balanced, strong ridge": SparseSVMClassifier(class_weight="balanced", lambda1=0.0, lambda2=10.0).fit(
                X - X.mean(0), y
            ),
        }.items():
            scores[name].append(balanced_accuracy_score(target, estimator.predict(Q - X.mean(0))))
    means = {name: np.mean(values) for name, values in scores.items()}
    assert means["none"] < 0.85
    assert means["intercept"] > 0.88
    assert means["balanced"] > 0.92
    assert means["balanced, strong ridge"] > 0.97  # as class means, of 0.99 possible: all features tell as much


def test_a_warm_start_goes_on_from_the_last_solution(data):
    X, y = data
    estimator = SparseSVMClassifier(lambda1_ratio=0.1, warm_start=True).fit(X, y)
    cold = estimator.n_iter_
    assert estimator.fit(X, y).n_iter_ <= cold
    estimator.fit(X[:60], y[:60])  # another size starts afresh
    np.testing.assert_allclose(estimator.coef_, SparseSVMClassifier(lambda1_ratio=0.1).fit(X[:60], y[:60]).coef_)


def test_a_fit_that_stops_early_warns_with_its_gap_and_a_remedy(data, capsys):
    with pytest.warns(
        ConvergenceWarning, match=r"stopped at the iteration limit; raise max_iter.*Duality gap .*, tolerance 0.00012"
    ):
        SparseSVMClassifier(max_iter=1, verbose=1).fit(*data)
    assert "[SparseSVMClassifier]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda1_ratio": 1.5}, "lambda1_ratio must lie in"),
        ({"lambda1": -1.0}, "lambda1 must be >= 0"),
        ({"lambda2": 0.0}, "lambda2 must be positive"),
        ({"smoothing": -1.0}, "smoothing must be >= 0"),
        ({"class_weight": "even"}, "class_weight"),
    ],
)
def test_bad_settings(data, options, message):
    with pytest.raises(ValueError, match=message):
        SparseSVMClassifier(**options).fit(*data)


def test_bad_weights(data):
    X, y = data
    for estimator in (SparseSVMClassifier(), SparseRegression()):
        with pytest.raises(ValueError, match="sample_weight must be >= 0 and not zero for all samples; got minimum -1"):
            estimator.fit(X, y, sample_weight=-np.ones(120))
        with pytest.raises(ValueError, match="zero"):
            estimator.fit(X, y, sample_weight=np.zeros(120))


def test_the_path_holds_the_fits_along_it(data):
    X, y = data
    path = SparseSVMClassifier().path(X, y, n_lambdas=6, min_ratio=0.05)
    assert path.coef.shape == (6, 3, 30)
    used = (path.coef != 0).any(1).sum(1)
    assert used[0] == 0
    assert used[-1] > 5
    for number in (1, 3, 5):
        alone = SparseSVMClassifier(lambda1_ratio=path.lambda1_ratio[number], tol=1e-9).fit(X, y)
        assert alone.lambda1_ == pytest.approx(path.lambda1[number])
        np.testing.assert_allclose(path.coef[number], alone.coef_, rtol=0, atol=1e-3)
        np.testing.assert_allclose(path.intercept[number], alone.intercept_, rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")  # the peer, in scikit-learn 1.6
@pytest.mark.parametrize("load", [load_iris, load_wine, load_breast_cancer, load_digits])
def test_raw_tables_without_settings(load):
    X, y = load(return_X_y=True)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    peer = make_pipeline(StandardScaler(), LinearSVC(multi_class="crammer_singer", max_iter=20_000, random_state=0))
    dense = cross_val_score(SparseSVMClassifier(lambda1=0.0), X, y, cv=folds).mean()
    assert dense > cross_val_score(peer, X, y, cv=folds).mean() - 0.02


def test_the_default_of_lambda2_is_that_of_the_typical_feature(data):
    X, y = data
    even = SparseSVMClassifier().fit(StandardScaler().fit_transform(X), y).lambda2_
    assert even == pytest.approx(0.1)
    # Columns without variance say nothing, whatever the units; a few large columns do not hold down the others.
    padded = np.hstack([X, np.full((120, 40), 1e6)])
    assert SparseSVMClassifier().fit(padded, y).lambda2_ == pytest.approx(SparseSVMClassifier().fit(X, y).lambda2_)
    variance = np.where(np.arange(30) == 0, 1e6, 1) * X.var(0)
    assert SparseSVMClassifier().fit(X * np.sqrt(variance / X.var(0)), y).lambda2_ == pytest.approx(
        0.1 * np.median(variance) / variance.mean()
    )
    assert SparseSVMClassifier(lambda2=3).fit(X, y).lambda2_ == 3.0


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("options", [{}, {"groups": 5}, {"fit_intercept": False, "smoothing": 0.0}])
def test_a_refit_selects_without_shrinkage(data, kind, options):
    X, y = data
    X = kind(X)
    options = {"lambda2": 0.1, "tol": 1e-9, **options}
    first = SparseSVMClassifier(lambda1_ratio=0.1, **options).fit(X, y)
    again = SparseSVMClassifier(lambda1_ratio=0.1, refit=True, **options).fit(X, y)
    np.testing.assert_array_equal(again.support_, first.support_)
    assert np.linalg.norm(again.coef_) > np.linalg.norm(first.coef_)
    used = X[:, first.support_]
    scale = SparseSVMClassifier(fit_intercept=first.fit_intercept).fit(used, y).scale_  # in whose units lambda2 counts
    options |= {"groups": 1, "lambda2": 0.1 * (first.scale_ / scale) ** 2}
    alone = SparseSVMClassifier(lambda1=0.0, **options).fit(used, y)
    np.testing.assert_allclose(again.coef_[:, first.support_], alone.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(again.intercept_, alone.intercept_, rtol=0, atol=1e-4)
    path = again.path(X, y, n_lambdas=3, min_ratio=0.01)
    np.testing.assert_allclose(path.coef[1], again.coef_, rtol=0, atol=1e-4)
    assert not path.coef[0].any()


@pytest.mark.parametrize("groups", [1, 4, [20, 10, 50]])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_sparse_matrices_are_scaled_and_never_centred(groups, fit_intercept):
    X = sparse.random(200, 80, 0.2, format="csr", random_state=0)
    y = np.asarray(X[:, :3].argmax(1)).ravel()
    options = {"groups": groups, "fit_intercept": fit_intercept, "tol": 1e-9}
    found = SparseSVMClassifier(**options).fit(X, y)
    assert found.lambda2_ == 0.1
    D = X.toarray()
    deviations = D - D.mean(0) if fit_intercept else D
    ratio = np.sqrt((D**2).sum() / (deviations**2).sum())  # of the scales, in whose units the penalties count
    expected = SparseSVMClassifier(lambda1=found.lambda1_ * ratio, lambda2=0.1 * ratio**2, **options).fit(D, y)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.intercept_, expected.intercept_, rtol=0, atol=1e-4)
    assert len(found.support_) > 0
    np.testing.assert_allclose(found.decision_function(X), found.decision_function(D), rtol=1e-9)
    np.testing.assert_allclose(SparseSVMClassifier(**options).fit(X.tocsc(), y).coef_, found.coef_, rtol=1e-9)
    assert SparseSVMClassifierCV(lambda1_ratios=3, cv=3).fit(X, y).scores_path_.shape == (3, 3)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_regression_is_the_elastic_net(outputs, fit_intercept):
    X, y = make_regression(60, 20, n_targets=outputs, n_informative=5, noise=2.0, random_state=0, bias=3.0)
    peer = (ElasticNet if outputs == 1 else MultiTaskElasticNet)(
        alpha=2.0, l1_ratio=0.7, fit_intercept=fit_intercept, tol=1e-10, max_iter=100_000
    )
    peer.fit(X, y)
    fitted = SparseRegression(lambda1=1.4, lambda2=0.6, fit_intercept=fit_intercept).fit(X, y)
    np.testing.assert_allclose(fitted.coef_, peer.coef_, rtol=0, atol=1e-3)
    np.testing.assert_allclose(fitted.predict(X), peer.predict(X), rtol=0, atol=1e-2)
    assert fitted.score(X, y) == pytest.approx(peer.score(X, y), abs=1e-6)
    weight = np.arange(60) % 3
    weighted = SparseRegression(lambda1_ratio=0.2).fit(X, y, sample_weight=weight)
    repeated = SparseRegression(lambda1_ratio=0.2).fit(X.repeat(weight, 0), y.repeat(weight, 0))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=0, atol=1e-4)
    assert not SparseRegression(lambda1_ratio=1.0).fit(X, y).coef_.any()
