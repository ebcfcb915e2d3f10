"""Features in compressed sparse rows (torch.sparse_csr): checks, the call of the solver, the bound on lambda1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparsesvm import _ops

if TYPE_CHECKING:
    from sparsesvm._autograd import Options


def is_sparse(features: Tensor) -> bool:
    return features.layout == torch.sparse_csr


def check(features: Tensor) -> None:
    """One task on the CPU without a gradient, and rows that the solver can walk along."""
    if features.dim() != 2:
        raise ValueError(
            f"features in compressed sparse rows must have shape (n_support, n_features), one task; got {tuple(features.shape)}. "
            "Solve the tasks one by one."
        )
    if features.device.type != "cpu":
        raise TypeError(
            f"features in compressed sparse rows must be on the CPU; got device {features.device}. Use features.cpu()."
        )
    n_features = features.shape[1]
    start, column = features.crow_indices(), features.col_indices()
    lengths = start.diff()
    sound = int(start[0]) == 0 and int(start[-1]) == column.numel() == features.values().numel() and bool((lengths >= 0).all())
    if sound and column.numel():
        sound = int(column.min()) >= 0 and int(column.max()) < n_features
        begins = torch.zeros(column.numel() + 1, dtype=torch.bool)
        begins[start] = True
        sound = sound and bool(((column.diff() > 0) | begins[1:-1]).all())
    if not sound:
        raise ValueError(
            f"features in compressed sparse rows must have column indices in [0, {n_features}) that increase within each row; "
            "these do not. From scipy, call sum_duplicates() and sort_indices() first."
        )


def solve(
    features: Tensor,
    labels: Tensor,
    sample_weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    init_dual: Tensor | None,
    init_weights: Tensor | None,
    group_weight: Tensor | None,
    options: Options,
) -> tuple[Tensor, ...]:
    """As `_ops.solve`. Raises NotImplementedError where a gradient would be recorded."""
    tensors = (features, labels, sample_weight, lambda1, lambda2, init_dual, init_weights)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors if t is not None):
        raise NotImplementedError(
            "features in compressed sparse rows have no gradient, nor have the penalties and weights with them; solve under "
            "torch.no_grad(), or use features.to_dense()"
        )
    n_way, group_size, dual_reg, tol, max_iter, on_failure, _ = options
    values = features.values().contiguous()
    start, column = features.crow_indices().long().contiguous(), features.col_indices().long().contiguous()
    labels, sample_weight, lambda1, lambda2 = (t.contiguous() for t in (labels, sample_weight, lambda1, lambda2))
    group_weight = None if group_weight is None else group_weight.contiguous()
    _ops.check_values(labels, sample_weight, lambda1, lambda2, n_way, dual_reg, group_weight)
    init_dual = _ops.readable_dual(init_dual)
    if init_weights is not None:
        init_weights = init_weights.contiguous()
    like = values.new_empty(1, 1).expand(features.shape)
    outputs = _ops.solve_outputs(like, n_way, group_size)
    _ops.launch(
        "sparse_solve",
        "sparse_solve",
        like,
        (values.dtype == torch.float64, *features.shape, n_way, group_size, values.numel()),
        values.data_ptr(),
        start.data_ptr(),
        column.data_ptr(),
        labels.data_ptr(),
        sample_weight.data_ptr(),
        lambda1.data_ptr(),
        lambda2.data_ptr(),
        0 if group_weight is None else group_weight.data_ptr(),
        dual_reg,
        tol,
        max_iter,
        0 if init_dual is None else init_dual.data_ptr(),
        0 if init_weights is None else init_weights.data_ptr(),
        *(t.data_ptr() for t in outputs),
    )
    _, _, gap, _, n_iter, status, _ = outputs
    _ops.report(status, gap, n_iter, on_failure)
    return outputs


def present(features: Tensor, sample_weight: Tensor) -> Tensor:
    """The entries of samples of weight zero are zero, whatever they hold."""
    start = features.crow_indices()
    kept = (sample_weight > 0).repeat_interleave(start.diff())
    values = features.values().where(kept, 0.0)
    return torch.sparse_csr_tensor(start, features.col_indices(), values, features.shape, check_invariants=False)


def correlation(features: Tensor, residual: Tensor) -> Tensor:
    """residual' F (n_way, n_features) in float64.

    A class at a time: torch's product of sparse rows takes twice as long, all of it deaf to Ctrl-C.
    """
    row = torch.arange(features.shape[0]).repeat_interleave(features.crow_indices().diff())
    column, values, residual = features.col_indices(), features.values().double(), residual.double()
    by_class = [torch.bincount(column, values * residual[row, label], features.shape[1]) for label in range(residual.shape[1])]
    return torch.stack(by_class).double()  # counts of no entries are integers
