"""The gradient at the default tolerance: `python -m benchmarks.gradient_accuracy [--problems N] [--first-seed N]`.

Random problems of the episode sizes, lambda1 from 0.01 to 0.99 of the exact lambda1_max, lambda2 from 0.01 to 10, every third
with the smoothed hinge. The gradient of a random linear function of the weights, from float32 and float64 features, against the
one from the same values in float64 at tol 1e-12: norm of the difference over norm. A problem whose one-sided derivatives disagree
is at a kink and does not count. Times: the same solve with and without what a gradient asks for, alternately, one thread, in
processor time. Exits with an error when a bar is missed.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import sparsesvm
from benchmarks import report
from benchmarks.problems import episode
from sparsesvm import StatusCode, _ops

SIZES = ((5, 5, 640), (5, 25, 1600), (5, 75, 640), (20, 100, 512))
SHARES = (0.32, 0.32, 0.32, 0.04)  # of the problems; the last size takes most of the time all the same
BARS = {torch.float32: 1e-4, torch.float64: 1e-6}  # 99th percentile of the error
EXTRA_TIME = 0.1  # in the median size
STEP = 1e-6  # between the sides of a kink, relative to the features
DISAGREEMENT = 1e-3


class Case(NamedTuple):
    """One task: features (n, m) whose values float32 holds, labels (n,), cotangent (n_way, m) and the penalties."""

    features: Tensor
    labels: Tensor
    cotangent: Tensor
    penalties: dict[str, Any]


def draw(seed: int, sizes: Sequence[tuple[int, int, int]], shares: Sequence[float]) -> Case:
    """Problem `seed`."""
    rng = np.random.default_rng(seed)
    n_way, n_samples, n_features = sizes[rng.choice(len(sizes), p=shares)]
    rows, labels = episode(rng, n_way, n_samples, n_features)
    features, classes = torch.from_numpy(rows).float().double(), torch.from_numpy(labels)
    penalties: dict[str, Any] = {"lambda2": 10 ** rng.uniform(-2, 1), "n_way": n_way, "dual_reg": float(rng.integers(3) == 0)}
    largest = sparsesvm.lambda1_max(features, classes, exact=True, **penalties)
    penalties["lambda1"] = float(rng.uniform(0.01, 0.99) * largest)
    return Case(features, classes, torch.from_numpy(rng.normal(size=(n_way, n_features))), penalties)


def gradient(case: Case, features: Tensor, tol: float = 1e-6) -> tuple[Tensor, StatusCode]:
    """Of <cotangent, weights> with respect to the features, in float64."""
    leaf = features.clone().requires_grad_()
    found = sparsesvm.solve(leaf, case.labels, tol=tol, on_failure="ignore", **case.penalties)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sparsesvm.ConvergenceWarning)  # the status says it
        (result,) = torch.autograd.grad((found.weights * case.cotangent.to(features.dtype)).sum(), leaf)
    return result.double(), StatusCode(int(found.status))


def at_kink(case: Case, rng: np.random.Generator) -> bool:
    """Whether the derivatives to both sides along a random direction disagree."""
    direction = torch.from_numpy(rng.normal(size=tuple(case.features.shape))) * case.features.square().mean().sqrt()
    sides = [gradient(case, case.features + sign * STEP * direction, 1e-12)[0] for sign in (-1, 1)]
    return float((sides[1] - sides[0]).norm()) > DISAGREEMENT * float(sides[0].norm() + sides[1].norm())


def extra_time(case: Case, dtype: torch.dtype, repetitions: int) -> float:
    """Time of a solve that identifies the active sets, as a share of one that does not, less one."""
    penalties = (torch.full((), case.penalties[name], dtype=torch.float64) for name in ("lambda1", "lambda2"))
    weight = torch.ones_like(case.labels, dtype=torch.float64)
    arguments = (case.features.to(dtype), case.labels, weight, *penalties, None, None)
    options = (case.penalties["n_way"], 1, case.penalties["dual_reg"], 1e-6, 100, "ignore")
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repetitions):
        for identify in times:
            begin = time.process_time()
            _ops.solve(*arguments, *options, identify)
            times[identify].append(time.process_time() - begin)
    return min(times[True]) / min(times[False]) - 1


def measure(seed: int, sizes: Sequence[tuple[int, int, int]], shares: Sequence[float], repetitions: int) -> list[dict[str, Any]]:
    """One problem from features of both types."""
    case = draw(seed, sizes, shares)
    exact, _ = gradient(case, case.features, 1e-12)
    size = [case.penalties["n_way"], *case.features.shape]
    rows = []
    for dtype, bar in BARS.items():
        found, status = gradient(case, case.features.to(dtype))
        error = float((found - exact).norm() / exact.norm()) if exact.any() else float(found.any())
        row = {"seed": seed, "size": size, "dtype": str(dtype).removeprefix("torch."), "error": error, "status": status.name}
        row["kink"] = error > bar and at_kink(case, np.random.default_rng(seed))
        row["extra_time"] = extra_time(case, dtype, repetitions)
        rows.append(row)
    return rows


def complaints(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The bars that these rows miss; prints what they show."""
    missed = []
    for dtype, bar in BARS.items():
        of_type = [row for row in rows if f"torch.{row['dtype']}" == str(dtype)]
        errors = [row["error"] for row in of_type if not row["kink"]]
        high = float(np.quantile(errors, 0.99))
        unidentified = sum(row["status"] != "CONVERGED" for row in of_type)
        extra = {str(row["size"]): [r["extra_time"] for r in of_type if r["size"] == row["size"]] for row in of_type}
        medians = {size: statistics.median(times) for size, times in extra.items()}
        print(
            f"{dtype}: {len(errors)} problems, {len(of_type) - len(errors)} more at kinks, {unidentified} not identified; error "
            f"median {statistics.median(errors):.1e}, 99 % {high:.1e}, largest {max(errors):.1e}; extra time "
            + ", ".join(f"{size} {median:.1%}" for size, median in sorted(medians.items()))
        )
        if high > bar:
            missed.append(f"{dtype}: 99th percentile of the error {high:.1e}, bar {bar:.0e}")
        if (median := statistics.median(medians.values())) > EXTRA_TIME:
            missed.append(f"{dtype}: extra time {median:.1%} in the median size, bar {EXTRA_TIME:.0%}")
    return missed


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write benchmarks/results/gradient_accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--repetitions", type=int, default=3, help="of each time")
    parser.add_argument("--smoke", action="store_true", help="tiny problems")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "gradient_accuracy.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes, shares = (((3, 9, 40),), (1.0,)) if options.smoke else (SIZES, SHARES)
    seeds = range(options.first_seed, options.first_seed + options.problems)
    rows = [row for seed in seeds for row in measure(seed, sizes, shares, options.repetitions)]
    missed = complaints(rows)
    report.write(options.output, {"rows": rows})
    if missed and not options.smoke:
        raise SystemExit("\n".join(missed))


if __name__ == "__main__":
    main()
