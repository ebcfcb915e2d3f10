"""Disentangled representations by sparse bi-level learning (Lachapelle et al. 2023, arXiv 2211.14666).

The inner problems, `sparse_regression` and `ridge_regression`, need torch alone; `tasks`, `encoders`, `learners` and `training`
build the experiments on them, the last with `sparsesvm[bilevel]`.
"""

from sparsesvm.bilevel.regression import RegressionSolution, lambda_max, ridge_regression, sparse_regression

__all__ = ["RegressionSolution", "lambda_max", "ridge_regression", "sparse_regression"]
