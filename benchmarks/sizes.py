"""Time of one float32 solve from 1,000 samples on, one thread, gap 1e-6 of the objective at zero: `python -m benchmarks.sizes`.

The exact hinge with lambda2 = 1 on scikit-learn's make_classification (30 informative features, standardised) and on its digits,
raw, divided by 16 and standardised; and on compressed sparse rows with 30 planted features a class. PROTOTYPE holds the times of
the better of two prototypes, of another day of the same kind of machine; `ratio` is the time here over that. Seconds are of the
processor, the median of three solves, or of one above 5 s; MiB what a solve adds to the resident memory at most; passes are
those over all features, beside which a solve reads those of its working sets.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits, make_classification

import sparsesvm
from benchmarks import bars, report
from benchmarks.measure import peak_memory, reset_peak_memory
from sparsesvm import _core

# (n, m, k), lambda1_ratio: the prototype's seconds.
PROTOTYPE: dict[tuple[tuple[int, int, int], float], float | None] = {
    ((1000, 2000, 2), 0.3): 0.16,
    ((1000, 2000, 2), 0.1): 1.5,
    ((1000, 2000, 2), 0.03): 48.0,
    ((5000, 2000, 2), 0.1): 0.79,
    ((2000, 2000, 5), 0.3): 0.59,
    ((2000, 2000, 5), 0.1): 50.0,
    ((5000, 5000, 5), 0.3): 2.2,
    ((20000, 2000, 5), 0.3): 2.4,
}
# The rows that have no prototype.
LARGE = ((20_000, 2_000, 10), (100_000, 500, 5))
SPARSE = (20_000, 50_000, 20)
LARGE_RATIOS = (0.3, 0.1, 0.03)
DIGITS_RATIOS = (0.1, 0.02)
ONCE_FROM_S = 5.0
COLUMNS = (
    "data",
    "(n, m, k)",
    "lambda1_ratio",
    "active",
    "converged",
    "gap / n",
    "outer iterations",
    "passes",
    "seconds",
    "MiB",
    "prototype s",
    "ratio",
)


def standardised(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every feature with mean zero and deviation one; constant features zero."""
    deviation = samples.std(0)
    return (samples - samples.mean(0)) / np.where(deviation > 0, deviation, 1)


DIGITS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "digits, raw": lambda images: images,
    "digits / 16": lambda images: images / 16,
    "digits, standardised": standardised,
}


def classification(n_samples: int, n_features: int, n_way: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The standardised data of make_classification."""
    samples, labels = make_classification(
        n_samples,
        n_features,
        n_informative=30,
        n_redundant=0,
        n_classes=n_way,
        n_clusters_per_class=1,
        random_state=0,
    )
    return standardised(samples), labels


def planted_rows(n_samples: int, n_features: int, n_way: int) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Compressed sparse rows: one entry in 200, and in every seventh sample of a class each of its own 30 features."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, n_way, n_samples)
    rows = [rng.integers(0, n_samples, n_samples * n_features // 200)]
    columns = [rng.integers(0, n_features, len(rows[0]))]
    for way in range(n_way):
        members = np.flatnonzero(labels == way)
        sample, feature = np.nonzero(rng.random((len(members), 30)) < 1 / 7)
        rows.append(members[sample])
        columns.append(30 * way + feature)
    place = np.unique(np.concatenate(rows) * n_features + np.concatenate(columns))  # sorted, each once
    start = np.searchsorted(place, np.arange(n_samples + 1) * n_features)
    values = (rng.random(len(place)) + 0.5).astype(np.float32)
    parts = (torch.from_numpy(part) for part in (start, place % n_features, values))
    return torch.sparse_csr_tensor(*parts, (n_samples, n_features), check_invariants=False), labels


def measure(
    name: str,
    samples: NDArray[np.float64] | torch.Tensor,
    labels: NDArray[np.int64],
    ratio: float,
    prototype: float | None = None,
) -> report.Row:
    """One row of the table."""
    features = samples if isinstance(samples, torch.Tensor) else torch.from_numpy(samples).float()
    classes = torch.from_numpy(labels)
    times: list[float] = []
    while len(times) < 3 and not any(seconds > ONCE_FROM_S for seconds in times):
        before = reset_peak_memory()
        passes = _core.full_passes()
        begin = time.process_time()
        found = sparsesvm.solve(features, classes, lambda1_ratio=ratio, lambda2=1.0, on_failure="ignore")
        times.append(time.process_time() - begin)
        memory = peak_memory() - before
        passes = _core.full_passes() - passes
    seconds = statistics.median(times)
    return {
        "data": name,
        "(n, m, k)": (*features.shape, int(classes.max()) + 1),
        "lambda1_ratio": ratio,
        "active": int(found.active.sum()),
        "converged": int(found.status) == sparsesvm.StatusCode.CONVERGED,
        "gap / n": float(found.gap) / len(classes),
        "outer iterations": int(found.n_iter),
        "passes": passes,
        "seconds": seconds,
        "MiB": memory,
        "prototype s": prototype,
        "ratio": seconds / prototype if prototype else None,
    }


def main(argv: list[str] | None = None) -> None:
    """Measure all rows, print them and write benchmarks/results/sizes.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with an error when a promised time is lost")
    parser.add_argument("--largest", type=int, default=100_000, help="leave out what has more samples")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "sizes.json")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[report.Row] = []

    def add(row: report.Row) -> None:
        rows.append(row)
        print("  ".join(f"{name} {report.show(value)}" for name, value in row.items()), flush=True)

    images, digits = load_digits(return_X_y=True)
    for name, change in DIGITS.items():
        for ratio in DIGITS_RATIOS:
            add(measure(name, change(images), digits, ratio))
    for (size, ratio), prototype in PROTOTYPE.items():
        if size[0] <= options.largest:
            add(measure("make_classification", *classification(*size), ratio, prototype))
    for size in LARGE:
        if size[0] <= options.largest:
            data = classification(*size)
            for ratio in LARGE_RATIOS:
                add(measure("make_classification", *data, ratio))
    if SPARSE[0] <= options.largest:
        rows_and_labels = planted_rows(*SPARSE)
        for ratio in LARGE_RATIOS:
            add(measure("sparse rows", *rows_and_labels, ratio))
    title = "# One solve, exact hinge, float32, lambda2 = 1, one thread, gap / n at most 1e-6"
    table = report.table(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])
    report.write(options.output, {"rows": rows}, f"{title}\n\n{table}")
    bars.verdict(bars.check_sizes(rows), options.check)


if __name__ == "__main__":
    main()
