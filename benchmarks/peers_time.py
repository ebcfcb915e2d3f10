"""Time of all peers at equal relative duality gap: `python -m benchmarks.peers_time [--smoke] [--check] [flags]`.

In each cell (size, share of active features, number of tasks, threads, type of the features) every peer is run at the
cheapest setting that reaches a gap of 1e-3, then 1e-6, recomputed in float64 by one function for all. Times are medians
after a warm-up, of a whole batch, in processor time on one thread, wall clock on two: forward, and forward with backward where
the peer has one, whose gradient is compared with ours at a tolerance of 1e-12. A peer that is absent or does not get there is
reported. The rows of runs with other flags are kept: parts can be run one by one.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks import bars, plots, report
from benchmarks.contest import compete
from benchmarks.measure import Failure, Worker
from benchmarks.peers import PEERS
from benchmarks.tasks import exact, make_tasks, penalty_for

Row = dict[str, Any]
SIZES = {  # (n_way, n_samples, n_features, group_size)
    "5x5x640": (5, 5, 640, 1),
    "5x25x1600": (5, 25, 1600, 1),
    "5x75x640": (5, 75, 640, 1),
    "5x75x16000": (5, 75, 16000, 1),
    "5x75x16000/25": (5, 75, 16000, 25),
    "20x100x512": (20, 100, 512, 1),
    "5x150x640": (5, 150, 640, 1),
}
SMOKE_SIZES = {"3x6x40": (3, 6, 40, 1), "3x6x40/4": (3, 6, 40, 4)}
SHARES = (1.0, 0.25, 0.05)  # the first: lambda1 = 0
# (tasks, threads, dtype): those that `bars` asks for, and all.
KEY = ((1, 1, "float64"), (8, 1, "float32"))
FULL = tuple(itertools.product((1, 8, 64), (1, 2), ("float64", "float32")))
CELL = ("size", "group_size", "share", "tasks", "threads", "dtype")
ROW = (*CELL, "peer", "target")
PENALTY_TASKS = 8  # the penalty of a cell is found on so many tasks


@dataclass(frozen=True)
class Cell:
    """What every peer is given."""

    size: tuple[int, int, int]
    group_size: int
    share: float
    tasks: int
    threads: int
    dtype: str

    @property
    def row(self) -> Row:
        """As fields of a row."""
        return {**vars(self), "size": list(self.size)}


def cells(options: argparse.Namespace) -> list[Cell]:
    """All that the flags select; threads outermost, so that few workers live at a time."""
    sizes = SMOKE_SIZES if options.smoke else SIZES
    combinations = [(2, 1, "float32"), (1, 1, "float64")] if options.smoke else FULL if options.full else KEY
    chosen = []
    for (tasks, threads, dtype), name, share in itertools.product(combinations, options.sizes or sizes, options.shares):
        wanted = (options.tasks, tasks), (options.threads, threads), (options.dtypes, dtype)
        if all(not some or value in some for some, value in wanted):
            *size, group_size = sizes[name]
            chosen.append(Cell(tuple(size), group_size, share, tasks, threads, dtype))
    return sorted(chosen, key=lambda cell: cell.threads)


@lru_cache
def penalty(size: tuple[int, int, int], group_size: int, share: float, n_tasks: int) -> float:
    """One lambda1 for all types and thread counts."""
    return penalty_for(share, make_tasks(*size, n_tasks=n_tasks, dtype=torch.float64, group_size=group_size))


def run_cell(cell: Cell, workers: dict[str, Worker], options: argparse.Namespace) -> Iterator[Row]:
    """The rows of all peers."""
    tasks = make_tasks(*cell.size, n_tasks=cell.tasks, dtype=getattr(torch, cell.dtype), group_size=cell.group_size)
    tasks = replace(tasks, lambda1=penalty(cell.size, cell.group_size, cell.share, min(cell.tasks, PENALTY_TASKS)))
    solution = exact(tasks)
    common = {**cell.row, "lambda1": tasks.lambda1, "lambda2": tasks.lambda2, "active": solution.active}
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save((tasks, solution), file.name)
        for name, worker in workers.items():
            if reason := PEERS[name].refusal(tasks):
                found = [{"target": target, "note": reason} for target in options.targets]
            else:
                found = _compete(name, worker, file.name, options)
            yield from ({**common, "peer": name, **row} for row in found)


def _compete(name: str, worker: Worker, path: str, options: argparse.Namespace) -> list[Row]:
    arguments = (name, path, tuple(options.targets), options.time_limit, not options.forward_only)
    limit_s = 120 + 10 * options.time_limit  # of wall time, setting up and compiling included
    try:
        rows: list[Row] = worker.call(compete, *arguments, limit_s=limit_s)
        return rows
    except Failure as failure:
        limited = str(failure).startswith("no answer")
        tried_ms = 1e3 * options.time_limit if limited else None
        return [{"target": t, "note": str(failure), "limited": limited, "tried_ms": tried_ms} for t in options.targets]


def run(options: argparse.Namespace) -> list[Row]:
    """All cells, printed as they come."""
    present = [name for name in options.peers if not PEERS[name].missing()]
    rows: list[Row] = []
    for threads, group in itertools.groupby(cells(options), key=lambda cell: cell.threads):
        workers = {name: Worker(threads) for name in present}
        try:
            for cell in group:
                print(f"(k, n, m) = {cell.size}, groups of {cell.group_size}, share {cell.share:.0%}", end=", ")
                print(f"{cell.tasks} tasks, {cell.threads} threads, {cell.dtype}")
                for row in run_cell(cell, workers, options):
                    rows.append(row)
                    print(f"  {row['peer']:12} {row['target']:.0e}  {outcome(row)}{backward(row)}", flush=True)
        finally:
            for worker in workers.values():
                worker.close()
    return rows


def outcome(row: Row) -> str:
    """The forward time, or what happened instead."""
    if row.get("reached"):
        converted = f" ({row['ran_in']})" if row["ran_in"] != row["dtype"] else ""
        return f"{report.show(row['forward_ms'])} ms{converted}"
    if "gap" in row:
        reason = f"not in {row['tried_ms']:.0f} ms" if row["limited"] else "not reached"
        return f"{reason}, gap {row['gap']:.0e}"
    return str(row["note"])


def backward(row: Row) -> str:
    """The time with backward, and the gradient's error."""
    if "both_ms" not in row:
        return ""
    error = "-" if row["gradient_error"] is None else f"{row['gradient_error']:.0e}"
    return f"; with backward {report.show(row['both_ms'])} ms, error {error}"


