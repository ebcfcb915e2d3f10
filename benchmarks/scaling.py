"""How time and memory grow: `python -m benchmarks.scaling [--largest] [--check]`.

Sweeps over the features m, samples n, classes k and tasks around one size, 8 tasks on two threads against one, 1,000 small
tasks, and with --largest one task of n = 2000, k = 64, m = 100000. Times are medians of a solve to `tol` 1e-6 and of its
backward: processor time in the sweeps, on one thread, and wall clock for two threads against one. Memory is the peak of resident
memory during solve and backward, above what the features take. Each point has a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import sparsesvm
from benchmarks import bars, plots, report
from benchmarks.measure import Failure, Worker, call_times_ms, clock, median_ms, peak_memory, reset_peak_memory
from benchmarks.tasks import make_tasks, penalty_for

Row = dict[str, Any]
Point = dict[str, Any]  # keyword arguments of `measure`, and the names of the sweep and its value
BASE = (5, 25, 1600)
SWEEPS = {  # name: (position in the size, values)
    "m": (2, (400, 1600, 6400, 25600, 102400)),
    "n": (1, (10, 25, 50, 100, 200, 400)),
    "k": (0, (2, 5, 10, 20, 40)),
}
TASKS = (1, 8, 64, 512)
THREADED = ((5, 5, 640), (5, 25, 1600), (5, 75, 640), (5, 75, 16000), (20, 100, 512))
ROUNDS = 4
SMALL, MANY = (5, 5, 64), 1000
LARGEST = (64, 2000, 100_000)
KEY = ("sweep", "value", "size", "tasks", "share", "dtype")


def points(options: argparse.Namespace) -> Iterator[Point]:
    """All measurements but those over threads."""
    for share in options.shares:
        for name, (position, values) in SWEEPS.items():
            for value in values[: 2 if options.smoke else None]:
                size = list(BASE)
                size[position] = value
                if name == "k":
                    size[1] = 5 * value  # five samples of each class
                yield {"sweep": name, "value": value, "size": size, "tasks": 1, "share": share}
        for tasks in TASKS[: 2 if options.smoke else None]:
            yield {"sweep": "tasks", "value": tasks, "size": list(BASE), "tasks": tasks, "share": share}
    if options.largest:
        yield {"sweep": "largest", "value": None, "size": list(LARGEST), "tasks": 1, "share": None}


def measure(size: Sequence[int], tasks: int, share: float | None, dtype: str, seconds: float, repeat: bool) -> Row:
    """Times in ms and memory in MiB; without `repeat` of a single call. A share of None stands for lambda1_ratio 0.5."""
    batch = make_tasks(*size, n_tasks=tasks, dtype=getattr(torch, dtype))
    if share is None:
        bound = float(sparsesvm.lambda1_max(batch.features, batch.labels, n_way=batch.n_way).max())
        batch = replace(batch, lambda1=bound / 2)
    else:
        batch = replace(batch, lambda1=penalty_for(share, batch, at_most=1))
    features = batch.features.clone().requires_grad_()

    def solve() -> sparsesvm.Solution:
        return sparsesvm.solve(features, batch.labels, **batch.penalties, on_failure="ignore")

    _warm_up()
    before = reset_peak_memory()
    begin = clock()
    found = solve()
    solve_ms = 1e3 * (clock() - begin)
    cotangent = torch.ones_like(found.weights)
    begin = clock()
    torch.autograd.grad(found.weights, features, cotangent, retain_graph=True)
    backward_ms = 1e3 * (clock() - begin)
    peak = peak_memory() - before
    if repeat:
        solve_ms = median_ms(solve, seconds=seconds)
        backward_ms = median_ms(
            lambda: torch.autograd.grad(found.weights, features, cotangent, retain_graph=True), seconds=seconds
        )
    return {
        "solve_ms": solve_ms,
        "backward_ms": backward_ms,
        "peak_mib": peak,
        "features_mib": features.nbytes / 2**20,
        "iterations": float(found.n_iter.double().mean()),
        "active": float(found.active.double().mean()),
        "converged": float((found.status == 0).double().mean()),
        "relative_gap": float((found.gap / found.objective).max()),
    }


def _warm_up() -> None:
    """What the first solve and backward of a process load would count as theirs."""
    tiny = make_tasks(2, 4, 8, n_tasks=2, dtype=torch.float32)
    features = tiny.features.requires_grad_()
    sparsesvm.solve(features, tiny.labels, **tiny.penalties).weights.sum().backward()


def threads(size: Sequence[int], n_tasks: int, share: float, dtype: str, seconds: float) -> Row:
    """A batch on one thread and on two, in this process, which has two cores."""
    batch = make_tasks(*size, n_tasks=n_tasks, dtype=getattr(torch, dtype))
    batch = replace(batch, lambda1=penalty_for(share, batch))

    def solve() -> sparsesvm.Solution:
        return sparsesvm.solve(batch.features, batch.labels, **batch.penalties, on_failure="ignore")

    measured: dict[int, list[float]] = {1: [], 2: []}
    weights = {}
    for _ in range(ROUNDS):  # in turns, so that a disturbance meets both
        for count, found in measured.items():
            torch.set_num_threads(count)
            weights[count] = solve().weights
            found += call_times_ms(solve, seconds=seconds / ROUNDS, now=time.perf_counter)
    times = {count: statistics.median(found) for count, found in measured.items()}
    row = {"single_task_ms": times[1] / n_tasks, "one_thread_ms": times[1], "two_threads_ms": times[2]}
    return {**row, "speedup": times[1] / times[2], "identical": bool(torch.equal(weights[1], weights[2]))}


def run(options: argparse.Namespace) -> Iterator[Row]:
    """All rows; a point that fails or takes too long is a row too."""
    for point in points(options):
        label = {name: point[name] for name in ("sweep", "value")}
        arguments = (point["size"], point["tasks"], point["share"], options.dtype, options.seconds, point["sweep"] != "largest")
        limit_s = options.largest_limit if point["sweep"] == "largest" else options.time_limit
        yield {**label, **_described(point, options), **_alone(measure, arguments, options.threads, limit_s)}
    for size, n_tasks in _threaded(options):
        for share in options.shares:
            point = {"size": list(size), "tasks": n_tasks, "share": share}
            arguments = (size, n_tasks, share, options.dtype, options.seconds)
            found = _alone(threads, arguments, 2, options.time_limit)
            yield {"sweep": "threads", "value": 2, **_described(point, options), **found}


def _threaded(options: argparse.Namespace) -> list[tuple[tuple[int, int, int], int]]:
    if options.smoke:
        return [(SMALL, 8)]
    return [(size, 8) for size in THREADED] + [(SMALL, MANY)]


def _described(point: Point, options: argparse.Namespace) -> Row:
    return {**{name: point[name] for name in ("size", "tasks", "share")}, "dtype": options.dtype, "threads": options.threads}


def _alone(function: Any, arguments: tuple[Any, ...], n_threads: int, limit_s: float) -> Row:
    worker = Worker(n_threads)
    try:
        row: Row = worker.call(function, *arguments, limit_s=limit_s)
        return row
    except Failure as failure:
        return {"note": str(failure)}
    finally:
        worker.close()


def markdown(rows: Iterable[Row]) -> str:
    """One table of growth, one of threads."""
    growth = ["sweep", "size", "tasks", "share", "solve_ms", "backward_ms", "peak_mib", "features_mib", "iterations"]
    growth += ["relative_gap", "note"]
    threaded = ["size", "tasks", "share", "single_task_ms", "one_thread_ms", "two_threads_ms", "speedup", "identical", "note"]
    lines = [[row.get(name) for name in growth] for row in rows if row["sweep"] != "threads"]
    threaded_lines = [[row.get(name) for name in threaded] for row in rows if row["sweep"] == "threads"]
    parts = ["# Growth of time and memory", report.table(growth, lines), "Two threads against one:"]
    return "\n\n".join([*parts, report.table(threaded, threaded_lines)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write benchmarks/results/scaling.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="for the sweeps")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--shares", nargs="+", type=float, default=[1.0, 0.25], help="of active features; 1: lambda1 = 0")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each time")
    parser.add_argument("--time-limit", type=float, default=120.0, help="seconds for one point, its penalty included")
    parser.add_argument("--largest", action="store_true", help=f"one task of (k, n, m) = {LARGEST} as well: minutes, gigabytes")
    parser.add_argument("--largest-limit", type=float, default=3600.0, help="seconds for it")
    parser.add_argument("--smoke", action="store_true", help="few points")
    parser.add_argument("--check", action="store_true", help="exit with an error when two threads gain less than promised")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "scaling.json")
    options = parser.parse_args(arguments)
    new = []
    for row in run(options):
        new.append(row)
        print({name: report.show(value) for name, value in row.items()}, flush=True)
    rows = report.merge([] if options.fresh else report.read(options.output), new, KEY)
    report.write(options.output, {"rows": rows}, markdown(rows))
    plots.growth(rows, options.output.with_suffix(".svg"))
    bars.verdict(bars.check_scaling(new), options.check)


if __name__ == "__main__":
    main()
