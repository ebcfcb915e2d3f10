"""Few-shot heads: a linear classifier fitted to the support set, differentiable end to end.

All heads share one call, so that one training script can swap them::

    logits = head(query, support, support_labels)        # fit and score in one go
    fitted = head.fit(support, support_labels)           # fit once ...
    fitted.predict(query)                                # ... predict many times

`SparseSVMHead` is the group-sparse multiclass SVM of Lachapelle et al. 2023 (arXiv 2211.14666); `RidgeHead` and
`PrototypeHead` are the usual dense baselines.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsesvm import _checks, functional, reference
from sparsesvm.results import Solution

__all__ = ["FittedHead", "PrototypeHead", "RidgeHead", "SparseSVMHead"]

Normalize = bool | Literal["each"]
Refit = bool | Literal["ridge"]


@dataclass(frozen=True)
class FittedHead:
    """A classifier fitted to a support set, affine in the standardised features.

    Attributes:
        weights: (..., n_way, n_features).
        bias: (..., n_way), or None.
        mean: (..., 1, n_features), subtracted from every query; None when the head does not centre.
        norm: (..., 1, 1), divides every query; None when the head does not normalise, or normalises each sample.
        scale: the logit scale.
        each: every query is divided by its own norm, after `mean` is subtracted.
    """

    weights: Tensor
    bias: Tensor | None
    mean: Tensor | None
    norm: Tensor | None
    scale: Tensor | float
    each: bool = False

    def decision_function(self, query: Tensor) -> Tensor:
        """Logits (..., n_query, n_way) of the query samples (..., n_query, n_features), in the dtype of `query`."""
        _checks.check_query(query, self.weights, "query")
        with _full_precision(query):
            features = query.to(self.weights.dtype)
            if self.mean is not None:
                features = features - self.mean
            norm = _norm(features) if self.each else self.norm
            logits = functional.decision_function(features, self.weights)
            if norm is not None:
                logits = logits / norm  # the logits are fewer than the features
            if self.bias is not None:
                logits = logits + self.bias.unsqueeze(-2)
            return (self.scale * logits).to(query.dtype)

    def predict(self, query: Tensor) -> Tensor:
        """Class with the largest logit, (..., n_query) int64."""
        return self.decision_function(query).argmax(-1)


class _FewShotHead(nn.Module):
    """What all heads share: standardised features, a logit scale, the call. A subclass fits the linear classifier."""

    log_scale: nn.Parameter | None

    def __init__(self, *, center: bool, normalize: Normalize, scale: float, learn_scale: bool) -> None:
        super().__init__()
        if normalize not in (True, False, "each"):
            raise ValueError(f'normalize must be True, False or "each"; got {normalize!r}')
        scale = _checks.check_number("scale", scale, positive=True)
        self.center = center
        self.normalize = normalize
        self.scale = scale
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale))) if learn_scale else None

    def forward(
        self,
        query: Tensor,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        n_shot: int | None = None,
        *,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Fit the classifier to the support set and score the query samples.

        Args:
            query: (..., n_query, n_features), any floating-point dtype.
            support: (..., n_support, n_features); leading task dimensions as in `query`.
            support_labels: (..., n_support) integers in [0, n_way), in any order.
            n_way: number of classes; by default the largest label + 1, which must be known in advance, hence given,
                under `torch.compile`, `torch.export` and `torch.func.vmap`.
            n_shot: only checked: the support set must then hold n_way * n_shot samples. Nothing else depends on it.
            sample_weight: (..., n_support), >= 0. Zero removes a sample: tasks of different size share a batch by
                padding, and what the padding holds changes nothing.

        Returns:
            Logits (..., n_query, n_way) in the dtype of `query`. Half-precision inputs are solved in float32.
        """
        return self.fit(support, support_labels, n_way, n_shot, sample_weight=sample_weight).decision_function(query)

    def fit(
        self,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        n_shot: int | None = None,
        *,
        sample_weight: Tensor | None = None,
    ) -> FittedHead:
        """Fit the classifier to the support set; the arguments are those of the call."""
        _checks.check_features(support, "support")
        _checks.check_labels(support_labels, support, "support_labels", "support")
        labels = support_labels.long()
        n_way = _checks.find_n_way(labels, n_way)
        seen = _checks.check_label_range(labels, n_way, "support_labels")
        if n_shot is not None and support.shape[-2] != n_way * n_shot:
            raise ValueError(
                f"support must hold n_way * n_shot = {n_way} * {n_shot} samples; got {support.shape[-2]}. "
                "Leave n_shot out for tasks with unequal classes."
            )
        if sample_weight is not None:
            _checks.check_sample_weight(sample_weight, support, "support")
        with _full_precision(support):
            support = support.to(torch.promote_types(support.dtype, torch.float32))
            mean = norm = None
            if sample_weight is not None:
                sample_weight = sample_weight.to(support.dtype)
                _checks.check_penalty_range("sample_weight", sample_weight)
                # An absent sample may hold anything, NaN included, which a product with zero would keep.
                support = support.where(sample_weight.unsqueeze(-1) > 0, 0.0)
            _checks.check_finite("support", support)
            if self.center:
                mean = _weighted_mean(support, sample_weight)
                support = support - mean
            if self.normalize == "each":
                support = support / _norm(support)
            elif self.normalize:
                mean_square = _weighted_mean(support.square().sum(-1, keepdim=True), sample_weight)
                # A support set of identical samples is all zero once centred, and stays so.
                norm = torch.where(mean_square > 0, mean_square, 1.0).sqrt()
                support = support / norm
            if not seen:
                # Labels of no class must not pass for an answer.
                support = support.where(((labels >= 0) & (labels < n_way)).unsqueeze(-1), math.nan)
            weights, bias = self._fit_linear(support, labels, n_way, sample_weight)
            scale = self.scale if self.log_scale is None else self.log_scale.exp()
            return FittedHead(weights, bias, mean, norm, scale, self.normalize == "each")

    def _fit_linear(
        self, features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Weights (..., n_way, n_features) and bias (..., n_way) for standardised features."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        scale = f"scale={self.scale}, learn_scale={self.log_scale is not None}"
        return f"center={self.center}, normalize={self.normalize}, {scale}"


class SparseSVMHead(_FewShotHead):
    """Group-sparse multiclass SVM fitted to the support set: each task uses only a fraction of the features.

    Minimises `functional.solve`'s objective on the standardised support features; gradients reach the features, the
    logit scale and, if asked, the penalties through the exact implicit derivative.

    Args:
        lambda1_ratio: group penalty as a share of the smallest one that makes all weights zero (its upper bound,
            `lambda1_max`): 0 keeps all features, 1 none, at any number of shots. Default 0.1.
        lambda1: group penalty weighed against the sum (not mean) of hinge losses; give this or `lambda1_ratio`.
            `lambda1=0` is the Crammer-Singer SVM.
        lambda2: squared-norm penalty, likewise against the sum; > 0. Small values suit `normalize=True`.
        group_size: features come in consecutive blocks of this size, kept or dropped together.
        center: subtract the mean of the support set from support and query samples.
        normalize: divide both by the root-mean-square norm of the support samples, so that one `lambda2` serves
            encoders of any output scale. With "each", divide every sample by its own norm instead.
        refit: solve again with lambda1 = 0 on the features that the first solution uses: selection without shrinkage.
            With "ridge", drop the bounds of the smoothed dual too, which leaves ridge regression with penalty
            `dual_reg` (> 0): samples far beyond the margin then count as well, which helps where shots are few.
            The gradient holds the selected features fixed.
        max_active: largest share of the features (groups) that a task may use, in (0, 1]; less than 1 needs `refit`. Of the
            features that the first solution uses, those with the largest weight norms are kept. At one `lambda1_ratio`, tasks
            with fewer shots or more classes use more features: this bounds all of them.
        dual_reg: weight r of the smoothing term r / (2 lambda2) ||Y - dual||^2; 0 is the exact hinge, 1 the SVM of
            MetaOptNet with C = 1 / lambda2.
        tol: a task has converged when its duality gap is at most `tol` times its number of samples (sum of weights).
        max_iter: iteration limit of the solver.
        on_failure: "warn", "raise" or "ignore" when a task has not converged ("ignore" saves a synchronisation on CUDA).
        scale: logit scale, or its starting value. Decision values differ by about one between classes, as the hinge
            asks, so 1 would make near-uniform probabilities; ridge and SVM scales learnt on handwritten characters
            end near 14, 10 is on the way.
        learn_scale: make the scale a parameter (kept as its logarithm).
        learn_penalties: make lambda2 and the group penalty parameters (kept as logarithms; a learnt ratio never
            exceeds 1). A penalty of exactly zero stays zero.

    Attributes:
        last_solution: the `Solution` of the last call, detached: gap, status, active features. With `refit` the second one;
            with "ridge", which needs no solver, the first one, whose `active` are the features kept. Not part of the state
            dict nor of copies. None after a call under `torch.func.vmap`, whose tensors are of no use outside.
    """

    log_lambda1: nn.Parameter | None
    log_lambda1_ratio: nn.Parameter | None
    log_lambda2: nn.Parameter | None

    def __init__(
        self,
        lambda1_ratio: float | None = None,
        *,
        lambda1: float | None = None,
        lambda2: float = 0.1,
        group_size: int = 1,
        center: bool = True,
        normalize: Normalize = True,
        refit: Refit = False,
        max_active: float = 1.0,
        dual_reg: float = 0.0,
        tol: float = 1e-6,
        max_iter: int = 100,
        on_failure: str = "warn",
        scale: float = 10.0,
        learn_scale: bool = True,
        learn_penalties: bool = False,
    ) -> None:
        super().__init__(center=center, normalize=normalize, scale=scale, learn_scale=learn_scale)
        if lambda1 is not None and lambda1_ratio is not None:
            raise ValueError(f"give lambda1 or lambda1_ratio, not both; got {lambda1} and {lambda1_ratio}")
        if lambda1 is not None:
            lambda1 = _checks.check_number("lambda1", lambda1)
        else:
            lambda1_ratio = _checks.check_ratio_number(0.1 if lambda1_ratio is None else lambda1_ratio)
        self.lambda1 = lambda1
        self.lambda1_ratio = lambda1_ratio
        self.lambda2 = _checks.check_number("lambda2", lambda2, positive=True)
        self.group_size = group_size
        self.refit = refit
        self.max_active = _checks.check_number("max_active", max_active, positive=True)
        if self.max_active > 1 or (self.max_active < 1 and not refit):
            raise ValueError(f"max_active must lie in (0, 1], and less than 1 needs refit; got {max_active}, refit={refit}")
        self.dual_reg = _checks.check_number("dual_reg", dual_reg)
        if refit not in (True, False, "ridge"):
            raise ValueError(f'refit must be True, False or "ridge"; got {refit!r}')
        if refit == "ridge" and (self.dual_reg == 0 or learn_penalties):
            raise ValueError(
                'refit="ridge" has the penalty dual_reg, which must be positive, and no gradient for learn_penalties; got '
                f"dual_reg={dual_reg}, learn_penalties={learn_penalties}"
            )
        self.tol = tol
        self.max_iter = max_iter
        self.on_failure = on_failure
        self.log_lambda1 = _log_parameter(lambda1) if learn_penalties else None
        self.log_lambda1_ratio = _log_parameter(lambda1_ratio) if learn_penalties else None
        self.log_lambda2 = _log_parameter(lambda2) if learn_penalties else None
        self.last_solution: Solution | None = None

    def _fit_linear(self, features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None) -> tuple[Tensor, None]:
        lambda2 = self.lambda2 if self.log_lambda2 is None else self.log_lambda2.exp()
        # The gradient of a refit does not pass through the first solution.
        first = features.detach() if self.refit else features
        solution = self._solve(first, labels, n_way, sample_weight, lambda2, **self._group_penalty())
        weights = solution.weights
        if self.refit:
            active = self._select(solution)
            # A zero column has zero weights at any lambda1, and the product stops its gradient.
            selected = features * active.repeat_interleave(self.group_size, -1).unsqueeze(-2)
            if self.refit == "ridge":
                solution = solution._replace(active=active)
                weights = _ridge_weights(selected, labels, n_way, sample_weight, self.dual_reg)
            else:
                solution = self._solve(selected, labels, n_way, sample_weight, lambda2, lambda1=0.0, init_dual=solution.dual)
                weights = solution.weights
        self.last_solution = Solution(*(field.detach() for field in solution)) if _outlives_the_call(solution.n_iter) else None
        return weights, None

    def _select(self, solution: Solution) -> Tensor:
        """The groups to refit on, (..., n_groups): the active ones, or the `max_active` share with the largest weight norms."""
        most = max(1, math.floor(self.max_active * solution.active.shape[-1] + 1e-9))
        if most == solution.active.shape[-1]:
            return solution.active
        norm = reference.group_norms(solution.weights.detach(), self.group_size)
        largest = torch.zeros_like(solution.active).scatter(-1, norm.topk(most, -1).indices, True)
        return solution.active & largest

    def _solve(
        self,
        features: Tensor,
        labels: Tensor,
        n_way: int,
        sample_weight: Tensor | None,
        lambda2: Tensor | float,
        **options: Any,
    ) -> Solution:
        return functional.solve(
            features,
            labels,
            n_way=n_way,
            sample_weight=sample_weight,
            lambda2=lambda2,
            group_size=self.group_size,
            dual_reg=self.dual_reg,
            tol=self.tol,
            max_iter=self.max_iter,
            on_failure=self.on_failure,
            **options,
        )

    def _group_penalty(self) -> dict[str, Tensor | float | None]:
        if self.log_lambda1 is not None:
            return {"lambda1": self.log_lambda1.exp()}
        if self.log_lambda1_ratio is not None:
            return {"lambda1_ratio": self.log_lambda1_ratio.exp().clamp(max=1.0)}
        return {"lambda1": self.lambda1, "lambda1_ratio": self.lambda1_ratio}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "last_solution": None}  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        name, value = ("lambda1", self.lambda1) if self.lambda1_ratio is None else ("lambda1_ratio", self.lambda1_ratio)
        learnt = self.log_lambda2 is not None
        return (
            f"{name}={value}, lambda2={self.lambda2}, group_size={self.group_size}, refit={self.refit}, "
            f"max_active={self.max_active}, dual_reg={self.dual_reg}, tol={self.tol}, learn_penalties={learnt}, "
            f"{super().extra_repr()}"
        )


