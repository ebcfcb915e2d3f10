"""`SparseSVMClassifierCV`: the group penalty chosen by cross-validation, all folds along their paths in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples

from sparsesvm.sklearn import _arrays
from sparsesvm.sklearn.classifier import BaseSparseSVM, SparseSVMClassifier, Training, ratio_grid


class SparseSVMClassifierCV(BaseSparseSVM):
    """`SparseSVMClassifier` whose `lambda1_ratio` is chosen by cross-validation.

    Each fold follows the whole grid from the largest penalty down, every fit started from the one before, and all folds are
    solved together: the samples that a fold holds out have weight zero there, which removes them exactly. Ratios count in each
    fold's own largest penalty; mean and scale of the features, in whose units lambda2 counts, are those of all samples. With
    n_jobs, joblib shares out the folds on whatever backend is active (`joblib.parallel_config`), with the same bits as result.

    Parameters
    ----------
    lambda1_ratios : int or array of floats in (0, 1], default 50
        Number of ratios, from 1 down to min_ratio on a geometric grid; or the ratios.
    min_ratio : float, default 0.01
    cv : int, splitter or iterable, default None
        As everywhere in scikit-learn; None is five stratified folds.
    scoring : str, callable or None, default None
        None is accuracy. Where fit is given sample_weight, so is the scorer.
    selection : "best" or "1se", default "best"
        "1se" takes the largest penalty whose mean score is within one standard error of the best.
    n_jobs : int or None, default None
        Jobs that share the folds.
    lambda2, refit, smoothing, groups, group_weight, fit_intercept, class_weight, tol, max_iter, verbose, device
        As in SparseSVMClassifier.

    Attributes
    ----------
    lambda1_ratio_ : float
        The choice, with which all samples are fitted.
    lambda1_ratios_ : (n_lambdas,)
        Decreasing.
    scores_path_ : (n_folds, n_lambdas)
    coefs_path_ : (n_folds, n_lambdas, n_classes or 1, n_features)
    intercepts_path_ : (n_folds, n_lambdas, n_classes or 1)
    coef_, intercept_, classes_, support_, lambda1_, lambda2_, scale_, dual_gap_, n_iter_, n_features_in_, feature_names_in_
        As in SparseSVMClassifier.
    """

    def __init__(
        self,
        *,
        lambda1_ratios: int | Sequence[float] = 50,
        min_ratio: float = 1e-2,
        cv: Any = None,
        scoring: Any = None,
        selection: str = "best",
        n_jobs: int | None = None,
        lambda2: float | None = None,
        refit: bool = False,
        smoothing: float = 1.0,
        groups: _arrays.Groups = 1,
        group_weight: ArrayLike | str | None = None,
        fit_intercept: bool = True,
        class_weight: dict[Any, float] | str | None = None,
        tol: float = 1e-6,
        max_iter: int = 100,
        verbose: int = 0,
        device: str = "cpu",
    ) -> None:
        self.lambda1_ratios = lambda1_ratios
        self.min_ratio = min_ratio
        self.cv = cv
        self.scoring = scoring
        self.selection = selection
        self.n_jobs = n_jobs
        self.lambda2 = lambda2
        self.refit = refit
        self.smoothing = smoothing
        self.groups = groups
        self.group_weight = group_weight
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.verbose = verbose
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> SparseSVMClassifierCV:
        """Choose the penalty and fit to all samples; arguments as in SparseSVMClassifier."""
        if self.selection not in ("best", "1se"):
            raise ValueError(f'selection must be "best" or "1se"; got {self.selection!r}')
        training = self._train_on(X, y, sample_weight)
        ratios = self._ratios()
        splits = list(check_cv(self.cv, y, classifier=True).split(np.zeros(_num_samples(X)), y))
        jobs = min(effective_n_jobs(self.n_jobs), len(splits))
        tests = [test for _, test in splits]
        held = np.ones((len(splits), len(training.labels)), dtype=bool)
        for number, (train, _) in enumerate(splits):
            held[number, train] = False
        parts = Parallel(n_jobs=jobs)(
            delayed(_fold_paths)(self, training, ratios, chosen) for chosen in np.array_split(held, jobs)
        )
        coefs, intercepts = (np.concatenate(part) for part in zip(*parts, strict=True))
        self.lambda1_ratios_, self.coefs_path_, self.intercepts_path_ = ratios, coefs, intercepts
        self.scores_path_ = self._score(X, y, tests, sample_weight)
        self.lambda1_ratio_ = float(ratios[choose(self.scores_path_, self.selection)])
        group_weight = self._group_weight(training, training.weight)
        self.lambda1_ = self.lambda1_ratio_ * self._lambda1_max(training, group_weight, training.weight)
        solution, bias = self._solve(training, self.lambda1_, group_weight, training.weight)
        if self.refit:
            solution, bias = self._fit_again(training, solution, bias, training.weight)
        self._keep(training, solution, bias)
        return self

    def _ratios(self) -> NDArray[np.float64]:
        if np.ndim(self.lambda1_ratios) == 0:
            return ratio_grid(self.lambda1_ratios, self.min_ratio)  # type: ignore[arg-type]
        ratios = np.sort(np.asarray(self.lambda1_ratios, dtype=float))[::-1]
        if ratios.ndim != 1 or len(ratios) == 0 or not ((ratios > 0) & (ratios <= 1)).all():
            raise ValueError(f"lambda1_ratios must be a number of ratios, or ratios in (0, 1]; got {self.lambda1_ratios!r}")
        return ratios

    def _score(self, X: Any, y: Any, tests: list[NDArray[np.int64]], sample_weight: ArrayLike | None) -> NDArray[np.float64]:
        """Of every fold and penalty on the samples held out, by an estimator that has its coefficients."""
        estimator = SparseSVMClassifier()
        scorer = check_scoring(estimator, self.scoring)
        estimator.classes_, estimator.n_features_in_ = self.classes_, self.n_features_in_
        if hasattr(self, "feature_names_in_"):
            estimator.feature_names_in_ = self.feature_names_in_
        scores: NDArray[np.float64] = np.empty((len(tests), len(self.lambda1_ratios_)))
        X, y = (part if hasattr(part, "shape") else np.asarray(part) for part in (X, y))
        X = X.tocsr() if sparse.issparse(X) else X
        for fold, test in enumerate(tests):
            held_X, held_y = _safe_indexing(X, test), _safe_indexing(y, test)
            weight = {} if sample_weight is None else {"sample_weight": _safe_indexing(np.asarray(sample_weight), test)}
            if weight and not weight["sample_weight"].any():
                raise ValueError(f"cv must hold out a sample of positive sample_weight in each fold; fold {fold} holds out none")
            for number in range(len(self.lambda1_ratios_)):
                estimator.coef_, estimator.intercept_ = self.coefs_path_[fold, number], self.intercepts_path_[fold, number]
                scores[fold, number] = scorer(estimator, held_X, held_y, **weight)
        return scores


def choose(scores: NDArray[np.float64], selection: str) -> int:
    """The penalty to take, of those in decreasing order with scores (n_folds, n_lambdas)."""
    mean = scores.mean(0)
    best = int(mean.argmax())
    if selection == "best" or len(scores) == 1:
        return best
    error = scores[:, best].std(ddof=1) / np.sqrt(len(scores))
    return int(np.argmax(mean >= mean[best] - error))  # the first one


def _fold_paths(
    estimator: BaseSparseSVM, training: Training, ratios: NDArray[np.float64], held: NDArray[np.bool_]
) -> tuple[Any, Any]:
    """Coefficients (n_folds, n_lambdas, ...) and intercepts of folds that hold out the samples `held` (n_folds, n_samples)."""
    weight = training.weight * torch.from_numpy(~held).to(training.weight.device)
    single = training.scaled.features.layout != torch.strided  # compressed rows make no batch
    if single and len(held) > 1:
        alone = [_fold_paths(estimator, training, ratios, fold[None]) for fold in held]
        return np.concatenate([coef for coef, _ in alone]), np.concatenate([intercept for _, intercept in alone])
    factors = estimator._group_weight(training, weight)
    each = [factors] * len(held) if factors is None or factors.dim() == 1 else list(factors)
    largest = [estimator._lambda1_max(training, own, fold) for own, fold in zip(each, weight, strict=True)]
    penalties = torch.from_numpy(ratios.copy())[:, None] * torch.tensor(largest, dtype=torch.float64)
    if single:
        penalties, factors, weight = penalties[:, 0], each[0], weight[0]
    solution, bias = estimator._path(training, penalties.to(weight.device), factors, weight)
    coef, intercept = estimator._coefficients(training, solution.weights, bias)
    return (coef[None], intercept[None]) if single else (coef.swapaxes(0, 1), intercept.swapaxes(0, 1))
