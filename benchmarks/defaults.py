"""What a user gets without tuning anything: `python -m benchmarks.defaults`.

Every peer with the setting that it ships with: wall-clock time of a batch of 8 tasks (median), relative gap, time with backward
and relative error of the gradient. float32 features on two threads; a peer that takes float64 only gets them so.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import report
from benchmarks.contest import timed
from benchmarks.measure import Failure, Worker
from benchmarks.peers import PEERS
from benchmarks.tasks import exact, gradient_error, make_tasks, penalty_for, relative_gap

Row = dict[str, Any]
SIZES = ((5, 5, 640), (5, 25, 1600), (5, 75, 640))
SHARES = (1.0, 0.25)


def measure(name: str, path: str, limit_s: float) -> Row:
    """One peer on the (Tasks, Exact) stored at `path`."""
    peer = PEERS[name].as_shipped()
    assert peer.shipped is not None
    setting = peer.shipped
    tasks, solution = torch.load(path, weights_only=False)
    if peer.double_only:
        tasks = tasks.to(torch.float64)
    solve = peer.prepare(tasks)
    row: Row = {"setting": setting, "gap": relative_gap(tasks, solve(setting), solution.minimum)}
    row |= timed("forward", lambda: solve(setting), limit_s)
    if peer.differentiable:
        differentiate = peer.prepare_gradient(tasks, solution.cotangent)
        row["gradient_error"] = gradient_error(differentiate(setting), solution.gradient)
        row |= timed("both", lambda: differentiate(setting), limit_s)
    return row


def run(options: argparse.Namespace) -> list[Row]:
    """All peers with a shipped setting on all cells."""
    shipped = {name: peer for name, peer in PEERS.items() if peer.shipped is not None}
    workers = {name: Worker(options.threads) for name, peer in shipped.items() if not peer.missing()}
    rows: list[Row] = []
    try:
        for size, share in itertools.product([(3, 6, 40)] if options.smoke else SIZES, SHARES):
            rows += _cell(size, share, workers, options)
    finally:
        for worker in workers.values():
            worker.close()
    return rows


def _cell(size: tuple[int, int, int], share: float, workers: dict[str, Worker], options: argparse.Namespace) -> list[Row]:
    tasks = make_tasks(*size, n_tasks=options.tasks, dtype=torch.float32)
    tasks = replace(tasks, lambda1=penalty_for(share, tasks))
    rows = []
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save((tasks, exact(tasks)), file.name)
        for name, worker in workers.items():
            row: Row = {"size": list(size), "share": share, "peer": name}
            if reason := PEERS[name].refusal(tasks):
                row["note"] = reason
            else:
                try:
                    row |= worker.call(measure, name, file.name, options.time_limit, limit_s=30 + 10 * options.time_limit)
                except Failure as failure:
                    row["note"] = str(failure)
            rows.append(row)
            print({key: report.show(value) for key, value in row.items()}, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write benchmarks/results/defaults.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--time-limit", type=float, default=5.0, help="seconds of repetitions for one time")
    parser.add_argument("--smoke", action="store_true", help="one tiny size")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "defaults.json")
    options = parser.parse_args(arguments)
    for name, peer in PEERS.items():
        if module := peer.missing():
            print(f"absent: {name} (no module {module})")
    rows = run(options)
    columns = ["size", "share", "peer", "setting", "gap", "forward_ms", "both_ms", "gradient_error", "note"]
    table = report.table(columns, [[row.get(column) for column in columns] for row in rows])
    notes = "\n".join(f"- {peer.name}: {peer.shipped_as}" for peer in PEERS.values() if peer.shipped is not None)
    title = f"# Defaults as shipped: {options.tasks} tasks, {options.threads} threads, float32 features"
    report.write(options.output, {"rows": rows}, f"{title}\n\n{table}\n\n{notes}")


if __name__ == "__main__":
    main()