class RidgeHead(_FewShotHead):
    """Ridge regression on the support set in closed form, the head of R2-D2 (Bertinetto et al. 2019).

    Minimises 1/2 sum_i c_i ||W f_i - t_i||^2 + lambda2 / 2 ||W||^2 with targets t_i = one-hot(y_i) - 1 / n_way, in the
    Gram matrix of the support samples.

    Args:
        lambda2: squared-norm penalty, weighed against the sum of squared errors; > 0.
        center, normalize, scale, learn_scale, learn_penalties: as in `SparseSVMHead`.
    """

    log_lambda2: nn.Parameter | None

    def __init__(
        self,
        *,
        lambda2: float = 0.1,
        center: bool = True,
        normalize: Normalize = True,
        scale: float = 10.0,
        learn_scale: bool = True,
        learn_penalties: bool = False,
    ) -> None:
        super().__init__(center=center, normalize=normalize, scale=scale, learn_scale=learn_scale)
        self.lambda2 = _checks.check_number("lambda2", lambda2, positive=True)
        self.log_lambda2 = _log_parameter(lambda2) if learn_penalties else None

    def _fit_linear(self, features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None) -> tuple[Tensor, None]:
        lambda2 = self.lambda2 if self.log_lambda2 is None else self.log_lambda2.exp()
        return _ridge_weights(features, labels, n_way, sample_weight, lambda2), None

    def extra_repr(self) -> str:
        return f"lambda2={self.lambda2}, learn_penalties={self.log_lambda2 is not None}, {super().extra_repr()}"


