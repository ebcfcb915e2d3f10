"""`SparseSVMClassifier`: the group-sparse multiclass SVM for arrays."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import compute_class_weight
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sparsesvm import _checks, _intercept, _path, functional, reference
from sparsesvm.results import Solution, StatusCode, unconverged
from sparsesvm.sklearn import _arrays


class ClassifierPath(NamedTuple):
    """Classifiers along decreasing penalties; the first axis is that of the penalties.

    Attributes:
        lambda1_ratio: (n_lambdas,), shares of the penalty from which on all coefficients are zero.
        lambda1: (n_lambdas,).
        coef: (n_lambdas, n_classes, n_features), or (n_lambdas, 1, n_features) for two classes.
        intercept: (n_lambdas, n_classes) or (n_lambdas, 1).
        dual_gap: (n_lambdas,).
        n_iter: (n_lambdas,).
    """

    lambda1_ratio: NDArray[np.float64]
    lambda1: NDArray[np.float64]
    coef: NDArray[np.floating[Any]]
    intercept: NDArray[np.floating[Any]]
    dual_gap: NDArray[np.float64]
    n_iter: NDArray[np.int64]


class Training(NamedTuple):
    """What is fitted to: scaled features, class numbers, weights of the samples, and the type of the results."""

    scaled: _arrays.Scaled
    labels: torch.Tensor
    weight: torch.Tensor
    dtype: np.dtype[Any]


class BaseSparseSVM(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What the classifier and its cross-validated version share."""

    def _train_on(self, X: Any, y: Any, sample_weight: ArrayLike | None) -> Training:
        """Checks everything and sets `classes_` and what scikit-learn keeps of the features."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes; got only one class, {self.classes_[0]!r}"
            )
        _checks.check_number("smoothing", self.smoothing)
        if self.lambda2 is not None:
            _checks.check_number("lambda2", self.lambda2, positive=self.smoothing > 0)
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if (weight < 0).any() or not weight.any():
            raise ValueError(f"sample_weight must be >= 0 and not zero for all samples; got minimum {weight.min()}")
        weight = weight * self._class_weight(y, labels, weight)[labels]
        scaled = _arrays.scale(X, weight, self.groups, self.fit_intercept, self.device)
        self.scale_, self.lambda2_ = scaled.scale, 0.1 * scaled.evenness if self.lambda2 is None else float(self.lambda2)
        numbers = torch.from_numpy(labels.astype(np.int64)).to(self.device)
        return Training(scaled, numbers, torch.from_numpy(weight).to(self.device), X.dtype)

    def _class_weight(self, y: Any, labels: NDArray[np.int64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            # Counted in sample weights, so that a sample of weight two is one that comes twice.
            totals = np.bincount(labels, weight)
            share = (totals > 0).sum() * totals / totals.sum()
            return np.where(share > 0, 1 / np.where(share > 0, share, 1.0), 0.0)
        balance: NDArray[np.float64] = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return balance

    def _problem(self, training: Training) -> dict[str, Any]:
        """The arguments that all solves share."""
        return {
            "lambda2": self.lambda2_,
            "n_way": len(self.classes_),
            "group_size": training.scaled.group_size,
            "dual_reg": self.smoothing * self.lambda2_,
        }

    def _group_weight(self, training: Training, weight: torch.Tensor) -> torch.Tensor | None:
        """Of one problem (n_groups,), or of folds with sample weights (n_folds, n_samples)."""
        if self.group_weight is None:
            return None
        if isinstance(self.group_weight, str) and self.group_weight == "adaptive":
            if weight.dim() > 1:
                return torch.stack([self._adaptive(training, fold) for fold in weight])
            return self._adaptive(training, weight)
        n_groups = training.scaled.features.shape[1] // training.scaled.group_size
        try:
            factors = np.asarray(self.group_weight, dtype=np.float64)
        except ValueError:
            factors = np.zeros(0)
        if factors.shape != (n_groups,) or not ((factors > 0) & (factors < np.inf)).all():
            raise ValueError(
                f'group_weight must be "adaptive" or hold a positive number for each of the {n_groups} groups; '
                f"got {self.group_weight!r}"
            )
        return torch.from_numpy(factors).to(self.device)

    def _adaptive(self, training: Training, weight: torch.Tensor) -> torch.Tensor:
        """The largest norm of a group without group penalty over that of each."""
        solution, _ = self._solve(training, 0.0, None, weight)
        norm = reference.group_norms(solution.weights.double(), training.scaled.group_size)
        return norm.max().clamp(min=_TINY) / norm.clamp(min=float(_WEAKEST * norm.max().clamp(min=_TINY)))

    def _limits(self) -> dict[str, Any]:
        return {"tol": self.tol, "max_iter": self.max_iter, "on_failure": "ignore"}

    def _lambda1_max(self, training: Training, group_weight: torch.Tensor | None, weight: torch.Tensor) -> float:
        find = _intercept.lambda1_max if self.fit_intercept else functional.lambda1_max
        arguments = {**self._problem(training), "group_weight": group_weight, "sample_weight": weight}
        return float(find(training.scaled.features, training.labels, **arguments))

    def _solve(
        self,
        training: Training,
        lambda1: float,
        group_weight: torch.Tensor | None,
        weight: torch.Tensor,
        init_dual: torch.Tensor | None = None,
    ) -> tuple[Solution, torch.Tensor | None]:
        arguments = {**self._problem(training), **self._limits(), "sample_weight": weight, "init_dual": init_dual}
        arguments |= {"lambda1": lambda1, "group_weight": group_weight}
        if self.fit_intercept:
            return _intercept.solve(training.scaled.features, training.labels, **arguments)
        return functional.solve(training.scaled.features, training.labels, **arguments), None

    def _path(
        self, training: Training, penalties: torch.Tensor, group_weight: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[Solution, torch.Tensor | None]:
        """Along penalties (n_lambdas, ...) for group weights (..., n_groups) and sample weights (..., n_samples)."""
        arguments = {**self._problem(training), **self._limits(), "sample_weight": weight, "intercept": self.fit_intercept}
        arguments["group_weight"] = group_weight
        solution, bias = _intercept.path(training.scaled.features, training.labels, penalties, **arguments)
        if not self.refit:
            return solution, bias
        again, biases = [], []
        for number in range(len(penalties)):
            first = Solution(*(field[number] for field in solution))
            found, level = self._fit_again(training, first, None if bias is None else bias[number], weight)
            again.append(found)
            if level is not None:
                biases.append(level)
        return _path.stack(again), torch.stack(biases) if biases else None

    def _fit_again(
        self, training: Training, first: Solution, bias: torch.Tensor | None, weight: torch.Tensor
    ) -> tuple[Solution, torch.Tensor | None]:
        """Without group penalty, on the features in use: of one problem, or of folds that share the samples."""
        if not first.active.any():
            return first, bias
        used = first.active.repeat_interleave(training.scaled.group_size, -1)
        columns = used.reshape(-1, used.shape[-1]).any(0).nonzero().squeeze(1)
        features, labels = _arrays.take(training.scaled.features, columns), training.labels.expand(weight.shape)
        if used.dim() > 1:
            features = features * used[:, None, columns]
        arguments = {**self._problem(training), **self._limits(), "sample_weight": weight, "init_dual": first.dual}
        arguments |= {"lambda1": 0.0, "group_size": 1}
        if self.fit_intercept:
            again, bias = _intercept.solve(features, labels, **arguments)
        else:
            again = functional.solve(features, labels, **arguments)
        weights = torch.zeros_like(first.weights)
        weights[..., columns] = again.weights
        failed = unconverged(first.status)
        return first._replace(
            weights=weights,
            gap=torch.maximum(first.gap, again.gap),
            n_iter=first.n_iter + again.n_iter,
            status=torch.where(failed, first.status, again.status),
        ), bias

    def _coefficients(self, training: Training, weights: torch.Tensor, bias: torch.Tensor | None) -> tuple[Any, Any]:
        """In scikit-learn's form: of two classes one row, which decides for the second."""
        coef, intercept = training.scaled.coefficients(weights, bias)
        if len(self.classes_) == 2:
            coef, intercept = coef[..., 1:, :] - coef[..., :1, :], intercept[..., 1:] - intercept[..., :1]
        return coef.astype(training.dtype), intercept.astype(training.dtype)

    def _keep(self, training: Training, solution: Solution, bias: torch.Tensor | None) -> None:
        self.coef_, self.intercept_ = self._coefficients(training, solution.weights, bias)
        self.support_ = np.flatnonzero(self.coef_.any(0))
        self.n_iter_ = max(1, int(solution.n_iter))  # the start counts as one
        self.dual_gap_ = float(solution.gap)
        if self.verbose:
            print(
                f"[{type(self).__name__}] {len(self.support_)} of {self.n_features_in_} features, {self.n_iter_} iterations, "
                f"duality gap {self.dual_gap_:.2g}, tolerance {self.tol * float(training.weight.sum()):.2g}"
            )
        if bool(unconverged(solution.status)):
            sentence = StatusCode(int(solution.status)).sentence
            warnings.warn(
                f"{type(self).__name__} did not converge: {sentence}. Duality gap {self.dual_gap_:.3g}, tolerance "
                f"{self.tol * float(training.weight.sum()):.3g} (tol times the sum of sample weights).",
                ConvergenceWarning,
                stacklevel=3,
            )

    def decision_function(self, X: Any) -> NDArray[np.floating[Any]]:
        """Scores (n_samples, n_classes), or (n_samples,) for two classes, positive for the second."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        scores: NDArray[np.floating[Any]] = safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_
        return scores.ravel() if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> NDArray[Any]:
        """The class with the largest score, (n_samples,)."""
        scores = self.decision_function(X)
        predicted: NDArray[Any] = self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]
        return predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class SparseSVMClassifier(BaseSparseSVM):
    """Multiclass SVM that uses few features: each feature, or group of features, serves all classes or none.

    With features f = (x - mean) / scale, or x / scale of a sparse matrix, scale their root-mean-square norm, sample weights c and
    groups G of weights w, it minimises

        sum_i c_i loss_i(W f_i + b)  +  lambda1 sum_G w_G ||W_:G||_2  +  lambda2 / 2 ||W||^2

    over W (n_classes x n_features) and b, to a certified duality gap. The loss is the multiclass hinge of Crammer and Singer,
    max_l [1 - Y_il + z_l - z_{y_i}], smoothed over the width `smoothing`. It is a sum over samples: with lambda1 = 0, smoothing =
    0 and no intercept this is scikit-learn's LinearSVC(multi_class="crammer_singer") on the scaled features with C = 1 / lambda2.

    The intercept b is not penalised: it is the weight of a column of 10,000, so that it pays lambda1 ||b|| / 10,000 and
    lambda2 / 2 ||b / 10,000||^2; measured, the objective without these is within 4e-7 sum_i c_i of its minimum.

    There is no predict_proba: scores are not probabilities. Calibrated ones come from
    sklearn.calibration.CalibratedClassifierCV(SparseSVMClassifier()).

    Parameters
    ----------
    lambda1_ratio : float in [0, 1], default 0.1
        Penalty of the groups as a share of the one from which on all coefficients are zero: exactly that one where smoothing > 0,
        else an upper bound.
    lambda1 : float >= 0, optional
        The penalty itself, in place of lambda1_ratio.
    lambda2 : float > 0, optional
        Squared penalty, weighed like lambda1 against the sum of losses; >= 0 where smoothing = 0. By default 0.1 times the median
        variance of the features over their mean variance (of those that vary, in groups that of the group): about 0.1 of features
        in like units, and small where a few columns of a table have large ones, so as not to hold down the others. 0.1 of a
        sparse matrix.
    refit : bool, default False
        Fit again without group penalty on the features that the first fit uses: selection without shrinkage.
    smoothing : float >= 0, default 1.0
        Width of the quadratic part of the loss, in units of the margin; 0 is the exact hinge.
    groups : int, list of int, or list of lists of int, default 1
        Size of consecutive groups of features; their sizes; or the numbers of the features of each. Groups of any sizes are
        exact, but each takes the memory of the largest; beyond 16 times that of X, and 1 GB, they are refused.
    group_weight : array of float > 0 (n_groups,), "adaptive" or None, default None
        Factors of lambda1, by default ones, such as the roots of the sizes. "adaptive" takes them from a first fit without group
        penalty: the largest norm ||W_:G|| there over that of each group, 1e6 at most (the adaptive group lasso, Wang and Leng
        2008). Groups that help are then shrunk less than others, and units of the features matter little.
    fit_intercept : bool, default True
        Without it nothing is subtracted from the features.
    class_weight : dict, "balanced" or None, default None
        Factors of the sample weights. "balanced" gives all classes the same total, which fits for balanced accuracy: take it
        where a rare class matters as much as a frequent one. A class of few samples asks for a larger lambda2 as well.
    tol : float, default 1e-6
        A fit has converged when its duality gap is at most tol times the sum of sample weights.
    max_iter : int, default 100
    warm_start : bool, default False
        Start from the solution of the last fit where numbers of samples and classes are the same.
    verbose : int, default 0
        Print a line for each fit.
    device : str, default "cpu"
        Torch device that solves.

    Attributes
    ----------
    coef_ : (n_classes, n_features) or, for two classes, (1, n_features)
        In units of X; exact zeros in the columns of features without use.
    intercept_ : (n_classes,) or (1,)
    classes_ : (n_classes,)
    support_ : (n_used,)
        Numbers of the features in use.
    lambda1_ : float
        The penalty.
    lambda2_ : float
    scale_ : float
        The common scale, in whose units the penalties count.
    dual_gap_ : float
        Bound on the distance of the objective from its minimum, in units of the objective; with refit the larger one of two.
    n_iter_ : int
        Outer iterations, the start counting as one.
    n_features_in_, feature_names_in_
    """

    def __init__(
        self,
        *,
        lambda1_ratio: float = 0.1,
        lambda1: float | None = None,
        lambda2: float | None = None,
        refit: bool = False,
        smoothing: float = 1.0,
        groups: _arrays.Groups = 1,
        group_weight: ArrayLike | str | None = None,
        fit_intercept: bool = True,
        class_weight: dict[Any, float] | str | None = None,
        tol: float = 1e-6,
        max_iter: int = 100,
        warm_start: bool = False,
        verbose: int = 0,
        device: str = "cpu",
    ) -> None:
        self.lambda1_ratio = lambda1_ratio
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.refit = refit
        self.smoothing = smoothing
        self.groups = groups
        self.group_weight = group_weight
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.verbose = verbose
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> SparseSVMClassifier:
        """Fit to X (n_samples, n_features), an array, a data frame or a sparse matrix, and classes y (n_samples,) of any kind."""
        before = getattr(self, "_dual", None) if self.warm_start else None
        training = self._train_on(X, y, sample_weight)
        group_weight = self._group_weight(training, training.weight)
        lambda1 = self.lambda1
        if lambda1 is None:
            ratio = _checks.check_ratio_number(self.lambda1_ratio)
            lambda1 = ratio * self._lambda1_max(training, group_weight, training.weight) if ratio else 0.0
        if before is not None and before.shape != (len(training.labels), len(self.classes_)):
            before = None
        solution, bias = self._solve(training, lambda1, group_weight, training.weight, before)
        self.lambda1_ = float(lambda1)
        self._dual = solution.dual if self.warm_start else None
        if self.refit and lambda1:
            solution, bias = self._fit_again(training, solution, bias, training.weight)
        self._keep(training, solution, bias)
        return self

    def path(
        self, X: Any, y: Any, sample_weight: ArrayLike | None = None, *, n_lambdas: int = 50, min_ratio: float = 1e-2
    ) -> ClassifierPath:
        """Classifiers along a geometric grid of n_lambdas penalties, from the one at which all coefficients are zero down to its
        share min_ratio, each started from the one before. The estimator itself is left as it is."""
        estimator = type(self)(**self.get_params(deep=False))
        training = estimator._train_on(X, y, sample_weight)
        ratios = ratio_grid(n_lambdas, min_ratio)
        group_weight = estimator._group_weight(training, training.weight)
        penalties = ratios * estimator._lambda1_max(training, group_weight, training.weight)
        solution, bias = estimator._path(training, torch.from_numpy(penalties).to(self.device), group_weight, training.weight)
        coef, intercept = estimator._coefficients(training, solution.weights, bias)
        return ClassifierPath(ratios, penalties, coef, intercept, solution.gap.cpu().numpy(), solution.n_iter.cpu().numpy())


def ratio_grid(n_lambdas: int, min_ratio: float) -> NDArray[np.float64]:
    n_lambdas = _checks.check_integer("n_lambdas", n_lambdas, minimum=1)
    min_ratio = _checks.check_number("min_ratio", min_ratio, positive=True)
    if min_ratio > 1:
        raise ValueError(f"min_ratio must lie in (0, 1]; got {min_ratio}")
    return np.logspace(0, math.log10(min_ratio), n_lambdas)


_WEAKEST = 1e-6  # of the largest norm, where a group has none
_TINY = float(np.finfo(np.float64).tiny)
