"""`SparseSVMHead`: the group-sparse multiclass SVM of Lachapelle et al. 2023 (arXiv 2211.14666) as a few-shot head."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsesvm import _checks, _intercept, functional, reference
from sparsesvm.dense_heads import ridge_weights
from sparsesvm.fewshot import FewShotHead, Normalize, log_parameter
from sparsesvm.results import Solution

Refit = bool | Literal["ridge"]


class SparseSVMHead(FewShotHead):
    """Group-sparse multiclass SVM fitted to the support set: each task uses only a fraction of the features.

    Minimises `functional.solve`'s objective on the standardised support features; gradients reach the features, the
    logit scale and, if asked, the penalties through the exact implicit derivative.

    Args:
        lambda1_ratio: group penalty as a share of the smallest one that makes all weights zero (its upper bound,
            `lambda1_max`): 0 keeps all features, 1 none, at any number of shots and any `dual_reg`. Default 0.1.
        lambda1: group penalty weighed against the sum (not mean) of hinge losses; give this or `lambda1_ratio`.
            `lambda1=0` is the Crammer-Singer SVM.
        lambda2: squared-norm penalty, likewise against the sum; > 0. Small values suit `normalize=True`.
        group_size: features come in consecutive blocks of this size, kept or dropped together.
        group_weight: (n_features / group_size,), positive factors of the group penalty, by default ones. A buffer, which
            moves with the module and is no part of its state.
        center: subtract the mean of the support set from support and query samples.
        normalize: divide both by the root-mean-square norm of the support samples, so that one `lambda2` serves
            encoders of any output scale. With "each", divide every sample by its own norm instead.
        refit: solve again with lambda1 = 0 on the features that the first solution uses: selection without shrinkage.
            With "ridge", drop the bounds of the smoothed dual too, which leaves ridge regression: samples far beyond the
            margin then count as well, which helps where shots are few. Its penalty is `dual_reg` (> 0) divided by the shots,
            the mean weight of a class: the more samples show how a class varies, the less has to be assumed.
            The gradient holds the selected features fixed.
        max_active: largest share of the features (groups) that a task may use, in (0, 1]; less than 1 needs `refit`. Of the
            features that the first solution uses, those with the largest weight norms are kept. At one `lambda1_ratio`, tasks
            with fewer shots or more classes use more features: this bounds all of them.
        class_weight: "balanced" gives every class the same total weight, so that tasks of unequal classes are fitted for balanced
            accuracy; classes of equal weight are left as they are. None takes samples as they come.
        intercept: fit one, which is not penalised, instead of relying on the centre of the support set. Not with refit="ridge".
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

    Example:
        >>> import torch
        >>> from sparsesvm import SparseSVMHead
        >>> head = SparseSVMHead(lambda1_ratio=0.2)
        >>> support, query = torch.randn(4, 10, 64), torch.randn(4, 30, 64)
        >>> labels = (torch.arange(10) % 5).expand(4, -1)
        >>> head(query, support, labels).shape  # four tasks of five classes
        torch.Size([4, 30, 5])
        >>> head.last_solution.active.shape
        torch.Size([4, 64])
    """

    log_lambda1: nn.Parameter | None
    log_lambda1_ratio: nn.Parameter | None
    log_lambda2: nn.Parameter | None
    group_weight: Tensor | None

    def __init__(
        self,
        lambda1_ratio: float | None = None,
        *,
        lambda1: float | None = None,
        lambda2: float = 0.1,
        group_size: int = 1,
        group_weight: Tensor | None = None,
        center: bool = True,
        normalize: Normalize = True,
        refit: Refit = False,
        max_active: float = 1.0,
        class_weight: Literal["balanced"] | None = "balanced",
        intercept: bool = False,
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
        self.group_size = _checks.check_integer("group_size", group_size, minimum=1)
        if group_weight is None:
            self.group_weight = None
        else:
            self.register_buffer("group_weight", group_weight, persistent=False)
        self.refit = refit
        self.max_active = _checks.check_number("max_active", max_active, positive=True)
        if self.max_active > 1 or (self.max_active < 1 and not refit):
            raise ValueError(f"max_active must lie in (0, 1], and less than 1 needs refit; got {max_active}, refit={refit}")
        self.dual_reg = _checks.check_number("dual_reg", dual_reg)
        if refit not in (True, False, "ridge"):
            raise ValueError(f'refit must be True, False or "ridge"; got {refit!r}')
        if refit == "ridge" and (self.dual_reg == 0 or learn_penalties):
            raise ValueError(
                'refit="ridge" takes its penalty from dual_reg, which must be positive, and no gradient for learn_penalties; got '
                f"dual_reg={dual_reg}, learn_penalties={learn_penalties}"
            )
        if class_weight not in ("balanced", None):
            raise ValueError(f'class_weight must be "balanced" or None; got {class_weight!r}')
        if intercept and refit == "ridge":
            raise ValueError('refit="ridge" fits no intercept; got intercept=True')
        self.class_weight = class_weight
        self.intercept = intercept
        self.tol = _checks.check_number("tol", tol)
        self.max_iter = _checks.check_integer("max_iter", max_iter, minimum=0)
        _checks.check_on_failure(on_failure)
        self.on_failure = on_failure
        self.log_lambda1 = log_parameter(lambda1) if learn_penalties else None
        self.log_lambda1_ratio = log_parameter(lambda1_ratio) if learn_penalties else None
        self.log_lambda2 = log_parameter(lambda2) if learn_penalties else None
        self.last_solution: Solution | None = None

    def _fit_linear(
        self, features: Tensor, labels: Tensor, n_way: int, sample_weight: Tensor | None, task_way: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        lambda2 = self.lambda2 if self.log_lambda2 is None else self.log_lambda2.exp()
        # The gradient of a refit does not pass through the first solution.
        first = features.detach() if self.refit else features
        ways = n_way if task_way is None else task_way
        solution, bias = self._solve(first, labels, ways, sample_weight, lambda2, **self._group_penalty())
        weights = solution.weights
        if self.refit:
            active, candidates = self._select(solution)
            # A zero column has zero weights at any lambda1, and the product stops its gradient.
            if self.refit == "ridge":
                solution = solution._replace(active=active)
                penalty = self._ridge_penalty(labels, ways, sample_weight)
                columns = None if candidates is None else _columns(candidates, self.group_size)
                selected = _take(features, columns) * _take(self._on(active), columns)
                weights = ridge_weights(selected, labels, n_way, sample_weight, penalty, "dual_reg", task_way)
                weights = _put_back(weights, columns, features.shape[-1])
            else:
                again = {"lambda1": 0.0, "init_dual": solution.dual}
                solution, bias = self._solve(features * self._on(active), labels, ways, sample_weight, lambda2, **again)
                weights = solution.weights
        self.last_solution = Solution(*(field.detach() for field in solution)) if _outlives_the_call(solution.n_iter) else None
        return weights, bias

    def _weigh(self, labels: Tensor, n_way: int, sample_weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        if self.class_weight is None:
            return sample_weight
        is_class = _checks.one_hot(labels, n_way).to(dtype)
        if sample_weight is not None:
            is_class = is_class * sample_weight.unsqueeze(-1)
        totals = is_class.sum(-2)
        # Of its even share of the total; the product first, so that counts that are equal give exactly one.
        share = totals * (totals > 0).sum(-1, keepdim=True) / totals.sum(-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
        if _are_equal(share):
            return sample_weight
        weight = (_checks.one_hot(labels, n_way) / torch.where(share > 0, share, 1.0).unsqueeze(-2)).sum(-1)
        # A label of no class keeps its sample, and with it the report of its label.
        weight = torch.where((labels >= 0) & (labels < n_way), weight, 1.0)
        return weight if sample_weight is None else weight * sample_weight

    def _ridge_penalty(self, labels: Tensor, n_way: int | Tensor, sample_weight: Tensor | None) -> Tensor | float:
        """(..., 1, 1), or a number where all tasks have the same."""
        if isinstance(n_way, Tensor):
            n_way = n_way[..., None, None]
        if sample_weight is None:
            return self.dual_reg * n_way / labels.shape[-1]
        total = sample_weight.sum(-1)[..., None, None]
        return self.dual_reg * n_way / torch.where(total > 0, total, 1.0)

    def _select(self, solution: Solution) -> tuple[Tensor, Tensor | None]:
        """The groups to refit on, (..., n_groups): the active ones, or the `max_active` share with the largest weight norms; and
        the numbers of these, (..., most), None where all may be used."""
        most = max(1, math.floor(self.max_active * solution.active.shape[-1] + 1e-9))
        if most == solution.active.shape[-1]:
            return solution.active, None
        norm = reference.group_norms(solution.weights.detach(), self.group_size)
        largest = norm.topk(most, -1, sorted=False).indices.sort(-1).values
        return solution.active & torch.zeros_like(solution.active).scatter(-1, largest, True), largest

    def _on(self, active: Tensor) -> Tensor:
        """The features of active groups, (..., 1, n_features)."""
        return active.repeat_interleave(self.group_size, -1).unsqueeze(-2)

    def _solve(
        self,
        features: Tensor,
        labels: Tensor,
        n_way: int | Tensor,
        sample_weight: Tensor | None,
        lambda2: Tensor | float,
        **options: Any,
    ) -> tuple[Solution, Tensor | None]:
        options |= {
            "n_way": n_way,
            "sample_weight": sample_weight,
            "lambda2": lambda2,
            "group_size": self.group_size,
            "group_weight": self.group_weight,
            "dual_reg": self.dual_reg,
            "tol": self.tol,
            "max_iter": self.max_iter,
            "on_failure": self.on_failure,
        }
        if self.intercept:
            return _intercept.solve(features, labels, **options)
        return functional.solve(features, labels, **options), None

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
            f"max_active={self.max_active}, class_weight={self.class_weight}, intercept={self.intercept}, "
            f"dual_reg={self.dual_reg}, tol={self.tol}, learn_penalties={learnt}, "
            f"{super().extra_repr()}"
        )


def _are_equal(share: Tensor) -> bool:
    """Whether classes of samples have equal totals; not if it cannot be seen without waiting."""
    extremes = _checks._extremes(torch.where(share > 0, share, 1.0))
    return extremes == (1.0, 1.0)


def _columns(groups: Tensor, group_size: int) -> Tensor:
    """Of features, (..., 1, columns)."""
    return (groups.unsqueeze(-1) * group_size + torch.arange(group_size, device=groups.device)).flatten(-2).unsqueeze(-2)


def _take(rows: Tensor, columns: Tensor | None) -> Tensor:
    return rows if columns is None else rows.gather(-1, columns.expand(*rows.shape[:-1], -1))


def _put_back(rows: Tensor, columns: Tensor | None, n_features: int) -> Tensor:
    """Among zeros."""
    if columns is None:
        return rows
    return rows.new_zeros((*rows.shape[:-1], n_features)).scatter(-1, columns.expand(rows.shape), rows)


def _outlives_the_call(tensor: Tensor) -> bool:
    """Not if it is mapped by torch.func.vmap."""
    if torch.compiler.is_compiling():
        return True
    try:
        tensor.sum().item()
    except RuntimeError:
        return False
    return True
