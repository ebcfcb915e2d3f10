"""Solves thousands of small problems with any ridge and checks each answer: `python -m benchmarks.random_problems`.

Every problem of `benchmarks.problems.weakly_ridged` is solved in float64 at tol 1e-9 and in float32 at the default tolerance, and
the answer is certified anew by `benchmarks.certificate`. A claim is false when the certificate of a converged answer is above the
tolerance by more than the rounding that it states. Times are processor times of one thread. Interrupted, it reports what it has.

With `--all-options` the problems are those of `benchmarks.problems.with_any_options`, each in one type, with a tolerance of 1e-3
to 1e-10, in one of the forms in which they can be given: a task alone, from a start or without, sparse rows, a batch of tasks
with classes of their own, a path; padded where a sample has weight zero. In one of four the limit on iterations is so small that
few converge. Every answer of a call is checked, whatever its status: besides convergence its gap, objective and active groups.
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
from benchmarks.problems import Problem, of_the_same_shape, uniform_bound, weakly_ridged, with_any_options, with_padding

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
# Of the answers to problems with all options.
ANSWERS = (
    "form",
    "dtype",
    "problems",
    "answers",
    "converged",
    "stopped early",
    "unconverged",
    "beyond tol by rounding",
    "inexact",
    "false",
)
INEXACT = {"gap", "objective"}  # complaints about a number that is off; others are false claims

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


def attempt_any(seed: int) -> list[report.Row]:
    """Problem `seed` with options, type, tolerance, limit and form drawn: a row for each answer of its one call."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    problem = with_any_options(rng)
    dtype = str(rng.choice(list(TOLERANCES)))
    tol, early = float(10 ** rng.uniform(-10, -3)), rng.random() < 0.25
    options = {"tol": tol, "max_iter": int(rng.integers(0, 6)) if early else 100, "on_failure": "ignore"}
    form = str(rng.choice(["alone", "from a start", "sparse rows", "batch", "path"]))
    begin = time.process_time()
    pairs = answer(rng, problem, form, getattr(torch, dtype), options)
    seconds = time.process_time() - begin
    described = {"seed": seed, "form": form, "dtype": dtype, "tol": tol, "early": early, "seconds": seconds / len(pairs)}
    return [{**described, "number": number, **checked(*pair, dtype, tol)} for number, pair in enumerate(pairs)]


def answer(
    rng: np.random.Generator, problem: Problem, form: str, dtype: torch.dtype, options: dict[str, Any]
) -> list[tuple[Problem, sparsesvm.Solution]]:
    """What the solver is asked in this form, task by task, with its answers."""
    given = with_padding(rng, problem)
    bound = uniform_bound(problem.features, problem.labels, problem.n_way, problem.sample_weight, problem.group_size)
    if form == "from a start":
        start = rng.dirichlet(np.ones(problem.n_way), len(problem.labels))
        if rng.random() < 0.5:
            start = replace(given, lambda1=1.2 * given.lambda1).solve(dtype, **options).dual.double().numpy()
        return [(problem, given.solve(dtype, init_dual=torch.from_numpy(start), **options))]
    if form == "batch":
        ways = rng.integers(1, problem.n_way + 1, 3) if rng.random() < 0.5 else np.full(3, problem.n_way)
        tasks = [replace(problem, labels=problem.labels % ways[0], n_way=int(ways[0]))]
        tasks += [of_the_same_shape(rng, problem, int(way)) for way in ways[1:]]
        found = solve_together([with_padding(rng, task) for task in tasks], ways, dtype, options)
        return [
            (
                task,
                sparsesvm.Solution(*(field[i] for field in found))._replace(
                    weights=found.weights[i, : task.n_way], dual=found.dual[i, :, : task.n_way]
                ),
            )
            for i, task in enumerate(tasks)
        ]
    if form == "path" and bound > 0 and problem.n_way > 1:
        path = given.path(dtype, n_lambdas=4, min_ratio=float(10 ** rng.uniform(-3, -0.5)), **options)
        return [
            (replace(problem, lambda1=float(lambda1)), sparsesvm.Solution(*(field[i] for field in path.solution)))
            for i, lambda1 in enumerate(path.lambda1)
        ]
    return [(problem, given.solve(dtype, sparse=form == "sparse rows", **options))]


def solve_together(tasks: list[Problem], ways: Any, dtype: torch.dtype, options: dict[str, Any]) -> sparsesvm.Solution:
    """One call for tasks of one shape, with the same groups and smoothing."""
    first = tasks[0]
    return sparsesvm.solve(
        torch.from_numpy(np.stack([task.features for task in tasks])).to(dtype),
        torch.from_numpy(np.stack([task.labels for task in tasks])),
        lambda1=torch.tensor([task.lambda1 for task in tasks], dtype=torch.float64),
        lambda2=torch.tensor([task.lambda2 for task in tasks], dtype=torch.float64),
        n_way=torch.from_numpy(ways) if len(set(ways)) > 1 else int(ways[0]),
        sample_weight=torch.from_numpy(np.stack([task.sample_weight for task in tasks])),
        group_size=first.group_size,
        group_weight=None if first.group_weight is None else torch.from_numpy(first.group_weight),
        dual_reg=first.dual_reg,
        **options,
    )


