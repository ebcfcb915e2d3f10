"""Ten folds times fifty penalties, at once and one by one: `python -m benchmarks.cross_validation`.

`SparseSVMClassifierCV` against a `SparseSVMClassifier` for every fold and penalty, on digits; processor time of one thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold

from benchmarks import report
from sparsesvm.sklearn import SparseSVMClassifier, SparseSVMClassifierCV

TOL = 1e-4


def measure(n: int, folds: int, penalties: int) -> report.Row:
    """Seconds of both, and the ratios that each takes for the best."""
    X, y = (part[:n] for part in load_digits(return_X_y=True))
    splits = list(StratifiedKFold(folds).split(X, y))
    begin = time.process_time()
    together = SparseSVMClassifierCV(lambda1_ratios=penalties, cv=splits, tol=TOL).fit(X, y)
    seconds_together = time.process_time() - begin
    scores = np.empty((folds, penalties))
    # lambda2 counts in a common scale, which is that of all samples in the CV and of the fold's in a single fit.
    scales = [SparseSVMClassifier(lambda1_ratio=1.0, tol=TOL).fit(X[train], y[train]).scale_ for train, _ in splits]
    begin = time.process_time()
    for fold, (train, test) in enumerate(splits):
        lambda2 = together.lambda2_ * (together.scale_ / scales[fold]) ** 2
        for number, ratio in enumerate(together.lambda1_ratios_):
            single = SparseSVMClassifier(lambda1_ratio=ratio, lambda2=lambda2, tol=TOL).fit(X[train], y[train])
            scores[fold, number] = single.score(X[test], y[test])
    seconds_single = time.process_time() - begin
    return {
        "samples": n,
        "fits": folds * penalties,
        "CV, s": seconds_together,
        "single fits, s": seconds_single,
        "times faster": seconds_single / seconds_together,
        "ratio of the CV": together.lambda1_ratio_,
        "ratio of single fits": float(together.lambda1_ratios_[scores.mean(0).argmax()]),
        "largest difference of scores": float(np.abs(scores.mean(0) - together.scores_path_.mean(0)).max()),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write benchmarks/results/cross_validation.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[300])
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--penalties", type=int, default=50)
    parser.add_argument("--output", type=Path, default=report.FOLDER / "cross_validation.json")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = [measure(n, options.folds, options.penalties) for n in options.samples]
    table = report.table(list(rows[0]), [list(row.values()) for row in rows])
    print(table)
    report.write(options.output, {"rows": rows}, f"# Cross-validation along paths, one thread\n\n{table}")


if __name__ == "__main__":
    main()