class PrototypeHead(_FewShotHead):
    """Nearest class mean, the head of Prototypical Networks (Snell et al. 2017).

    Logits are minus the squared Euclidean distances to the class means, less the squared norm of the query: a term
    common to all classes, which changes neither predictions nor cross entropy. A class without support samples is
    never predicted.

    Args:
        center, normalize, scale, learn_scale: as in `SparseSVMHead`.
    """

    def __init__(
        self, *, center: bool = True, normalize: Normalize = True, scale: float = 10.0, learn_scale: bool = True
    ) -> None:
        super().__init__(center=center, normalize=normalize, scale=scale, learn_scale=learn_scale)

    def _fit_linear(self, features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None) -> tuple[Tensor, Tensor]:
        members = functional.one_hot(labels, n_way).to(features.dtype)
        if sample_weight is not None:
            members = members * sample_weight.unsqueeze(-1)
        total = members.sum(-2)
        empty = total == 0
        prototypes = members.mT @ features / torch.where(empty, 1.0, total).unsqueeze(-1)
        # Hugely negative but finite for an empty class: the gradient of the scale must not meet 0 * inf.
        never = -math.sqrt(torch.finfo(features.dtype).max)
        bias = torch.where(empty, never, -prototypes.square().sum(-1))
        return 2 * prototypes, bias


