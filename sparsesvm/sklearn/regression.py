"""`SparseRegression`: Lasso, elastic net and group Lasso with a certificate, for arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sparsesvm import _checks
from sparsesvm.bilevel import lambda_max, sparse_regression
from sparsesvm.results import StatusCode, unconverged


class SparseRegression(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Linear regression that uses few features, each for all outputs or for none.

    Minimises over W (n_outputs x n_features) and the intercept b, to a certified duality gap,

        1 / (2 sum_i c_i) sum_i c_i ||y_i - W x_i - b||^2  +  lambda1 sum_j ||W_:j||_2  +  lambda2 / 2 ||W||^2

    with sample weights c. The loss is a mean, in units of X and y: scikit-learn's ElasticNet(alpha, l1_ratio=r), for several
    outputs MultiTaskElasticNet, is lambda1 = alpha r, lambda2 = alpha (1 - r). Sparse matrices are made dense.

    Parameters
    ----------
    lambda1_ratio : float in [0, 1], default 0.1
        Penalty as a share of the smallest one at which all coefficients are zero.
    lambda1 : float >= 0, optional
        The penalty itself, in place of lambda1_ratio.
    lambda2 : float >= 0, default 0.0
    fit_intercept : bool, default True
    tol : float, default 1e-10
        A fit has converged when its duality gap is at most tol times the objective at W = 0.
    max_iter : int, default 100
        Limit on the working sets.
    device : str, default "cpu"
        Torch device that solves.

    Attributes
    ----------
    coef_ : (n_features,), or (n_outputs, n_features) for y of two dimensions
    intercept_ : float or (n_outputs,)
    support_ : (n_used,)
        Numbers of the features in use.
    lambda1_, dual_gap_ : float
    n_iter_ : int
        Working sets.
    n_features_in_, feature_names_in_
    """

    def __init__(
        self,
        *,
        lambda1_ratio: float = 0.1,
        lambda1: float | None = None,
        lambda2: float = 0.0,
        fit_intercept: bool = True,
        tol: float = 1e-10,
        max_iter: int = 100,
        device: str = "cpu",
    ) -> None:
        self.lambda1_ratio = lambda1_ratio
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> SparseRegression:
        """Fit to X (n_samples, n_features), an array, a data frame or a sparse matrix, and y (n_samples,) or
        (n_samples, n_outputs)."""
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], multi_output=True, y_numeric=True)
        X = X.toarray() if sparse.issparse(X) else X
        weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if (weight < 0).any() or not weight.any():
            raise ValueError(f"sample_weight must be >= 0 and not zero for all samples; got minimum {weight.min()}")
        present = weight > 0
        share, X, y = weight[present] / weight.sum(), X[present], y[present].astype(np.float64)
        mean, level = np.zeros(X.shape[1]), np.zeros(y.shape[1:])
        if self.fit_intercept:
            mean, level = share @ X, share @ y
        # The solver takes the mean over the rows: each counts as its share of them.
        root = np.sqrt(share * len(share))
        features = torch.from_numpy(((X - mean) * root[:, None]).astype(X.dtype)).to(self.device)
        targets = torch.from_numpy(((y - level).T * root).T.astype(X.dtype)).to(self.device)
        penalty = self.lambda1
        if penalty is None:
            penalty = _checks.check_ratio_number(self.lambda1_ratio) * float(lambda_max(features, targets))
        solution = sparse_regression(
            features,
            targets,
            lambda1=max(penalty, 1e-200) if penalty >= 0 else penalty,
            lambda2=self.lambda2,
            tol=self.tol,
            max_iter=self.max_iter,
            on_failure="ignore",
        )
        coef = solution.weights.double().cpu().numpy()
        self.coef_ = coef.astype(X.dtype)
        intercept = (level - coef @ mean).astype(X.dtype)
        self.intercept_ = float(intercept) if intercept.ndim == 0 else intercept
        self.support_ = np.flatnonzero(self.coef_ if coef.ndim == 1 else self.coef_.any(0))
        self.lambda1_, self.dual_gap_, self.n_iter_ = float(penalty), float(solution.gap), max(1, int(solution.n_iter))
        if bool(unconverged(solution.status)):
            sentence = StatusCode(int(solution.status)).sentence
            warnings.warn(
                f"SparseRegression did not converge: {sentence}. Duality gap {self.dual_gap_:.3g}, tolerance {self.tol:.3g} "
                "times the objective at W = 0.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict(self, X: Any) -> NDArray[np.floating[Any]]:
        """(n_samples,) or (n_samples, n_outputs)."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        predicted: NDArray[np.floating[Any]] = safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_
        return predicted

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        return tags
