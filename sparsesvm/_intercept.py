"""An intercept that is not penalised, for `functional.solve`: the weights of a constant column that is a group of its own.

With s the root-mean-square norm of features F (..., n, m), the problem solved is that of [F, c 1] with c = 10,000 s. Weights w
of the column are an intercept b = c w, which so pays lambda1 ||b|| / c + lambda2 / 2 ||b||^2 / c^2. The objective without these
terms is nevertheless near its minimum: on four data sets, both losses, both types and lambda1 from 0.01 to 0.5 of its maximum
it was within 4e-7 sum_i c_i, less than the default tol; with c = 100 s within 2e-5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparsesvm import _checks, _lambda1_max, _ops, _path, _sparse, functional
from sparsesvm.results import Solution

_LENGTHS = 1e4  # c / s


def solve(
    features: Tensor,
    labels: Tensor,
    *,
    lambda1: float | Tensor | None = None,
    lambda1_ratio: float | Tensor | None = None,
    lambda2: float | Tensor,
    n_way: int | Tensor,
    sample_weight: Tensor | None = None,
    group_size: int = 1,
    group_weight: Tensor | None = None,
    dual_reg: float = 0.0,
    **options: Any,
) -> tuple[Solution, Tensor]:
    """The solution without the column, and the intercept (..., n_way); both differentiable. Arguments as in `functional.solve`;
    `lambda1_ratio` counts in `lambda1_max` below. Gap and objective are those of the problem solved."""
    problem: dict[str, Any] = {
        "lambda2": lambda2,
        "n_way": n_way,
        "sample_weight": sample_weight,
        "group_size": group_size,
        "group_weight": group_weight,
        "dual_reg": dual_reg,
    }
    if lambda1_ratio is not None:
        lambda1 = lambda1_ratio * lambda1_max(features, labels, **problem)
    size = column_size(features, sample_weight)
    problem["group_weight"] = append_weight(group_weight)
    solution = functional.solve(append(features, size, group_size), labels, lambda1=lambda1, **problem, **options)
    return split(solution, features.shape[-1], size)


def path(
    features: Tensor,
    labels: Tensor,
    penalties: Tensor,
    *,
    sample_weight: Tensor,
    lambda2: float,
    group_size: int,
    group_weight: Tensor | None = None,
    intercept: bool,
    **options: Any,
) -> tuple[Solution, Tensor | None]:
    """Solutions along penalties (n_lambdas, ...), each started from the one before, of tasks that share features (n, m) and
    labels (n,), with sample weights (..., n) and group weights (groups,) or (..., groups) in float64. Of features in compressed
    sparse rows one task. No gradients."""
    with torch.no_grad():
        m, size = features.shape[-1], column_size(features, None)
        if intercept:
            features, group_weight = append(features, size, group_size), append_weight(group_weight)
        if sample_weight.dim() > 1:
            features, labels = features.expand(*sample_weight.shape, -1), labels.expand(sample_weight.shape)
        arguments = functional.make_options(features, group_size=group_size, **options)
        ridge = _ops.per_task(lambda2, features)
        if group_weight is not None:
            group_weight = group_weight.expand(*features.shape[:-2], -1)
        problem = _path.Problem(features, labels, sample_weight.double(), ridge, arguments, group_weight)
        found = _path.stack(_path.along(problem, penalties))
        return split(found, m, size) if intercept else (found, None)


def lambda1_max(
    features: Tensor,
    labels: Tensor,
    *,
    lambda2: float | Tensor,
    n_way: int | Tensor,
    sample_weight: Tensor | None = None,
    group_size: int = 1,
    group_weight: Tensor | None = None,
    dual_reg: float = 0.0,
) -> Tensor:
    """Penalty from which on all weights but the intercept are zero, (...,) float64, a constant to the gradient.

    The dual of the intercept alone decides, max_G ||(c (Y - Lambda))' F_G|| / w_G: exactly with dual_reg > 0, where it is unique,
    else as an upper bound. There all samples of a class are alike: one of each, weighted like the class, makes the whole problem.
    """
    with torch.no_grad():
        weight = torch.ones_like(labels, dtype=torch.float64) if sample_weight is None else sample_weight.double()
        most, _ = _checks.split_n_way(n_way, features)
        assert most is not None
        is_class = _checks.one_hot(labels, most).double() * weight.unsqueeze(-1)
        classes = torch.arange(most, device=labels.device).expand(*labels.shape[:-1], most)
        column = column_size(features, sample_weight).double()[..., None, None].expand(*classes.shape, 1)
        uniform = (1 - torch.eye(most, dtype=torch.float64, device=labels.device)) / max(most - 1, 1)
        # Where the dual is not unique, that of equal classes gives the smaller bound.
        start = None if dual_reg else uniform.expand(*classes.shape, most).contiguous()
        bound: float | Tensor = 0.0
        for _ in range(2):  # the second time with what the intercept itself pays
            dual = functional.solve(
                column.contiguous(),
                classes.contiguous(),
                lambda1=bound,
                lambda2=lambda2,
                n_way=n_way,
                sample_weight=is_class.sum(-2),
                group_weight=None if group_weight is None else group_weight.amin(-1, keepdim=True),
                dual_reg=dual_reg,
                tol=1e-15,  # the dual is as exact as its root
                init_dual=start,
                on_failure="ignore",
            ).dual
            residual = is_class @ (torch.eye(most, dtype=torch.float64, device=labels.device) - dual)
            bound = _lambda1_max.largest_group_norm(residual.to(features.dtype), features, group_size, group_weight)
        assert isinstance(bound, Tensor)
        return bound * (1 + 1e-6)


def column_size(features: Tensor, sample_weight: Tensor | None) -> Tensor:
    """The constant of the column, (...,)."""
    with torch.no_grad():
        if _sparse.is_sparse(features):
            squares = features.values().new_zeros(features.shape[0]).index_add_(0, _rows(features), features.values().square())
        else:
            squares = features.square().sum(-1)
        if sample_weight is None:
            mean = squares.mean(-1)
        else:
            total = sample_weight.sum(-1)
            mean = (sample_weight * squares).sum(-1) / torch.where(total > 0, total, 1.0)
        return _LENGTHS * torch.where(mean > 0, mean, 1.0).sqrt()


def append_weight(group_weight: Tensor | None) -> Tensor | None:
    """With that of the intercept, whose penalty is to be negligible beside all others."""
    return None if group_weight is None else torch.cat([group_weight, group_weight.amin(-1, keepdim=True)], -1)


def append(features: Tensor, size: Tensor, group_size: int) -> Tensor:
    """Features with one more group, whose first column is constant and whose others are zero."""
    if _sparse.is_sparse(features):
        n, m = features.shape
        start = features.crow_indices() + torch.arange(n + 1)
        column, values = features.col_indices().new_full((int(start[-1]),), m), features.values().new_empty(int(start[-1]))
        place = torch.arange(features.values().numel()) + _rows(features)
        column[place], values[start[1:] - 1] = features.col_indices(), size.to(values.dtype)
        values[place] = features.values()
        return torch.sparse_csr_tensor(start, column, values, (n, m + group_size), check_invariants=False)
    first = torch.arange(group_size, device=features.device) == 0
    group = size.to(features.dtype)[..., None, None] * first
    return torch.cat([features, group.expand(*features.shape[:-1], group_size)], -1)


def _rows(features: Tensor) -> Tensor:
    """The row of each entry of compressed sparse rows."""
    return torch.arange(features.shape[0]).repeat_interleave(features.crow_indices().diff())


def split(solution: Solution, m: int, size: Tensor) -> tuple[Solution, Tensor]:
    """The solution of the m features, and the intercept (..., n_way)."""
    weights, column = solution.weights[..., :m], solution.weights[..., m]
    return solution._replace(weights=weights, active=solution.active[..., :-1]), column * size.unsqueeze(-1).to(column.dtype)