def _ridge_weights(features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None, lambda2: Tensor | float) -> Tensor:
    """`RidgeHead`'s weights (..., n_way, n_features)."""
    targets = functional.one_hot(labels, n_way).to(features.dtype) - 1 / n_way
    # (F' C F + lambda2 I)^-1 F' C T = F' C (F F' C + lambda2 I)^-1 T. Without square roots of the weights C, the gradient
    # exists at weight zero too.
    weight = 1.0 if sample_weight is None else sample_weight.unsqueeze(-1)
    gram = (weight * (features @ features.mT)).mT
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    coefficients: Tensor = weight * torch.linalg.solve(gram + lambda2 * identity, targets)
    return coefficients.mT @ features


def _full_precision(tensor: Tensor) -> torch.autocast:
    """No autocast inside: the solvers work in float32 at least."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)


def _outlives_the_call(tensor: Tensor) -> bool:
    """Not if it is mapped by torch.func.vmap."""
    if torch.compiler.is_compiling():
        return True
    try:
        tensor.sum().item()
    except RuntimeError:
        return False
    return True


def _weighted_mean(values: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Mean over the samples, (..., 1, n); zero when all samples are absent."""
    if sample_weight is None:
        return values.mean(-2, keepdim=True)
    weight = sample_weight.unsqueeze(-1)
    total = weight.sum(-2, keepdim=True)
    return (weight * values).sum(-2, keepdim=True) / torch.where(total > 0, total, 1.0)


def _norm(features: Tensor) -> Tensor:
    """Length of each sample, (..., n, 1); one for a sample of zeros, which stays so."""
    square = features.square().sum(-1, keepdim=True)
    return torch.where(square > 0, square, 1.0).sqrt()


def _log_parameter(value: float | None) -> nn.Parameter | None:
    return nn.Parameter(torch.tensor(math.log(value))) if value else None
