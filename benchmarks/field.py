"""The solver beside its statistical relatives at thousands of samples, one thread: `python -m benchmarks.field`.

On scikit-learn's make_classification as in `benchmarks.sizes`, lambda2 = 1:

- paths of 30 penalties down to ratio 0.03 of the largest of each loss (ours: of the bound): adelie's multinomial group lasso at
  its defaults, ours with the smoothed hinge (dual_reg = 1) at gap 1e-6 and with the exact hinge at gap 1e-4;
- lambda1 = 0: LinearSVC(multi_class="crammer_singer") at its defaults, and ours with `tol` the gap per sample that it reached;
- the l1 multinomial logistic regression by saga at its defaults, at 0.1 of its largest penalty, and ours at ratio 0.1;
- growth of one solve's time at ratio 0.3 with samples, features and classes: exponents fitted to all points, and a plot.

Losses differ, so times are all that compares; `active` says how many features the last solution uses. Seconds are processor time
of one call in a process of its own, on float32 for ours and float64 for the others, which want it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sparsesvm
from benchmarks import plots, report
from benchmarks.measure import Failure, Worker
from benchmarks.sizes import classification

Size = tuple[int, int, int]  # samples, features, classes
SIZES: tuple[Size, ...] = ((2000, 2000, 5), (5000, 5000, 5))
BASE: Size = (1000, 1000, 4)
GROWTH: dict[str, tuple[Size, ...]] = {
    "samples": tuple((n, BASE[1], BASE[2]) for n in (600, 1200, 2400, 4800, 9600)),
    "features": tuple((BASE[0], m, BASE[2]) for m in (500, 1000, 2000, 4000, 8000)),
    "classes": tuple((BASE[0], BASE[1], k) for k in (2, 4, 8, 16)),
}
N_LAMBDAS, MIN_RATIO, RATIO, GROWTH_RATIO = 30, 0.03, 0.1, 0.3
KEY = ("task", "solver", "size")
COLUMNS = ("task", "solver", "size", "seconds", "wall_s", "active", "gap / n", "note")


def timed(call: Callable[[], Any]) -> tuple[Any, report.Row]:
    """The result, processor and wall time of one call; warnings, which would fill the screen, as a note."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        begin, wall = time.process_time(), time.perf_counter()
        found = call()
        row: report.Row = {"seconds": time.process_time() - begin, "wall_s": time.perf_counter() - wall}
    if caught:
        row["note"] = str(caught[0].message).split(".")[0].split("\n")[0]
    return found, row


