"""Sparse probes with planted features against scikit-learn and others: `python -m benchmarks.probe`.

Each class has `PLANTED` features of its own that are shifted in its samples; all features are standard normal otherwise (in
the CSR row a share `DENSITY` of the entries is drawn and all others are zero). Every solver runs at ten strengths of its
penalty, its own warm starts included where it has them; reported is the sparsest whose accuracy on as many test samples is
within half a point of its best. Paths end at a tenth (ours) and 3 % (adelie's) of the largest penalty, where ours uses no fewer
features ("at most"). Seconds are processor time of all ten fits, one thread; MiB what they took at their peak beside
the samples; precision and recall of the features in use are against the planted ones.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from benchmarks import report
from benchmarks.measure import Failure, Worker, peak_memory, reset_peak_memory
from sparsesvm.sklearn import SparseSVMClassifier

# n, m, k, whether in CSR
SIZES = {
    "small": (300, 1024, 5, False),
    "episode": (768, 4096, 5, False),
    "wide": (10_000, 4096, 20, False),
    "tall": (100_000, 500, 5, False),
    "text": (20_000, 65_536, 10, True),
}
PLANTED, SHIFT, DENSITY, STRENGTHS = 6, 1.2, 0.003, 10
TOLERANCE = 0.005
COLUMNS = ("data", "(n, m, k)", "solver", "accuracy %", "features", "at most", "precision", "recall", "seconds", "MiB", "note")

Fits = Iterator[tuple[np.ndarray, np.ndarray]]  # coefficients (k, m) and intercepts (k,), one for each strength


def draw(n: int, m: int, k: int, compressed: bool, seed: int) -> tuple[Any, np.ndarray]:
    """Samples and classes; the planted features are the first PLANTED * k."""
    rng = np.random.default_rng(seed)
    y = rng.integers(k, size=n)
    rows, shifted = np.arange(n).repeat(PLANTED), (PLANTED * y[:, None] + np.arange(PLANTED)).ravel()
    if not compressed:
        X = rng.standard_normal((n, m), dtype=np.float32)
        X[rows, shifted] += SHIFT
        return X, y
    entries = round(DENSITY * m)
    start, columns = entries * np.arange(n + 1), rng.integers(m, size=n * entries)
    noise = sparse.csr_matrix((rng.standard_normal(n * entries, dtype=np.float32), columns, start), (n, m))
    present = rng.random(len(rows)) < 0.5
    signal = sparse.csr_matrix((np.full(present.sum(), SHIFT, np.float32), (rows[present], shifted[present])), (n, m))
    return (noise + signal).tocsr(), y


def ours(X: Any, y: np.ndarray) -> Fits:
    """The path of the smoothed hinge."""
    path = SparseSVMClassifier(tol=1e-4).path(X, y, n_lambdas=STRENGTHS, min_ratio=0.1)
    yield from zip(path.coef, path.intercept, strict=True)


def saga(X: Any, y: np.ndarray) -> Fits:
    """Multinomial logistic regression with an l1 penalty, each fit started from the one before."""
    peer = LogisticRegression(l1_ratio=1.0, solver="saga", warm_start=True, max_iter=200, tol=1e-3, random_state=0)
    for strength in np.geomspace(1e-3, 1, STRENGTHS) * 1000 / len(y):
        peer.set_params(C=strength).fit(X, y)
        yield peer.coef_, peer.intercept_


def liblinear(X: Any, y: np.ndarray) -> Fits:
    """One l1-penalised squared-hinge machine against the rest for each class."""
    for strength in np.geomspace(1e-3, 1, STRENGTHS) * 1000 / len(y):
        peer = LinearSVC(penalty="l1", dual=False, C=strength, random_state=0).fit(X, y)
        yield peer.coef_, peer.intercept_


def skglm(X: Any, y: np.ndarray) -> Fits:
    """One l1-penalised logistic regression against the rest for each class."""
    from skglm import SparseLogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    for strength in np.geomspace(0.1, 0.003, STRENGTHS):
        peer = OneVsRestClassifier(SparseLogisticRegression(alpha=strength)).fit(X, y)
        each = [machine.coef_.ravel() for machine in peer.estimators_]
        yield np.array(each), np.array([float(np.ravel(machine.intercept_)[0]) for machine in peer.estimators_])


def adelie(X: Any, y: np.ndarray) -> Fits:
    """The group-lasso path of multinomial logistic regression."""
    import adelie as ad

    if sparse.issparse(X):
        matrix = ad.matrix.sparse(X.astype(np.float64).tocsc(), method="naive", n_threads=1)
    else:
        matrix = np.asfortranarray(X, dtype=np.float64)
    one_hot = np.eye(y.max() + 1)[y]
    path = ad.grpnet(
        X=matrix, glm=ad.glm.multinomial(one_hot), lmda_path_size=STRENGTHS, min_ratio=0.03, progress_bar=False, early_exit=False
    )
    k = one_hot.shape[1]
    for coef, intercept in zip(path.betas, path.intercepts, strict=True):
        yield np.asarray(coef.todense()).reshape(-1, k).T, np.asarray(intercept).reshape(k)


SOLVERS: dict[str, Callable[[Any, np.ndarray], Fits]] = {
    "sparsesvm": ours,
    "scikit-learn saga": saga,
    "scikit-learn liblinear": liblinear,
    "skglm": skglm,
    "adelie": adelie,
}


def measure(solver: str, n: int, m: int, k: int, compressed: bool) -> dict[str, Any]:
    """The row of one solver on one size."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    X, y = draw(n, m, k, compressed, 0)
    X_test, y_test = draw(n, m, k, compressed, 1)
    list(SOLVERS[solver](*draw(60, 40, 3, compressed, 2)))  # what is compiled or imported on first use is not counted
    resident, begin = reset_peak_memory(), time.process_time()
    fits = list(SOLVERS[solver](X, y))
    seconds, mebibytes = time.process_time() - begin, peak_memory() - resident
    found = []
    for coef, intercept in fits:
        used = np.flatnonzero(np.asarray(coef).any(0))
        found.append((float(((X_test @ coef.T + intercept).argmax(1) == y_test).mean()), used))
    best = max(accuracy for accuracy, _ in found)
    accuracy, used = min((fit for fit in found if fit[0] >= best - TOLERANCE), key=lambda fit: len(fit[1]))
    hits = int((used < PLANTED * k).sum())
    return {
        "solver": solver,
        "accuracy %": 100 * accuracy,
        "features": len(used),
        "at most": max(len(each) for _, each in found),
        "precision": hits / max(len(used), 1),
        "recall": hits / (PLANTED * k),
        "seconds": seconds,
        "MiB": mebibytes,
        "note": "",
    }


def main(argv: list[str] | None = None) -> None:
    """Measure the sizes asked for, print them and write benchmarks/results/probe.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of wall time that a solver may take for one size")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "probe.json")
    options = parser.parse_args(argv)
    rows = report.read(options.output)
    for name in options.sizes:
        for solver in options.solvers:
            worker = Worker(1)  # a process of its own, or the memory of the one before would be at hand
            row = dict.fromkeys(COLUMNS) | {"data": name, "(n, m, k)": list(SIZES[name][:3]), "solver": solver}
            try:
                row |= worker.call(measure, solver, *SIZES[name], limit_s=options.limit)
            except Failure as failure:
                row["note"] = str(failure).splitlines()[0][:100]
            worker.close()
            print("  ".join(f"{key} {report.show(value)}" for key, value in row.items()), flush=True)
            rows = report.merge(rows, [row], ["data", "solver"])
            table = report.table(COLUMNS, [[row.get(column) for column in COLUMNS] for row in rows])
            title = "# Sparse probes with planted features, one thread, limits in wall time"
            report.write(options.output, {"rows": rows}, f"{title}\n\n{table}", quiet=True)


if __name__ == "__main__":
    main()
