"""The stateless interface: solve a batch of tasks, score with the weights, certify and choose penalties."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from sparsesvm import _autograd, _checks, _lambda1_max, _ops, _path, _sparse, reference
from sparsesvm._backends import USABLE_DEVICES
from sparsesvm.results import NoFeaturesWarning, RegularizationPath, Solution

__all__ = ["decision_function", "duality_gap", "lambda1_max", "regularization_path", "solve"]


def solve(
    features: Tensor,
    labels: Tensor,
    *,
    lambda1: float | Tensor | None = None,
    lambda1_ratio: float | Tensor | None = None,
    lambda2: float | Tensor,
    n_way: int | Tensor | None = None,
    sample_weight: Tensor | None = None,
    group_size: int = 1,
    group_weight: Tensor | None = None,
    dual_reg: float = 0.0,
    tol: float = 1e-6,
    max_iter: int = 100,
    init_dual: Tensor | None = None,
    on_failure: str = "warn",
) -> Solution:
    """Fit group-sparse multiclass SVMs, one per task, each certified by its duality gap.

    Minimises over W, for each task with features f_i, one-hot labels Y, sample weights c and groups G of features with weights w,

        sum_i c_i max_l [1 - Y_il + (W_l - W_{y_i}) . f_i] + lambda1 sum_G w_G ||W_:G|| + lambda2 / 2 ||W||^2.

    The hinge is a sum over samples, not a mean: the penalties weigh against the sum. With `dual_reg` r > 0 the dual gains
    the term r / (2 lambda2) sum_i c_i ||Lambda_i - Y_i||^2, which smooths the hinge.

    Args:
        features: (..., n_support, n_features), any strides; float16 and bfloat16 are solved in float32. Differentiable. Or one
            task (n_support, n_features) in compressed sparse rows, torch.sparse_csr, on the CPU: never made dense, no gradient.
        labels: (..., n_support) integers in [0, n_way), in any order; those of samples of weight zero may be anything.
        lambda1: group penalty, >= 0: a number, a scalar tensor or one value per task (...,). Differentiable.
        lambda1_ratio: the group penalty as a share of `lambda1_max` of this problem, its cheap upper bound, which the
            gradient takes as a constant. Exactly one of lambda1 and lambda1_ratio. Differentiable.
        lambda2: squared-norm penalty, >= 0, of a shape like lambda1. Differentiable where positive. At zero (with lambda1 > 0
            and dual_reg = 0) the weights need not be unique: the status NOT_UNIQUE says so.
        n_way: number of classes; by default the largest label + 1, with a warning where that leaves a class empty. Required
            under vmap, torch.compile and torch.export. Or one number for each task, an integer tensor (...,): classes from
            there on are absent, with weights and dual zero, and the task has the solution, gap and gradient that it has
            alone. On a CUDA device that waits for the numbers.
        sample_weight: (..., n_support), >= 0, by default ones. Zero removes a sample: tasks of different size share a
            batch by padding, and what the padding holds changes nothing. Differentiable.
        group_size: features come in consecutive groups of this size, kept or dropped together. Groups of unequal size are
            padded with columns of zeros, which change nothing.
        group_weight: (n_features / group_size,), positive: w above, by default ones. Shared by the tasks, and without gradient.
        dual_reg: r above; 0 is the exact hinge, 1 the smoothed SVM of MetaOptNet with C = 1 / lambda2.
        tol: relative; a task has converged when its gap <= tol * sum_i c_i, the objective at W = 0. The arithmetic is
            float64 also for float32 features, so that both types certify the default.
        max_iter: limit on the outer iterations of each task: on Newton steps on the dual, of which 25 at most are tried where
            the proximal method may follow, and again on its proximal steps.
        init_dual: (..., n_support, n_way), where to start, e.g. the dual of a neighbouring problem.
        on_failure: "warn" (`ConvergenceWarning`), "raise" (`ConvergenceError`) or "ignore" when a task did not converge. With
            "warn", a lambda1_ratio below 1 that leaves all tasks of the call without features says so on the CPU, once
            (`NoFeaturesWarning`); single tasks of a batch may well have none.

    Returns:
        `Solution`; weights have the dtype of the features (float32 for half precision).

    Raises:
        TypeError, ValueError: naming the argument, what was required and what was given. Features that are not finite
            in a sample of positive weight are a ValueError.
        ConvergenceError: with on_failure="raise".
        NotImplementedError: when the weights are differentiated twice, or with sparse features once.

    On a CUDA device the work goes to the current stream, and only a report of failures waits for it: with on_failure="ignore"
    and a number for n_way nothing does, so that the call can be captured in a CUDA graph. Values are not looked at there: a
    task whose features, labels, weights or penalties are out of range has the status NON_FINITE and weights that are NaN,
    other tasks are unharmed; the gradient of a task that did not converge does not warn, and that of one with lambda2 = 0 is
    NaN.

    On the CPU tasks share torch's threads (`torch.set_num_threads`), whose number does not change the result. A process
    forked after these were used solves on one thread, and sets torch to one, which would else wait for ever. Ctrl-C on the main
    thread ends the call within 0.2 s.

    Where an input records a gradient (or has a tangent), a solve goes on beyond the certificate until the active
    groups and dual entries are those of the solution by an estimate, which a certificate alone does not promise; the weights
    then differ within tol from those of the same call without. Where the sets cannot be decided (a kink, copies of a sample)
    the status is NOT_IDENTIFIED: the solution is within tol, and its gradient one of several.

    Source: Lachapelle et al. 2023 (arXiv 2211.14666), the inner problem and its dual. The gradient differentiates the
    optimality conditions on the active groups and the free dual coordinates. Formulas: docs/method.md.

    Example:
        >>> import torch, sparsesvm
        >>> features, labels = torch.eye(6), torch.tensor([0, 0, 1, 1, 2, 2])
        >>> solution = sparsesvm.solve(features, labels, lambda1_ratio=0.5, lambda2=0.1)
        >>> solution.weights.shape, bool(solution.gap <= 1e-6 * 6)
        (torch.Size([3, 6]), True)
    """
    _check_features(features)
    _checks.check_device(features, USABLE_DEVICES)
    _checks.check_labels(labels, features)
    _checks.check_one_penalty(lambda1, lambda1_ratio)
    _checks.check_penalty("lambda2", lambda2, features)
    if sample_weight is not None:
        _checks.check_sample_weight(sample_weight, features)
    n_way, task_way = _checks.split_n_way(n_way, features)
    n_way = _checks.find_n_way(labels, n_way, sample_weight)
    options = make_options(features, n_way, group_size, dual_reg, tol, max_iter, on_failure)
    group_weight = _checks.check_group_weight(group_weight, features, options.group_size)
    labels = _checks.class_numbers(labels, sample_weight)
    if init_dual is not None:
        _checks.check_dual(init_dual, features, options.n_way)
        init_dual = init_dual.detach().double()
    if features.element_size() < 4:
        features = features.float()
    if lambda1_ratio is not None:
        _checks.check_ratio(lambda1_ratio, features)
        structure = (options.group_size, group_weight)
        bound = _lambda1_max.cheap(features.detach(), labels, n_way, task_way, sample_weight, *structure)
        lambda1 = lambda1_ratio * bound * _lambda1_max.smoothing_share(n_way, task_way, lambda2, options.dual_reg)
    else:
        assert lambda1 is not None
        _checks.check_penalty("lambda1", lambda1, features)
    lambda1, lambda2 = _ops.per_task(lambda1, features), _ops.per_task(lambda2, features)
    weight = _weight(labels, sample_weight)
    tensors = (features, labels, weight, lambda1, lambda2, init_dual, None, group_weight, task_way)
    solution = Solution(*_autograd.apply(*tensors, options))
    if lambda1_ratio is not None and on_failure == "warn":
        _report_no_features(solution, lambda1_ratio, lambda1)
    return solution


def decision_function(features: Tensor, weights: Tensor) -> Tensor:
    """Scores (..., n_samples, n_way) of features (..., n_samples, n_features) under weights (..., n_way, n_features).

    Example:
        >>> import torch, sparsesvm
        >>> sparsesvm.decision_function(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([[1., 2.]])
    """
    _checks.check_features(weights, "weights")
    _checks.check_query(features, weights, "features")
    if features.dtype != weights.dtype:
        raise TypeError(f"features must have the dtype of weights, {weights.dtype}; got {features.dtype}. Convert one of them.")
    return features @ weights.mT


def lambda1_max(
    features: Tensor,
    labels: Tensor,
    *,
    exact: bool = False,
    lambda2: float | Tensor | None = None,
    n_way: int | Tensor | None = None,
    sample_weight: Tensor | None = None,
    group_size: int = 1,
    group_weight: Tensor | None = None,
    dual_reg: float = 0.0,
) -> Tensor:
    """Penalty from which on all weights are zero: (...,), in the units of lambda1.

    W = 0 is optimal iff some dual with Lambda_{i,y_i} = 0 has max_G ||((c (Y - Lambda))^T F)_:G|| / w_G <= lambda1. The cheap
    bound takes Lambda uniform over the wrong classes. It equals the smallest such penalty for two classes, and is 1.1 to 1.7
    times that in episodes, 2 to 2.6 times with 1,000 samples and more, and any number of times where classes overlap in every
    direction, as in few features. `lambda1_ratio` everywhere refers to this bound.

    Where `dual_reg` r is positive, the dual at W = 0 is unique, with wrong classes at min(1 / (k - 1), lambda2 / (r k)):
    the bound shrinks by the factor min(1, lambda2 (k - 1) / (r k)) and is the smallest such penalty.

    Args:
        features, labels, n_way, sample_weight, group_size, group_weight, dual_reg: as in `solve`.
        exact: minimise over the dual instead, to a relative accuracy of 1e-4, or 1e-9 of the bound, rounded up. Costs some five
            solves with lambda2 = 0, on the CPU; not differentiable. The same as the bound where `dual_reg` is positive.
        lambda2: as in `solve`, but a constant to the gradient; matters, and is required, where `dual_reg` is positive.

    Raises:
        TypeError, ValueError: as in `solve`.

    Example:
        >>> import torch, sparsesvm
        >>> features, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), torch.tensor([0, 1])
        >>> largest = sparsesvm.lambda1_max(features, labels)
        >>> bool(sparsesvm.solve(features, labels, lambda1=largest, lambda2=1.0).active.any())
        False
        >>> bool(sparsesvm.solve(features, labels, lambda1=0.9 * largest, lambda2=1.0).active.any())
        True
    """
    _check_features(features)
    dual_reg = _checks.check_number("dual_reg", dual_reg)
    if dual_reg and lambda2 is None:
        raise ValueError(f"lambda2 is required where dual_reg is positive; got none, and dual_reg={dual_reg}")
    if lambda2 is not None:
        _checks.check_penalty("lambda2", lambda2, features, positive=True)
    _checks.check_labels(labels, features)
    group_size = _checks.check_group_size(features, group_size)
    group_weight = _checks.check_group_weight(group_weight, features, group_size)
    if sample_weight is not None:
        _checks.check_sample_weight(sample_weight, features)
    n_way, task_way = _checks.split_n_way(n_way, features)
    n_way = _checks.find_n_way(labels, n_way, sample_weight)
    labels = _checks.class_numbers(labels, sample_weight)
    if features.element_size() < 4:
        features = features.float()
    if exact and not dual_reg:
        weight = _weight(labels, sample_weight)
        bound = _lambda1_max.exact(features.detach(), labels, n_way, task_way, weight, group_size, group_weight)
    else:
        bound = _lambda1_max.cheap(features, labels, n_way, task_way, sample_weight, group_size, group_weight)
        bound = bound * _lambda1_max.smoothing_share(n_way, task_way, lambda2, dual_reg)
    # A bound keeps its side when it is rounded up.
    return (bound * (1 + 1e-7)).float() if features.dtype == torch.float32 else bound


def duality_gap(
    features: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    dual: Tensor | None = None,
    lambda1: float | Tensor,
    lambda2: float | Tensor,
    n_way: int | Tensor | None = None,
    sample_weight: Tensor | None = None,
    group_size: int = 1,
    group_weight: Tensor | None = None,
    dual_reg: float = 0.0,
) -> Tensor:
    """Certificate of anybody's solution: an upper bound on how far its objective is above the minimum, (...,) float64.

    Computed in plain torch in float64, apart from the solver, in units of the objective (a sum over samples).

    Args:
        weights: (..., n_way, n_features), the solution to certify. Given alone, `solve` finds a dual to compare with.
        dual: (..., n_support, n_way), a probability vector per sample, up to rounding. Given alone, it certifies the
            weights that belong to it by the link W = block soft-thresholding of (c (Y - Lambda))^T F, without cancellation.
        features, labels, lambda1, lambda2, n_way, sample_weight, group_size, group_weight, dual_reg: as in `solve`.
            Of weights and dual, what belongs to absent classes is zero.

    Raises:
        TypeError, ValueError: as in `solve`, and when neither weights nor dual is given.

    Example:
        >>> import torch, sparsesvm
        >>> features, labels = torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), torch.tensor([0, 1])
        >>> guess = torch.tensor([[0.25, 0.0], [-0.25, 0.0]])  # of the minimum, as it happens
        >>> gap = sparsesvm.duality_gap(features, labels, guess, lambda1=0.1, lambda2=1.0)
        >>> bool(gap < 1e-5), bool(sparsesvm.duality_gap(features, labels, 2 * guess, lambda1=0.1, lambda2=1.0) > 0.1)
        (True, True)
    """
    _checks.check_features(features)
    _checks.check_labels(labels, features)
    _checks.check_penalty("lambda1", lambda1, features)
    _checks.check_penalty("lambda2", lambda2, features, positive=True)
    if sample_weight is not None:
        _checks.check_sample_weight(sample_weight, features)
    n_way, task_way = _checks.split_n_way(n_way, features)
    n_way = _checks.find_n_way(labels, n_way, sample_weight)
    labels = _checks.class_numbers(labels, sample_weight)
    _checks.check_label_range(labels, n_way, task_way)
    group_size = _checks.check_group_size(features, group_size)
    _checks.check_group_weight(group_weight, features, group_size)
    for name, value in (("lambda1", lambda1), ("lambda2", lambda2)):
        if isinstance(value, Tensor):
            _checks.check_penalty_range(name, value, positive=name == "lambda2")
    if sample_weight is not None:
        sample_weight = sample_weight.double()
        _checks.check_penalty_range("sample_weight", sample_weight)
    if weights is None and dual is None:
        raise ValueError("at least one of weights and dual is required; got neither")
    problem: dict[str, Any] = {
        "lambda1": lambda1,
        "lambda2": lambda2,
        "n_way": n_way if task_way is None else task_way,
        "sample_weight": sample_weight,
        "group_size": group_size,
        "group_weight": group_weight,
        "dual_reg": _checks.check_number("dual_reg", dual_reg),
    }
    exact = reference.make_problem(features, labels, **problem)
    _checks.check_finite("features", exact.features)
    if weights is not None:
        _checks.check_weights(weights, features, n_way)
        _checks.check_finite("weights", weights)
        _checks.check_absent("weights", weights, n_way, task_way)
    if dual is None:
        dual = solve(features.detach(), labels, **problem, on_failure="ignore").dual
    _checks.check_dual(dual, features, n_way, "dual")
    _checks.check_simplex(dual)
    _checks.check_absent("dual", dual.mT, n_way, task_way)
    # What rounding took from the simplex would count as a gap of either sign.
    dual = dual.double().clamp(min=0)
    dual = dual / dual.sum(-1, keepdim=True)
    if weights is None:
        return exact.duality_gap(dual)
    return exact.primal_objective(weights.double()) - exact.dual_objective(dual)


def regularization_path(
    features: Tensor,
    labels: Tensor,
    *,
    lambda2: float | Tensor,
    n_lambdas: int = 50,
    min_ratio: float = 1e-2,
    n_way: int | Tensor | None = None,
    sample_weight: Tensor | None = None,
    group_size: int = 1,
    group_weight: Tensor | None = None,
    dual_reg: float = 0.0,
    tol: float = 1e-6,
    max_iter: int = 100,
    on_failure: str = "warn",
) -> RegularizationPath:
    """Solutions along a geometric grid of lambda1 from `lambda1_max` down, each started from the one before.

    For plots and model selection: no gradients are recorded. Each starts from the dual of the one before and, where the proximal
    method solves it (docs/method.md, 5), from its weights. One task alone (n_support, n_features) on the CPU is solved on the
    features that may be in use, which may take memory for a copy of half of them, and certified on all.

    Args:
        n_lambdas: number of penalties, at least 1.
        min_ratio: the smallest penalty as a share of `lambda1_max`, in (0, 1].
        features, labels, lambda2, n_way, sample_weight, group_size, group_weight, dual_reg, tol, max_iter, on_failure: as in
            `solve`.

    Returns:
        `RegularizationPath`: lambda1 (n_lambdas, ...) and a `Solution` whose fields have the leading axis n_lambdas.

    Raises:
        TypeError, ValueError: as in `solve`, and for n_lambdas or min_ratio out of range.

    Example:
        >>> import torch, sparsesvm
        >>> features, labels = torch.tensor([[3.0, 1.0], [-3.0, -1.0]]), torch.tensor([0, 1])
        >>> path = sparsesvm.regularization_path(features, labels, lambda2=1.0, n_lambdas=4)
        >>> path.solution.active.sum(-1)  # features in use at each penalty
        tensor([0, 1, 1, 2])
    """
    n_lambdas = _checks.check_integer("n_lambdas", n_lambdas, minimum=1)
    min_ratio = _checks.check_number("min_ratio", min_ratio)
    if not 0 < min_ratio <= 1:
        raise ValueError(f"min_ratio must lie in (0, 1]; got {min_ratio}")
    _check_features(features)
    _checks.check_device(features, USABLE_DEVICES)
    _checks.check_labels(labels, features)
    _checks.check_penalty("lambda2", lambda2, features)
    n_way, task_way = _checks.split_n_way(n_way, features)
    n_way = _checks.find_n_way(labels, n_way, sample_weight)
    options = make_options(features, n_way, group_size, dual_reg, tol, max_iter, on_failure)
    with torch.no_grad():
        problem: dict[str, Any] = {"sample_weight": sample_weight, "group_size": group_size, "group_weight": group_weight}
        bound = lambda1_max(features, labels, n_way=n_way if task_way is None else task_way, **problem).double()
        bound = bound * _lambda1_max.smoothing_share(n_way, task_way, lambda2, options.dual_reg)
        group_weight = _checks.check_group_weight(group_weight, features, options.group_size)
        ratios = torch.logspace(0, math.log10(min_ratio), n_lambdas, dtype=torch.float64, device=bound.device)
        penalties = ratios.reshape(-1, *(1,) * bound.dim()) * bound
        if features.element_size() < 4:
            features = features.float()
        labels = _checks.class_numbers(labels, sample_weight)
        tensors = (features, labels, _weight(labels, sample_weight), _ops.per_task(lambda2, features))
        solutions = _path.along(_path.Problem(*tensors, options, group_weight, task_way), penalties)
        if on_failure == "warn":
            _report_no_features(solutions[-1], ratios[-1], penalties[-1])
    return RegularizationPath(penalties, _path.stack(solutions))


def _check_features(features: Tensor) -> None:
    _checks.check_features(features, sparse=True)
    if _sparse.is_sparse(features):
        _sparse.check(features)


def make_options(
    features: Tensor, n_way: int, group_size: int, dual_reg: float, tol: float, max_iter: int, on_failure: str
) -> _autograd.Options:
    _checks.check_on_failure(on_failure)
    return _autograd.Options(
        n_way=n_way,
        group_size=_checks.check_group_size(features, group_size),
        dual_reg=_checks.check_number("dual_reg", dual_reg),
        tol=_checks.check_number("tol", tol),
        max_iter=_checks.check_integer("max_iter", max_iter, minimum=0),
        on_failure=on_failure,
        identify=False,
    )


def _weight(labels: Tensor, sample_weight: Tensor | None) -> Tensor:
    return torch.ones_like(labels, dtype=torch.float64) if sample_weight is None else sample_weight.double()


def _report_no_features(solution: Solution, ratio: float | Tensor, lambda1: Tensor) -> None:
    """Where no task has any and some could have. Single tasks of a batch may well have none."""
    if (
        _checks.are_false(solution.active)
        and _checks.are_false(torch.as_tensor(ratio) >= 1)
        and not _checks.are_false(lambda1 > 0)
    ):
        warnings.warn(_NO_FEATURES, NoFeaturesWarning, stacklevel=2)


# The same words every time, so that Python's default filter shows them once.
_NO_FEATURES = (
    "no task has a feature left at this ratio to lambda1_max, which is a bound: it may be several times the smallest penalty "
    "without weights. Give a smaller ratio, or lambda1 as a share of lambda1_max(..., exact=True)."
)