def ours(size: Size, **options: Any) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Features, labels and what all calls share."""
    samples, labels = classification(*size)
    problem = {"n_way": size[2], "lambda2": 1.0, **options}
    return torch.from_numpy(samples).float(), torch.from_numpy(labels), problem


def path_of_ours(size: Size, dual_reg: float, tol: float) -> report.Row:
    features, labels, problem = ours(size, dual_reg=dual_reg, tol=tol)
    found, row = timed(
        lambda: sparsesvm.regularization_path(features, labels, n_lambdas=N_LAMBDAS, min_ratio=MIN_RATIO, **problem).solution
    )
    return {"active": int(found.active[-1].sum()), "gap / n": float(found.gap.max()) / size[0], **row}


def path_of_adelie(size: Size) -> report.Row:
    import adelie

    samples, labels = classification(*size)
    samples = np.asfortranarray(samples)
    loss = adelie.glm.multinomial(np.eye(size[2])[labels])
    grid = {"lmda_path_size": N_LAMBDAS, "min_ratio": MIN_RATIO, "early_exit": False}
    state, row = timed(lambda: adelie.grpnet(X=samples, glm=loss, progress_bar=False, n_threads=1, **grid))
    last = state.betas[-1].toarray().reshape(size[1], size[2])
    return {"active": int((last != 0).any(1).sum()), **row}


def dense(size: Size) -> list[report.Row]:
    """lambda1 = 0: LinearSVC, certified by our dual, and ours at the same gap."""
    from sklearn.svm import LinearSVC

    features, labels, problem = ours(size, lambda1=0.0)
    exact = features.double()
    svm = LinearSVC(multi_class="crammer_singer", C=1.0, fit_intercept=False)
    fitted, row = timed(lambda: svm.fit(exact.numpy(), labels.numpy()))
    weights = torch.from_numpy(fitted.coef_ if size[2] > 2 else np.concatenate([-fitted.coef_, fitted.coef_]) / 2)
    best = sparsesvm.solve(features, labels, tol=1e-7, on_failure="ignore", **problem)
    scores = exact @ weights.T
    own = torch.nn.functional.one_hot(labels, size[2])
    loss = (1 - own + scores).amax(1) - (own * scores).sum(1)
    gap = float(loss.sum() + weights.square().sum() / 2 - (best.objective - best.gap)) / size[0]
    found, ours_row = timed(lambda: sparsesvm.solve(features, labels, tol=gap, on_failure="ignore", **problem))
    return [
        {"solver": "LinearSVC", "active": size[1], "gap / n": gap, **row},
        {"solver": "ours, exact hinge", "active": int(found.active.sum()), "gap / n": float(found.gap) / size[0], **ours_row},
    ]


def by_saga(size: Size) -> report.Row:
    from sklearn.linear_model import LogisticRegression

    samples, labels = classification(*size)
    one_hot = np.eye(size[2])[labels]
    largest = np.abs(samples.T @ (one_hot - one_hot.mean(0))).max()
    model = LogisticRegression(l1_ratio=1.0, solver="saga", C=1 / (RATIO * largest), fit_intercept=False, random_state=0)
    fitted, row = timed(lambda: model.fit(samples, labels))
    return {"active": int((fitted.coef_ != 0).any(0).sum()), **row}


def one_solve(size: Size, ratio: float, dual_reg: float) -> report.Row:
    """The median of three solves, or the first where it takes long."""
    features, labels, problem = ours(size, lambda1_ratio=ratio, dual_reg=dual_reg)
    rows: list[report.Row] = []
    while len(rows) < 3 and not any(row["seconds"] > 3 for row in rows):
        found, row = timed(lambda: sparsesvm.solve(features, labels, on_failure="ignore", **problem))
        rows.append({"active": int(found.active.sum()), "gap / n": float(found.gap) / size[0], **row})
    return sorted(rows, key=lambda row: float(row["seconds"]))[len(rows) // 2]


HINGES = {"ours, smoothed hinge": 1.0, "ours, exact hinge": 0.0}


PARTS = ("paths", "dense", "l1", "growth")


def run(parts: Sequence[str], sizes: Sequence[Size], growth: dict[str, tuple[Size, ...]], limit_s: float) -> Iterable[report.Row]:
    """All rows; what takes longer than the limit says so."""
    worker = Worker(1)

    def rows_of(task: str, solver: str, size: Size, function: Callable[..., Any], *arguments: Any) -> Iterable[report.Row]:
        try:
            found = worker.call(function, size, *arguments, limit_s=limit_s)
        except Failure as failure:
            found = {"note": str(failure)}
        for row in found if isinstance(found, list) else [found]:
            yield {"task": task, "solver": solver, "size": list(size), **row}

    for size in sizes:
        if "paths" in parts:
            yield from rows_of("path", "adelie", size, path_of_adelie)
            yield from rows_of("path", "ours, smoothed hinge", size, path_of_ours, 1.0, 1e-6)
            yield from rows_of("path", "ours, exact hinge", size, path_of_ours, 0.0, 1e-4)
        if "dense" in parts:
            yield from rows_of("lambda1 = 0", "LinearSVC and ours", size, dense)
        if "l1" in parts:
            yield from rows_of(f"ratio {RATIO}", "saga", size, by_saga)
            for solver, dual_reg in HINGES.items():
                yield from rows_of(f"ratio {RATIO}", solver, size, one_solve, RATIO, dual_reg)
    for axis, points in growth.items() if "growth" in parts else ():
        for size in points:
            for solver, dual_reg in HINGES.items():
                yield from rows_of(axis, solver, size, one_solve, GROWTH_RATIO, dual_reg)
    worker.close()


def exponents(rows: Sequence[report.Row]) -> list[report.Row]:
    """Slope of log seconds against log size for each axis and solver, by least squares."""
    found = []
    for place, axis in enumerate(GROWTH):
        for solver in HINGES:
            some = [row for row in rows if (row["task"], row["solver"]) == (axis, solver) and "seconds" in row]
            points = [(row["size"][place], row["seconds"]) for row in some]
            if len(points) > 1:
                slope = float(np.polyfit(*np.log(np.array(points, dtype=float).T), 1)[0])
                found.append({"axis": axis, "solver": solver, "exponent": slope, "points": len(points)})
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write benchmarks/results/field.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--time-limit", type=float, default=600.0, help="wall seconds for one call")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--smoke", action="store_true", help="one small size, two points of each axis")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "field.json")
    options = parser.parse_args(argv)
    sizes, growth = SIZES, GROWTH
    if options.smoke:
        sizes, growth = ((60, 50, 3),), {axis: ((60, 50, 3), (90, 80, 4)) for axis in GROWTH}
    rows = [] if options.fresh else report.read(options.output)
    for row in run(options.parts, sizes, growth, options.time_limit):
        rows = report.merge(rows, [row], KEY)
        print("  ".join(f"{name} {report.show(value)}" for name, value in row.items()), flush=True)
        write(rows, options.output)
    plots.field_growth([row for row in rows if row["task"] in GROWTH], list(GROWTH), options.output.with_suffix(".svg"))


def write(rows: Sequence[report.Row], output: Path) -> None:
    """After each row, as a whole run takes long."""
    fits = exponents(rows)
    others = [row for row in rows if row["task"] not in GROWTH]
    parts = [
        "# Against the field, one thread",
        report.table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in others]),
        f"Growth of one solve at ratio {GROWTH_RATIO} from {BASE} samples, features, classes: seconds grow with the power",
        report.table(("axis", "solver", "exponent", "points"), [list(fit.values()) for fit in fits]),
    ]
    report.write(output, {"rows": list(rows), "exponents": fits}, "\n\n".join(parts), quiet=True)


if __name__ == "__main__":
    main()
