"""Processor time of a solve and a backward on one thread, float64, relative gap 1e-6: `python -m benchmarks.solver_time`.

The problems are those of a prototype whose proximal-Newton times (wall-clock ms, another day of the same kind of machine) are in
PROTOTYPE; `ratio` is the time here over that. Also the time of a call whose problem is trivial, which is overhead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import sparsesvm
from benchmarks import bars, report
from benchmarks.measure import median_ms
from benchmarks.tasks import make_tasks, penalty_for

SHARES = (1.0, 0.25, 0.05)
# (n_way, n_samples, n_features, lambda2): milliseconds at about these shares of active features.
PROTOTYPE = {
    (5, 5, 640, 0.1): (0.12, 0.15, 0.13),
    (5, 5, 640, 0.01): (0.12, 0.21, 0.18),
    (5, 25, 1600, 0.1): (1.01, 2.72, 0.98),
    (5, 25, 1600, 0.01): (1.07, 3.36, 2.89),
    (5, 75, 640, 0.1): (1.98, 6.40, 6.56),
    (5, 75, 640, 0.01): (2.93, 6.65, 12.0),
    (5, 75, 16000, 0.1): (45.0, 90.0, 31.0),
    (5, 75, 16000, 0.01): (30.0, 108.0, 69.0),
    (20, 100, 512, 0.1): (41.0, 487.0, None),
    (20, 100, 512, 0.01): (71.0, 796.0, None),
    (5, 150, 640, 0.1): (4.10, 13.0, 13.0),
    (5, 150, 640, 0.01): (4.05, 16.0, 66.0),
}


def measure(size: tuple[int, int, int, float], share: float, prototype: float | None) -> dict[str, object]:
    """One cell of the table."""
    n_way, n_samples, n_features, lambda2 = size
    task = make_tasks(n_way, n_samples, n_features, n_tasks=1, dtype=torch.float64, lambda2=lambda2)
    lambda1 = penalty_for(share, task)
    features, labels = task.features[0], task.labels[0]
    options = {"lambda1": lambda1, "lambda2": lambda2, "n_way": n_way}
    objective = float(sparsesvm.solve(features, labels, **options, tol=1e-9).objective)
    options["tol"] = 1e-6 * objective / n_samples
    found = sparsesvm.solve(features, labels, **options)
    forward = median_ms(lambda: sparsesvm.solve(features, labels, **options))
    recorded = sparsesvm.solve(features.requires_grad_(), labels, **options).weights
    cotangent = torch.ones_like(recorded)
    backward = median_ms(lambda: torch.autograd.grad(recorded, features, cotangent, retain_graph=True))
    return {
        "size": size,
        "active": float(found.active.double().mean()),
        "relative_gap": float(found.gap / found.objective),
        "iterations": int(found.n_iter),
        "solve_ms": forward,
        "backward_ms": backward,
        "prototype_ms": prototype,
        "ratio": forward / prototype if prototype else None,
    }


def overhead() -> dict[str, float]:
    """Microseconds of a call on a task of two samples in four features."""
    features, labels = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 1]]), torch.tensor([0, 1])
    recorded = features.clone().requires_grad_()
    options = {"lambda1": 0.1, "lambda2": 0.1, "n_way": 2}
    weights = sparsesvm.solve(recorded, labels, **options).weights
    ones = torch.ones_like(weights)
    return {
        "solve": 1e3 * median_ms(lambda: sparsesvm.solve(features, labels, **options)),
        "solve, recording": 1e3 * median_ms(lambda: sparsesvm.solve(recorded, labels, **options)),
        "backward": 1e3 * median_ms(lambda: torch.autograd.grad(weights, recorded, ones, retain_graph=True)),
    }


def main() -> None:
    """Measure all cells, print them and write benchmarks/results/solver_time.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with an error when a promised ratio is lost")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "solver_time.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    calls = overhead()
    print("overhead per call, microseconds:", {name: round(value) for name, value in calls.items()})
    cells = []
    for size, references in PROTOTYPE.items():
        for share, reference in zip(SHARES, references, strict=True):
            cell = measure(size, share, reference)
            cells.append(cell)
            ratio = f"{cell['ratio']:.2f}" if reference else "-"
            print(
                f"{size!s:24} active {cell['active']:5.1%}  solve {cell['solve_ms']:8.2f} ms  "
                f"backward {cell['backward_ms']:7.2f} ms  "
                f"gap / objective {cell['relative_gap']:.0e}  {cell['iterations']:3d} iterations  ratio {ratio}",
                flush=True,
            )
    columns = ["size", "active", "relative_gap", "iterations", "solve_ms", "backward_ms", "prototype_ms", "ratio"]
    table = report.table(columns, [[cell[column] for column in columns] for cell in cells])
    title = "# One solve, float64, one thread, relative gap 1e-6; size = (k, n, m, lambda2)"
    content = {"rows": cells, "overhead_us": calls, "threads": 1}
    report.write(arguments.output, content, f"{title}\n\n{table}")
    bars.verdict(bars.check_prototype(cells), arguments.check)


if __name__ == "__main__":
    main()
