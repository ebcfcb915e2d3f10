"""Accuracy of the estimators on scikit-learn's data sets as they come: `python -m benchmarks.raw_tables`.

No scaler and no setting per data set. Beside them LinearSVC (Crammer and Singer's machine) and l1 logistic regression on the same
folds, and LinearSVC on standardised features for comparison. Differences are paired by fold against our dense machine.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from benchmarks import report
from sparsesvm.sklearn import SparseSVMClassifier, SparseSVMClassifierCV

DATA = {"iris": load_iris, "wine": load_wine, "breast_cancer": load_breast_cancer, "digits": load_digits}
COLUMNS = ("data", "estimator", "accuracy %", "± fold", "to dense, points", "± error", "features", "of", "seconds", "note")


def _linear_svc() -> Any:
    return LinearSVC(multi_class="crammer_singer", random_state=0, max_iter=5000)


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "ours, dense": lambda: SparseSVMClassifier(lambda1=0.0),
    "ours, sparse, refit=True": lambda: SparseSVMClassifier(refit=True, tol=1e-4),
    "ours, lambda1_ratio=0.12, refit=True": lambda: SparseSVMClassifier(lambda1_ratio=0.12, refit=True, tol=1e-4),
    "ours, CV": lambda: SparseSVMClassifierCV(lambda1_ratios=20, min_ratio=1e-3, tol=1e-4),
    'ours, CV, "1se", refit=True': lambda: SparseSVMClassifierCV(
        lambda1_ratios=20, min_ratio=1e-3, tol=1e-4, selection="1se", refit=True
    ),
    "ours, CV, adaptive, refit=True": lambda: SparseSVMClassifierCV(
        lambda1_ratios=20, tol=1e-4, group_weight="adaptive", refit=True
    ),
    'ours, CV, adaptive, "1se", refit=True': lambda: SparseSVMClassifierCV(
        lambda1_ratios=20, tol=1e-4, group_weight="adaptive", selection="1se", refit=True
    ),
    "LinearSVC": _linear_svc,
    "LinearSVC, standardised": lambda: make_pipeline(StandardScaler(), _linear_svc()),
    "l1 logistic regression": lambda: LogisticRegression(l1_ratio=1.0, solver="saga", max_iter=1000, random_state=0),
}


def _used(estimator: Any) -> int:
    coef = estimator[-1].coef_ if hasattr(estimator, "steps") else estimator.coef_
    return int(coef.any(0).sum())


def measure(data: str, estimator: str, repeats: int) -> dict[str, Any]:
    """The row, and the score of each fold."""
    X, y = DATA[data](return_X_y=True)
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=repeats, random_state=0)
    begin = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = cross_validate(ESTIMATORS[estimator](), X, y, cv=folds, return_estimator=True)
    stopped = sum("converge" in str(warning.message) for warning in caught)
    scores = found["test_score"]
    return {
        "data": data,
        "estimator": estimator,
        "accuracy %": 100 * scores.mean(),
        "± fold": 100 * scores.std(),
        "features": float(np.mean([_used(each) for each in found["estimator"]])),
        "of": X.shape[1],
        "seconds": (time.process_time() - begin) / len(scores),
        "note": f"{stopped} of {len(scores)} fits not converged" if stopped else "",
        "scores": scores.tolist(),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write benchmarks/results/raw_tables.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=list(ESTIMATORS), help="beside the dense machine")
    parser.add_argument("--repeats", type=int, default=3, help="of the five folds, each shuffled anew")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "raw_tables.json")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = report.read(options.output)
    title = f"# Raw tables, five folds {options.repeats} times, seconds of one thread for a fit"
    for data in options.data:
        dense: report.Row = {}
        for estimator in dict.fromkeys([next(iter(ESTIMATORS)), *options.estimators]):
            row = measure(data, estimator, options.repeats)
            dense = dense or row  # the first one
            difference = 100 * (np.array(row["scores"]) - np.array(dense["scores"]))
            row |= {"to dense, points": difference.mean(), "± error": difference.std(ddof=1) / np.sqrt(len(difference))}
            print("  ".join(f"{name} {report.show(row[name])}" for name in COLUMNS), flush=True)
            rows = report.merge(rows, [row], ["data", "estimator"])
            table = report.table(COLUMNS, [[each[column] for column in COLUMNS] for each in rows])
            report.write(options.output, {"rows": rows}, f"{title}\n\n{table}", quiet=True)


if __name__ == "__main__":
    main()
