"""`sparsesvm probe`: how well, and with which few features, a linear classifier reads classes off embeddings."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import train_test_split

from sparsesvm._facts import environment
from sparsesvm._files import ARRAYS, class_codes, load_arrays, write_whole
from sparsesvm.sklearn.classifier import SparseSVMClassifier
from sparsesvm.sklearn.cross_validation import SparseSVMClassifierCV

_RANDOM_SUBSETS = 5
_LINES = ("its features without group penalty", "all features", "as many random features", "probe of shuffled labels")
_SHOWN = 30


def probe(
    features: ArrayLike,
    labels: ArrayLike,
    names: list[str] | None = None,
    *,
    test_size: float = 0.25,
    cv: int = 5,
    n_lambdas: int = 20,
    min_ratio: float = 1e-2,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Accuracy on samples held out, features chosen by cross-validation within one standard error, and controls.

    Args:
        features: (n_samples, n_features), labels (n_samples,) of any kind, names of the features.
        test_size: share of samples held out, of each class.
        cv, n_lambdas, min_ratio: folds and penalties of the choice.
        options: of `SparseSVMClassifier`, e.g. lambda2, refit, class_weight.

    Returns:
        A dictionary that JSON can hold: accuracy of the probe, of its features fitted again without group penalty as are all
        features and as many random ones (mean of five draws), of the same fit to shuffled labels and of the largest class; the
        path (features used in the mean over folds, score and its standard error); the features used with their coefficients;
        settings, versions and hardware.
    """
    X, y = np.asarray(features), np.asarray(labels)
    names = [str(number) for number in range(X.shape[1])] if names is None else list(names)
    if len(names) != X.shape[1]:
        raise ValueError(f"names must hold one name for each of the {X.shape[1]} features; got {len(names)}")
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=test_size, stratify=y, random_state=seed)
    rng = np.random.default_rng(seed)
    choice: dict[str, Any] = {"lambda1_ratios": n_lambdas, "min_ratio": min_ratio, "cv": cv, "selection": "1se"}
    chosen = SparseSVMClassifierCV(**choice, **options).fit(X_train, y_train)
    used = chosen.support_
    dense = SparseSVMClassifier(lambda1=0.0, **options)
    draws = [rng.choice(X.shape[1], len(used), replace=False) for _ in range(_RANDOM_SUBSETS if len(used) else 0)]
    randomly = [dense.fit(X_train[:, draw], y_train).score(X_test[:, draw], y_test) for draw in draws]
    again = dense.fit(X_train[:, used], y_train).score(X_test[:, used], y_test) if len(used) else chosen.score(X_test, y_test)
    everything = dense.fit(X_train, y_train).score(X_test, y_test)
    same = SparseSVMClassifier(lambda1_ratio=chosen.lambda1_ratio_, **options)
    shuffled = same.fit(X_train, rng.permutation(y_train)).score(X_test, y_test)
    _, counts = np.unique(y_test, return_counts=True)
    scores = chosen.scores_path_
    return {
        "accuracy": {
            "probe": chosen.score(X_test, y_test),
            "its features without group penalty": again,
            "all features": everything,
            "as many random features": float(np.mean(randomly)) if randomly else float(counts.max() / counts.sum()),
            "probe of shuffled labels": shuffled,
            "largest class": float(counts.max() / counts.sum()),
        },
        "lambda1_ratio": chosen.lambda1_ratio_,
        "dual_gap": chosen.dual_gap_,
        "path": {
            "lambda1_ratio": chosen.lambda1_ratios_.tolist(),
            "features": (chosen.coefs_path_ != 0).any(2).sum(2).mean(0).tolist(),
            "score": scores.mean(0).tolist(),
            "standard_error": (scores.std(0, ddof=1) / np.sqrt(len(scores))).tolist(),
        },
        "classes": [str(label) for label in chosen.classes_],
        "features": [{"name": names[j], "coefficients": chosen.coef_[:, j].tolist()} for j in used],
        "n_features": X.shape[1],
        "n_train": len(X_train),
        "n_test": len(X_test),
        "settings": {"test_size": test_size, **choice, "seed": seed, **options},
        **environment("scikit-learn"),
    }


def read(path: Path) -> tuple[NDArray[Any], NDArray[Any], list[str] | None]:
    """Features, labels and, where the file has them, names of the features.

    .npz and .pt hold `features`, `labels` and perhaps `names`; in .csv and .parquet the column `label` is the class, the others
    are features.
    """
    if path.suffix in (".csv", ".parquet"):
        import pandas

        table = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
        if "label" not in table:
            raise ValueError(f"{path} must have a column named label; got {', '.join(map(str, table.columns[:10]))}")
        rest = table.drop(columns="label")
        features, labels, names = rest.to_numpy(), table["label"].to_numpy(), rest.columns
    elif path.suffix in ARRAYS:
        parts = load_arrays(path, ("features", "labels"), ("names",))
        features, labels, names = parts["features"], parts["labels"], parts.get("names")
        features = features.reshape(len(features), -1)
    else:
        raise ValueError(f"{path} must end in .npz, .pt, .csv or .parquet")
    classes, codes = class_codes(labels, len(features), f"{path}: labels")
    return features, classes[codes], None if names is None else [str(name) for name in names]