def checked(problem: Problem, found: sparsesvm.Solution, dtype: str, tol: float) -> report.Row:
    """The status of an answer, and by name what it claims against the certificate of its weights and dual."""
    weights, dual = found.weights.numpy(), found.dual.numpy()
    rounded = replace(problem, features=problem.features.astype(dtype).astype(float))
    certificate = certify(rounded, weights, dual)
    status, gap = sparsesvm.StatusCode(int(found.status)).name, certificate.primal - certificate.dual
    # The solver's sums go over correlations, of which weights are the part beyond lambda1, divided by lambda2: for a small one
    # less exact than those over weights.
    slack = certificate.rounding + tol * certificate.total
    groups = (weights != 0).any(0).reshape(-1, problem.group_size).any(1)
    false = {
        "status": status in CERTIFIED and not certificate.confirms(tol),
        "numbers": status == "NON_FINITE" or not np.isfinite(weights).all(),
        # With lambda2 = 0 there are several bounds of one dual.
        "gap": problem.lambda2 > 0 and not float(found.gap) >= gap - slack,
        "objective": not abs(float(found.objective) - certificate.primal) <= slack,
        "active": bool((groups != found.active.numpy()).any()),
    }
    return {
        "status": status,
        "own_gap": float(found.gap) / certificate.total,
        "gap": certificate.gap,
        "rounding": certificate.rounding / certificate.total,
        "within": certificate.gap <= tol,
        "false": [name for name, is_false in false.items() if is_false],
        "shape": (problem.n_way, *problem.features.shape),
        "family": " + ".join(problem.family),
    }


def tabulate_any(rows: Iterable[report.Row]) -> list[report.Row]:
    """Counts of each form and type, and of all."""
    cells: dict[tuple[str, str], list[report.Row]] = {}
    for row in rows:
        for cell in ((row["form"], row["dtype"]), ("all", "both")):
            cells.setdefault(cell, []).append(row)
    table = []
    for form, dtype in sorted(cells, key=lambda cell: (cell[0] == "all", cell)):
        found = cells[form, dtype]
        converged = [row for row in found if row["status"] in CERTIFIED]
        others = [row for row in found if row["status"] not in CERTIFIED]
        counts = (
            len({row["seed"] for row in found}),
            len(found),
            len(converged),
            sum(row["early"] for row in others),
            sum(not row["early"] for row in others),
            sum(not row["within"] and not row["false"] for row in converged),
            sum(bool(row["false"]) and set(row["false"]) <= INEXACT for row in found),
            sum(not set(row["false"]) <= INEXACT for row in found),
        )
        table.append(dict(zip(ANSWERS, (form, dtype, *counts), strict=True)))
    return table


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
    """Solve, check, print the table and write benchmarks/results/random_problems.*, or random_options.* with all options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=20_000, help="each in both types, or in one with all options")
    parser.add_argument("--all-options", action="store_true", help="draw options, types, tolerances and forms as well")
    parser.add_argument("--seed", type=int, default=0, help="of the first problem; the others follow")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--output", type=Path, help="a .json file")
    options = parser.parse_args(argv)
    output = options.output or report.FOLDER / ("random_options.json" if options.all_options else "random_problems.json")
    rows: list[report.Row] = []
    done = 0
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        seeds = range(options.seed, options.seed + options.problems)
        try:
            for found in pool.imap(attempt_any if options.all_options else attempt, seeds, chunksize=5):
                rows += found
                done += 1
                if done % 1000 == 0:
                    print(f"{done} problems", flush=True)
        except KeyboardInterrupt:
            print("interrupted")
    report_any(rows, done, options.seed, output) if options.all_options else report_both(rows, options.seed, output)


def report_any(rows: list[report.Row], done: int, first_seed: int, output: Path) -> None:
    table = tabulate_any(rows)
    exceptions = [row for row in rows if row["false"] or (row["status"] not in CERTIFIED and not row["early"])]
    lines = (
        f"# {done} random problems with all options (seeds from {first_seed}), at tol 1e-3 to 1e-10",
        "",
        "n 1..60 and m 1..400, log-uniform, k 1..20. Not converged: stopped early at max_iter 0 to 5, or unconverged at 100.",
        "False: converged, but the certificate in plain numpy is above the tolerance by more than rounding explains; or",
        "other active groups than the weights'. Inexact, whatever the status: a smaller gap or another objective than the",
        "certificate's, by more than tol.",
    )
    publish(lines, ANSWERS, table, exceptions, first_seed, output)


def report_both(rows: list[report.Row], first_seed: int, output: Path) -> None:
    table = tabulate(rows)
    exceptions = [row for row in rows if row["status"] not in CERTIFIED or not row["confirmed"]]
    lines = (
        f"# {len(rows) // 2} random problems (seeds from {first_seed}) in both types, float64 at tol 1e-9, float32 at 1e-6",
        "",
        "n 1..60, m 1..400, k 2..12; processor time of one thread; decades of lambda2 from the value on.",
        "False: converged, but the certificate in plain numpy is above the tolerance by more than rounding explains.",
    )
    publish(lines, COLUMNS, table, exceptions, first_seed, output)


def publish(
    lines: tuple[str, ...],
    columns: tuple[str, ...],
    table: list[report.Row],
    exceptions: list[report.Row],
    first_seed: int,
    output: Path,
) -> None:
    """Prints and writes the table below its lines, and the answers that are not as they should be."""
    markdown = "\n".join((*lines, "", report.table(columns, [[cell[column] for column in columns] for cell in table])))
    print(markdown)
    for row in exceptions:
        print(row)
    report.write(output, {"rows": table, "first_seed": first_seed, "exceptions": exceptions}, markdown)


if __name__ == "__main__":
    main()
