"""Batched Lasso against loops over libraries, at equal duality gap: `python -m benchmarks.regression_time [--check]`.

64 tasks of 50 samples, with 6 and with 200 features, one thread, float64, forward and forward with backward. Peers: scikit-learn,
and celer and skglm where they are installed; they have no backward, so that the formula of the gradient is evaluated in numpy on
their solutions.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import report
from benchmarks.measure import median_ms
from sparsesvm.bilevel import lambda_max, sparse_regression

Array = npt.NDArray[np.float64]
TASKS, SAMPLES, FEATURES, RATIOS, GAP = 64, 50, (6, 200), (0.1, 0.3), 1e-8
REQUIRED = 5.0


def problems(n_features: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian features; targets of five of them, or half of them if fewer, with 10 % noise energy."""
    generator = torch.Generator().manual_seed(n_features)
    features = torch.randn(TASKS, SAMPLES, n_features, generator=generator, dtype=torch.float64)
    useful = min(5, n_features // 2)
    weights = torch.randn(TASKS, useful, 1, generator=generator, dtype=torch.float64)
    signal = (features[..., :useful] @ weights).squeeze(-1)
    noise = torch.randn(signal.shape, generator=generator, dtype=torch.float64)
    return features, signal + 0.1**0.5 * signal.std() * noise


def relative_gap(features: Array, targets: Array, weights: Array, penalty: float) -> float:
    """The largest rescaled dual's gap over the objective at zero, for one task."""
    n = len(targets)
    residual = targets - features @ weights
    scale = min(1.0, penalty / max(np.abs(features.T @ residual).max() / n, 1e-300))
    primal = residual @ residual / (2 * n) + penalty * np.abs(weights).sum()
    dual = (targets @ targets - np.sum((targets - scale * residual) ** 2)) / (2 * n)
    return float((primal - dual) / (targets @ targets / (2 * n)))


def gradient(features: Array, targets: Array, weights: Array, cotangent: Array) -> tuple[Array, Array]:
    """Gradients with respect to features and targets by the formula of docs/bilevel.md, for one task."""
    n, active = len(targets), np.flatnonzero(weights)
    inner = features[:, active]
    adjoint = np.linalg.solve(inner.T @ inner / n, cotangent[active])
    fitted = inner @ adjoint
    of_features = np.zeros_like(features)
    of_features[:, active] = (np.outer(targets - features @ weights, adjoint) - np.outer(fitted, weights[active])) / n
    return of_features, fitted / n


def library(name: str, alpha: float) -> Any:
    """An estimator that stops at the gap asked for; each library has its own scale of `tol`."""
    options = {"fit_intercept": False, "max_iter": 100_000}
    if name == "scikit-learn":
        from sklearn.linear_model import Lasso

        return Lasso(alpha, tol=GAP / 2, **options)  # gap <= tol * ||y||^2 / n
    if name == "celer":
        from celer import Lasso as CelerLasso

        return CelerLasso(alpha, tol=GAP / 2, **options)  # as scikit-learn
    from skglm import Lasso as SkglmLasso

    return SkglmLasso(alpha, tol=1e-6 * alpha, **options)  # largest violation of the optimality conditions


def measure(n_features: int, ratio: float) -> list[report.Row]:
    """One row per solver."""
    features, targets = problems(n_features)
    penalties = ratio * lambda_max(features, targets)
    given = features.clone().requires_grad_(), targets.clone().requires_grad_()
    x, y, alphas = features.numpy(), targets.numpy(), penalties.tolist()
    cell = {"tasks": TASKS, "samples": SAMPLES, "features": n_features, "lambda_ratio": ratio}

    def both() -> None:
        for tensor in given:
            tensor.grad = None
        sparse_regression(*given, lambda1=penalties, tol=GAP).weights.square().sum().backward()

    found = sparse_regression(features, targets, lambda1=penalties, tol=GAP).weights.numpy()
    rows: list[report.Row] = [
        {
            "solver": "sparsesvm",
            "forward_ms": median_ms(lambda: sparse_regression(features, targets, lambda1=penalties, tol=GAP)),
            "both_ms": median_ms(both),
            "gap": max(relative_gap(*task) for task in zip(x, y, found, alphas, strict=True)),
        }
    ]
    for name, module in (("scikit-learn", "sklearn"), ("celer", "celer"), ("skglm", "skglm")):
        if importlib.util.find_spec(module) is None:
            print(f"absent: {name}")
            continue
        forward = loop(name, x, y, alphas)
        found = np.stack(forward())

        def forward_and_backward(forward: Callable[[], list[Array]] = forward) -> None:
            for a, b, w in zip(x, y, forward(), strict=True):
                gradient(a, b, w, 2 * w)

        timed = {"forward_ms": median_ms(forward), "both_ms": median_ms(forward_and_backward)}
        gap = max(relative_gap(*task) for task in zip(x, y, found, alphas, strict=True))
        rows.append({"solver": name, **timed, "gap": gap})
    return [{**cell, **row} for row in rows]


def loop(name: str, x: Array, y: Array, alphas: Sequence[float]) -> Callable[[], list[Array]]:
    """Fits every task in turn."""
    return lambda: [library(name, alpha).fit(a, b).coef_ for a, b, alpha in zip(x, y, alphas, strict=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write JSON; with --check fail when the promised ratio to scikit-learn is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--check", action="store_true", help=f"fail below {REQUIRED:g} times the speed of scikit-learn's loop")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "regression_time.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = [row for n_features in FEATURES for ratio in RATIOS for row in measure(n_features, ratio)]
    header = ("tasks", "samples", "features", "lambda_ratio", "solver", "forward ms", "forward and backward ms", "relative gap")
    table = report.table(header, [list(row.values()) for row in rows])
    print(table)
    note = "Medians of a batch on one thread, in processor time; the gap is the largest, recomputed by one function for all."
    report.write(options.output, {"rows": rows}, f"{table}\n\n{note}")
    own = {(row["features"], row["lambda_ratio"]): row for row in rows if row["solver"] == "sparsesvm"}
    for row in rows:
        if row["solver"] != "scikit-learn":
            continue
        ratios = [row[name] / own[row["features"], row["lambda_ratio"]][name] for name in ("forward_ms", "both_ms")]
        print(
            f"{row['features']} features, ratio {row['lambda_ratio']}: {ratios[0]:.0f}x forward, {ratios[1]:.0f}x with backward"
        )
        if options.check and min(ratios) < REQUIRED:
            raise SystemExit(f"less than {REQUIRED:g} times the speed of scikit-learn's loop")


if __name__ == "__main__":
    main()
