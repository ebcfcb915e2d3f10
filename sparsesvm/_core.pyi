"""The compiled solver. Addresses, sizes and strides in; callers own all memory. See csrc/core/problem.h and regression.h for the layouts."""

from typing import Any

def acceptable(
    n_tasks: int, n_samples: int, n_way: int, labels: int, sample_weight: int, lambda1: int, lambda2: int, /
) -> bool: ...
def solve(
    is_double: bool,
    n_tasks: int,
    n_samples: int,
    n_features: int,
    n_way: int,
    group_size: int,
    features: int,
    task_stride: int,
    row_stride: int,
    labels: int,
    sample_weight: int,
    lambda1: int,
    lambda2: int,
    dual_reg: float,
    tol: float,
    max_iter: int,
    init_dual: int,
    weights: int,
    dual: int,
    gap: int,
    objective: int,
    n_iter: int,
    status: int,
    active: int,
    workspace: int,
    workspace_bytes: int,
    n_threads: int,
    /,
) -> None: ...
def vjp(
    is_double: bool,
    n_tasks: int,
    n_samples: int,
    n_features: int,
    n_way: int,
    group_size: int,
    features: int,
    task_stride: int,
    row_stride: int,
    labels: int,
    sample_weight: int,
    lambda1: int,
    lambda2: int,
    dual_reg: float,
    weights: int,
    dual: int,
    grad_weights: int,
    grad_features: int,
    grad_lambda1: int,
    grad_lambda2: int,
    grad_sample_weight: int,
    workspace: int,
    workspace_bytes: int,
    n_threads: int,
    /,
) -> None: ...
def jvp(
    is_double: bool,
    n_tasks: int,
    n_samples: int,
    n_features: int,
    n_way: int,
    group_size: int,
    features: int,
    task_stride: int,
    row_stride: int,
    labels: int,
    sample_weight: int,
    lambda1: int,
    lambda2: int,
    dual_reg: float,
    weights: int,
    dual: int,
    tangent_features: int,
    tangent_lambda1: int,
    tangent_lambda2: int,
    tangent_sample_weight: int,
    tangent_weights: int,
    workspace: int,
    workspace_bytes: int,
    n_threads: int,
    /,
) -> None: ...
def solve_workspace(
    is_double: bool, n_tasks: int, n_samples: int, n_features: int, n_way: int, group_size: int, n_threads: int, /
) -> int: ...
def diff_workspace(
    is_double: bool, n_tasks: int, n_samples: int, n_features: int, n_way: int, group_size: int, n_threads: int, /
) -> int: ...
def solve_regression(
    is_double: bool,
    n_tasks: int,
    n_samples: int,
    n_features: int,
    n_outputs: int,
    max_active: int,
    features: int,
    task_stride: int,
    row_stride: int,
    targets: int,
    lambda1: int,
    lambda2: int,
    tol: float,
    max_iter: int,
    weights: int,
    gap: int,
    objective: int,
    n_iter: int,
    status: int,
    active: int,
    workspace: int,
    workspace_bytes: int,
    n_threads: int,
    /,
) -> None: ...
def regression_vjp(
    is_double: bool,
    n_tasks: int,
    n_samples: int,
    n_features: int,
    n_outputs: int,
    max_active: int,
    features: int,
    task_stride: int,
    row_stride: int,
    targets: int,
    lambda1: int,
    lambda2: int,
    weights: int,
    grad_weights: int,
    grad_features: int,
    grad_targets: int,
    grad_lambda1: int,
    grad_lambda2: int,
    workspace: int,
    workspace_bytes: int,
    n_threads: int,
    /,
) -> None: ...
def solve_regression_workspace(
    is_double: bool, n_tasks: int, n_samples: int, n_features: int, n_outputs: int, max_active: int, n_threads: int, /
) -> int: ...
def regression_vjp_workspace(
    is_double: bool, n_tasks: int, n_samples: int, n_features: int, n_outputs: int, max_active: int, n_threads: int, /
) -> int: ...
def simd() -> dict[str, Any]: ...