def table(found: dict[str, Any], most: int = 10, most_classes: int | None = None) -> str:
    """Accuracies, and the largest coefficients of each class, or of the first `most_classes`, in Markdown."""
    lines = [
        f"{len(found['features'])} of {found['n_features']} features, {len(found['classes'])} classes, "
        f"{found['n_train']} samples to fit, {found['n_test']} to test",
        "",
        "| on test samples | accuracy in % |",
        "| --- | --- |",
        *(f"| {name} | {100 * value:.1f} |" for name, value in found["accuracy"].items()),
        "",
        *_at_the_end(found),
        f"| class | features with the largest coefficients (of at most {most}) |",
        "| --- | --- |",
    ]
    rows = np.array([feature["coefficients"] for feature in found["features"]]).T
    classes = found["classes"] if len(rows) != 1 else found["classes"][1:]
    for label, row in list(zip(classes, rows, strict=False))[:most_classes]:
        order = np.argsort(-np.abs(row))[:most]
        best = ", ".join(f"{found['features'][j]['name']} {row[j]:+.2g}" for j in order)
        lines.append(f"| {label} | {best} |")
    if most_classes is not None and len(rows) > most_classes:
        lines.append(f"| {len(rows) - most_classes} more | |")
    return "\n".join(lines)


def _at_the_end(found: dict[str, Any]) -> list[str]:
    """A remark where smaller penalties might have been chosen."""
    if found["lambda1_ratio"] > min(found["path"]["lambda1_ratio"]) or found["lambda1_ratio"] == 1:
        return []
    return [
        f"The smallest penalty of the path was chosen, ratio {found['lambda1_ratio']:.2g}: a smaller min_ratio may do better.",
        "",
    ]


def draw(found: dict[str, Any], path: Path) -> None:
    """Score against features used, and the coefficients."""
    from matplotlib.figure import Figure

    rows = np.array([feature["coefficients"] for feature in found["features"]]).T
    labels = found["classes"] if len(rows) != 1 else found["classes"][1:]
    figure = Figure(figsize=(11, min(max(4.5, 0.13 * len(labels)), 9)), layout="constrained")
    left, right = figure.subplots(1, 2)
    along = found["path"]
    style = {"marker": "o", "ms": 3, "capsize": 2, "color": "C0", "label": "cross-validation"}
    left.errorbar(along["features"], along["score"], along["standard_error"], **style)
    left.plot(len(found["features"]), found["accuracy"]["probe"], "*", color="C1", ms=12, label="chosen, on test samples")
    for color, name in enumerate(_LINES, 2):
        left.axhline(found["accuracy"][name], color=f"C{color}", linestyle="--", linewidth=1, label=name)
    most = max(len(found["features"]), *along["features"])
    left.set_xscale("symlog", linthresh=1, linscale=0.2)
    left.set_xlim(0, 1.3 * most + 0.3)
    ticks = [0] + [step * 10**power for power in range(7) for step in (1, 2, 5) if step * 10**power <= 1.3 * most]
    left.set_xticks(ticks, [str(tick) for tick in ticks])
    left.minorticks_off()
    left.set(xlabel="features used", ylabel="accuracy", ylim=(0, 1.02))
    left.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    if len(rows):
        order = np.argsort(-np.linalg.norm(rows, axis=0))[:_SHOWN]
        limit = np.abs(rows).max()
        image = right.imshow(rows[:, order], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        right.set_xticks(range(len(order)), [_short(found["features"][j]["name"]) for j in order], rotation=90, fontsize=7)
        every = -(-len(labels) // 66)  # one under the other, more do not fit
        shown = range(0, len(labels), every)
        right.set_yticks(shown, [_short(labels[number]) for number in shown], fontsize=8 if len(labels) <= 30 else 6)
        right.set_xlabel("feature")
        if len(order) < rows.shape[1]:
            right.set_title(f"the {len(order)} features with the largest coefficients", fontsize=10)
        figure.colorbar(image, ax=right, label="coefficient")
    figure.savefig(path, dpi=150)


def _short(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:9]}…{name[-10:]}"


def main(arguments: list[str]) -> None:
    """`sparsesvm probe`."""
    parser = argparse.ArgumentParser(
        prog="sparsesvm probe", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "file", type=Path, help="features, labels and perhaps names in .npz or .pt; .csv or .parquet with a label"
    )
    parser.add_argument("--output", type=Path, default=Path("sparsesvm-probe"), help="folder of what is written")
    parser.add_argument("--test-size", type=float, default=0.25, help="share of samples held out")
    parser.add_argument("--cv", type=int, default=5, help="folds")
    parser.add_argument("--n-lambdas", type=int, default=20, help="penalties")
    parser.add_argument("--min-ratio", type=float, default=1e-2, help="the smallest penalty, as a share of the largest")
    parser.add_argument("--refit", action="store_true", help="fit again without group penalty on the features chosen")
    parser.add_argument("--lambda2", type=float, help="squared penalty; by default from the spread of the features")
    parser.add_argument("--tol", type=float, default=1e-4, help="duality gap, as a share of the samples")
    parser.add_argument("--seed", type=int, default=0, help="of the split and the controls")
    chosen = vars(parser.parse_args(arguments))
    file, output = chosen.pop("file"), chosen.pop("output")
    try:
        found = probe(*read(file), **chosen)
        write_whole(output / "probe.json", json.dumps(found, indent=1) + "\n")
        draw(found, output / "probe.png")
        write_whole(output / "probe.md", f"# Probe of {file.name}\n\n{table(found)}\n\n![accuracy and coefficients](probe.png)\n")
    except (OSError, ValueError) as error:
        raise SystemExit(f"sparsesvm probe: {error}") from error
    print(table(found, most_classes=20))
    print(f"\n{output / 'probe.md'}")