def markdown(rows: Sequence[Row]) -> str:
    """For each combination and target a table of peers against sizes and shares; then the gradients."""
    parts = [
        "# Time at equal relative duality gap",
        "Median ms of a batch: processor time on one thread, wall clock on two. Peers:",
    ]
    parts.append("\n".join(f"- {name}: {peer.about}{_absence(name)}" for name, peer in PEERS.items()))
    combinations = sorted({(row["tasks"], row["threads"], row["dtype"], row["target"]) for row in rows})
    for tasks, threads, dtype, target in combinations:
        some = [r for r in rows if (r["tasks"], r["threads"], r["dtype"], r["target"]) == (tasks, threads, dtype, target)]
        parts.append(f"## {tasks} tasks, {threads} threads, {dtype}, gap {target:.0e}")
        parts.append(pivot(some, outcome))
        parts.append("Forward and backward, and the relative error of the gradient:")
        parts.append(pivot([row for row in some if "both_ms" in row], lambda row: backward(row)[len("; with backward ") :]))
    return "\n\n".join(parts)


def pivot(rows: Iterable[Row], cell: Any) -> str:
    """Peers down, sizes and shares across."""
    columns: dict[str, None] = {}
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        group = f"/{row['group_size']}" if row["group_size"] > 1 else ""
        column = f"{'x'.join(map(str, row['size']))}{group}, {row['active']:.0%}"
        columns[column] = None
        lines.setdefault(row["peer"], {})[column] = cell(row)
    return report.table(["peer", *columns], [[peer, *map(line.get, columns)] for peer, line in lines.items()])


def _absence(name: str) -> str:
    module = PEERS[name].missing()
    return f" (absent here: no module {module})" if module else ""


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES, *SMOKE_SIZES], help="n_way x n_samples x n_features / group_size")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), help="of active features; 1: lambda1 = 0")
    parser.add_argument("--tasks", nargs="+", type=int)
    parser.add_argument("--threads", nargs="+", type=int)
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"])
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--targets", nargs="+", type=float, default=[1e-3, 1e-6], help="relative gaps")
    parser.add_argument("--full", action="store_true", help="1, 8, 64 tasks x 1, 2 threads x both types; default: " + str(KEY))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument("--forward-only", action="store_true")
    parser.add_argument("--time-limit", type=float, default=3.0, help="seconds for one solve")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--check", action="store_true", help="exit with an error when a promised ratio is lost")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "peers_time.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, write the results beside those kept, and check."""
    options = options_from(arguments)
    if not cells(options):
        raise SystemExit("no combination of tasks, threads and type is selected; --full has all")
    for name in options.peers:
        if module := PEERS[name].missing():
            print(f"absent: {name} (no module {module})")
    new = run(options)
    rows = report.merge([] if options.fresh else report.read(options.output), new, ROW)
    content = {"rows": rows, "peers": {name: peer.about + _absence(name) for name, peer in PEERS.items()}}
    report.write(options.output, content, markdown(rows))
    plots.time_against_gap(rows, options.output.with_suffix(".svg"))
    plots.times(rows, options.output.with_name(f"{options.output.stem}_summary.svg"))
    bars.verdict(bars.check_peers(new, CELL), options.check)


if __name__ == "__main__":
    main()
