"""Disentangled representations by sparse bi-level learning (Lachapelle et al. 2023, arXiv 2211.14666)."""

from sparsesvm.bilevel.regression import RegressionSolution, lambda_max, ridge_regression, sparse_regression

__all__ = ["RegressionSolution", "lambda_max", "ridge_regression", "sparse_regression"]
