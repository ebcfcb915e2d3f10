"""Solves thousands of small problems with any ridge and checks each answer: `python -m benchmarks.random_problems`.

Every problem of `benchmarks.problems.weakly_ridged` is solved in float64 at tol 1e-9 and in float32 at the default tolerance, and
the answer is certified anew by `benchmarks.certificate`. A claim is false when the certificate of a converged answer is above the
tolerance by more than the rounding that it states. Times are processor times of one thread. Interrupted, it reports what it has.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sparsesvm
from benchmarks import report
from benchmarks.certificate import certify
from benchmarks.problems import Problem, weakly_ridged

TOLERANCES = {"float64": 1e-9, "float32": 1e-6}
COLUMNS = (
    "dtype",
    "lambda2 / mean square norm",
    "problems",
    "converged",
    "beyond tol by rounding",
    "false",
    "median ms",
    "99 % ms",
    "worst ms",
)

# With lambda2 = 0 other weights may do as well.
CERTIFIED = ("CONVERGED", "NOT_UNIQUE")


def attempt(seed: int) -> list[report.Row]:
    """Problem `seed` in both types."""
    torch.set_num_threads(1)
    problem = weakly_ridged(np.random.default_rng(seed))
    return [{"seed": seed, **solve_and_check(problem, dtype, tol)} for dtype, tol in TOLERANCES.items()]


def solve_and_check(problem: Problem, dtype: str, tol: float) -> report.Row:
    """One answer: the status it claims and the certificate it gets."""
    begin = time.process_time()
    found = problem.solve(getattr(torch, dtype), tol=tol, on_failure="ignore")
    seconds = time.process_time() - begin
    certificate = certify(
        replace(problem, features=problem.features.astype(dtype).astype(float)), found.weights.numpy(), found.dual.numpy()
    )
    mean_square = float((problem.features**2).sum(1).mean()) or 1.0
    return {
        "dtype": dtype,
        "shape": (problem.n_way, *problem.features.shape),
        "family": " + ".join(problem.family),
        "decade": math.floor(math.log10(problem.lambda2 / mean_square)) if problem.lambda2 > 0 else None,
        "seconds": seconds,
        "status": sparsesvm.StatusCode(int(found.status)).name,
        "own_gap": float(found.gap) / certificate.total,
        "gap": certificate.gap,
        "within": certificate.gap <= tol,
        "confirmed": certificate.confirms(tol),
    }


def summary(rows: list[report.Row]) -> report.Row:
    """Counts and times of the rows."""
    converged = [row for row in rows if row["status"] in CERTIFIED]
    milliseconds = [1e3 * row["seconds"] for row in rows]
    return {
        "problems": len(rows),
        "converged": len(converged),
        "beyond tol by rounding": sum(row["confirmed"] and not row["within"] for row in converged),
        "false": sum(not row["confirmed"] for row in converged),
        **{name: float(np.quantile(milliseconds, q)) for name, q in (("median ms", 0.5), ("99 % ms", 0.99), ("worst ms", 1.0))},
    }


def tabulate(rows: Iterable[report.Row]) -> list[report.Row]:
    """A summary for each type and decade of lambda2, and one for each type."""
    cells: dict[tuple[str, Any], list[report.Row]] = {}
    for row in rows:
        decade = "0" if row["decade"] is None else f"1e{row['decade']}"
        cells.setdefault((row["dtype"], decade), []).append(row)
        cells.setdefault((row["dtype"], "all"), []).append(row)

    def order(cell: tuple[str, str]) -> tuple[str, float]:
        return cell[0], math.inf if cell[1] == "all" else float(cell[1])

    return [{COLUMNS[0]: cell[0], COLUMNS[1]: cell[1], **summary(cells[cell])} for cell in sorted(cells, key=order)]


def main(argv: list[str] | None = None) -> None:
    """Solve, check, print the table and write benchmarks/results/random_problems.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=20_000, help="each in both types")
    parser.add_argument("--seed", type=int, default=0, help="of the first problem; the others follow")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "random_problems.json")
    options = parser.parse_args(argv)
    rows: list[report.Row] = []
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        try:
            for pair in pool.imap(attempt, range(options.seed, options.seed + options.problems), chunksize=5):
                rows += pair
                if len(rows) % 1000 == 0:
                    print(f"{len(rows) // 2} problems", flush=True)
        except KeyboardInterrupt:
            print("interrupted")
    table = tabulate(rows)
    exceptions = [row for row in rows if row["status"] not in CERTIFIED or not row["confirmed"]]
    markdown = "\n".join(
        (
            f"# {len(rows) // 2} random problems (seeds from {options.seed}) in both types, float64 at tol 1e-9, float32 at 1e-6",
            "",
            "n 1..60, m 1..400, k 2..12; processor time of one thread; decades of lambda2 from the value on.",
            "False: converged, but the certificate in plain numpy is above the tolerance by more than rounding explains.",
            "",
            report.table(COLUMNS, [[cell[column] for column in COLUMNS] for cell in table]),
        )
    )
    print(markdown)
    for row in exceptions:
        print(row)
    report.write(options.output, {"rows": table, "first_seed": options.seed, "exceptions": exceptions}, markdown)


if __name__ == "__main__":
    main()
