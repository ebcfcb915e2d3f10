"""The learners that are compared: how a task's predictor is fitted on features, and what the outer problem minimises.

Each learner fits weights on support samples and is scored on query samples; which of both are used for what is the trainer's
choice. Formulas of the inner problems: `sparse_regression`, `ridge_regression`, `sparsesvm.solve`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from sparsesvm import SparseSVMHead, _checks
from sparsesvm.bilevel.regression import ridge_regression, sparse_regression

__all__ = ["InnerLasso", "InnerRidge", "Learner", "OuterL1", "SparseSVM"]

LASSO_GRID = (0.003, 0.01, 0.03, 0.1, 0.3)
RIDGE_GRID = (1e-7, 1e-4, 1e-3, 1e-2, 0.1)
SVM_GRID = (0.0, 0.01, 0.03, 0.1, 0.3)


class Learner(nn.Module, ABC):
    """Fits a predictor per task. A module, because the logit scale of a classifier is learnt with the encoder."""

    classifies = False

    @abstractmethod
    def fit(self, features: Tensor, targets: Tensor) -> Tensor:
        """Weights (n_tasks, n_outputs, n_features) of features (n_tasks, n_samples, n_features) and targets (n_tasks, n_samples,
        n_outputs), or labels (n_tasks, n_samples) where the learner `classifies`."""

    def outer_loss(self, support: Tensor, support_targets: Tensor, query: Tensor, query_targets: Tensor) -> Tensor:
        """What the encoder minimises: half the mean squared error on the query samples, plus any outer penalty."""
        weights = self.fit(support, support_targets)
        loss = (query @ weights.mT - query_targets).square().mean()
        return 0.5 * loss + self.outer_penalty(weights)

    def outer_penalty(self, weights: Tensor) -> Tensor:
        """Part of the outer loss that depends on the weights alone; none by default."""
        return weights.new_zeros(())

    def error(self, support: Tensor, support_targets: Tensor, query: Tensor, query_targets: Tensor) -> Tensor:
        """Error on the query samples, (n_tasks,): unexplained share of the variance around zero, or misclassified share."""
        residual = query @ self.fit(support, support_targets).mT - query_targets
        return residual.square().sum((-2, -1)) / query_targets.square().sum((-2, -1))

    @abstractmethod
    def variants(self) -> list[Learner]:
        """The same kind of predictor with each penalty of a fixed grid, for validation on few samples."""


class InnerLasso(Learner):
    """Inner Lasso (several outputs: group Lasso) with lambda1 = `lambda_ratio` * lambda_max."""

    def __init__(self, lambda_ratio: float) -> None:
        super().__init__()
        self.lambda_ratio = _checks.check_number("lambda_ratio", lambda_ratio, positive=True)

    def fit(self, features: Tensor, targets: Tensor) -> Tensor:
        """As in `Learner`."""
        return sparse_regression(features, targets, lambda_ratio=self.lambda_ratio).weights

    def variants(self) -> list[Learner]:
        """As in `Learner`."""
        return [InnerLasso(ratio) for ratio in LASSO_GRID]


class InnerRidge(Learner):
    """Inner ridge with lambda2 = `lambda_ratio` * ||F||^2 / n; 1e-7 stands for none."""

    def __init__(self, lambda_ratio: float = 1e-7) -> None:
        super().__init__()
        self.lambda_ratio = _checks.check_number("lambda_ratio", lambda_ratio, positive=True)

    def fit(self, features: Tensor, targets: Tensor) -> Tensor:
        """As in `Learner`; in double precision, as the penalty may be far below the rounding of single."""
        return ridge_regression(features.double(), targets.double(), lambda_ratio=self.lambda_ratio).to(features.dtype)

    def variants(self) -> list[Learner]:
        """As in `Learner`."""
        return [InnerRidge(ratio) for ratio in RIDGE_GRID]


class OuterL1(InnerRidge):
    """Inner ridge with next to no penalty; the outer loss adds `penalty` times the mean over tasks and outputs of ||w||_1."""

    def __init__(self, penalty: float) -> None:
        super().__init__()
        self.penalty = _checks.check_number("penalty", penalty)

    def outer_penalty(self, weights: Tensor) -> Tensor:
        """As in `Learner`."""
        return self.penalty * weights.abs().sum(-1).mean()


class SparseSVM(Learner):
    """The group-Lasso SVM head on classification tasks; the outer loss is the cross-entropy of its logits."""

    classifies = True

    def __init__(self, lambda1_ratio: float, n_way: int, lambda2: float = 0.1) -> None:
        super().__init__()
        self.head = SparseSVMHead(lambda1_ratio, lambda2=lambda2, class_weight=None)
        self.lambda1_ratio, self.lambda2 = lambda1_ratio, lambda2
        self.n_way = _checks.check_integer("n_way", n_way, minimum=2)

    def fit(self, features: Tensor, targets: Tensor) -> Tensor:
        """As in `Learner`."""
        return self.head.fit(features, targets, self.n_way).weights

    def outer_loss(self, support: Tensor, support_targets: Tensor, query: Tensor, query_targets: Tensor) -> Tensor:
        """Mean cross-entropy of the query samples."""
        logits = self.head(query, support, support_targets, self.n_way)
        return nn.functional.cross_entropy(logits.flatten(0, 1), query_targets.flatten())

    def error(self, support: Tensor, support_targets: Tensor, query: Tensor, query_targets: Tensor) -> Tensor:
        """As in `Learner`."""
        with torch.no_grad():
            predicted = self.head(query, support, support_targets, self.n_way).argmax(-1)
        wrong: Tensor = predicted != query_targets
        return wrong.double().mean(-1)

    def variants(self) -> list[Learner]:
        """As in `Learner`."""
        return [SparseSVM(ratio, self.n_way, self.lambda2) for ratio in SVM_GRID]
