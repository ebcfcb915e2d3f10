"""Disentangled and sparse generalises better: `python -m benchmarks.generalization [--kind regression|classification]`.

Test score against the number of training samples, when 5, 20 or 80 % of 100 factors matter, for predictors on the factors
themselves (disentangled) and on a random rotation of them (entangled). Regression: Lasso and ridge, R^2. Classification: the
sparse SVM and the SVM without lambda1, accuracy. Every penalty is chosen by 5-fold cross-validation on the training samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import sparsesvm
from benchmarks import report
from benchmarks.plots import generalization_figure
from benchmarks.representation import mean_and_error
from sparsesvm.bilevel import lambda_max, ridge_regression, sparse_regression
from sparsesvm.bilevel.tasks import FixedSizeSupport, noisy_targets

N_FACTORS, FOLDS, WAY, TEST_SAMPLES = 100, 5, 5, 1000
SHARES = (0.05, 0.2, 0.8)
SAMPLES = (25, 50, 75, 100, 125, 150)
NOISE = 0.05**0.5  # 5 % of the signal's energy
LASSO = torch.logspace(0, -3, 30, dtype=torch.float64)  # times lambda_max of all training samples
RIDGE = torch.logspace(2, -5, 30, dtype=torch.float64)  # times ||F||^2 / (n m), the mean eigenvalue
SVM = torch.tensor([0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45], dtype=torch.float64)  # lambda1_ratio
SVM_LAMBDA2 = torch.logspace(2, -1, 4, dtype=torch.float64) * N_FACTORS
CHOICE = (
    "every penalty by 5-fold cross-validation on the training samples; grids fixed in advance; the test samples choose nothing"
)

# Means of the published figure of Lachapelle et al. 2023, from the log file beside their script: R^2 at the numbers of SAMPLES.
PUBLISHED = {
    (0.05, "disentangled", "lasso"): (0.633, 0.921, 0.940, 0.948, 0.949, 0.949),
    (0.05, "entangled", "lasso"): (-0.077, 0.033, 0.441, 0.719, 0.844, 0.891),
    (0.05, "disentangled", "ridge"): (-0.074, 0.406, 0.661, 0.791, 0.868, 0.901),
    (0.05, "entangled", "ridge"): (-0.074, 0.406, 0.661, 0.791, 0.868, 0.901),
    (0.2, "disentangled", "lasso"): (-0.075, 0.449, 0.820, 0.882, 0.896, 0.906),
    (0.2, "entangled", "lasso"): (-0.142, 0.017, 0.325, 0.615, 0.759, 0.830),
    (0.2, "disentangled", "ridge"): (0.042, 0.476, 0.487, 0.750, 0.810, 0.855),
    (0.2, "entangled", "ridge"): (0.042, 0.476, 0.487, 0.750, 0.810, 0.855),
    (0.8, "disentangled", "lasso"): (0.218, 0.434, 0.570, 0.841, 0.876, 0.923),
    (0.8, "entangled", "lasso"): (0.249, 0.464, 0.660, 0.785, 0.862, 0.920),
    (0.8, "disentangled", "ridge"): (0.343, 0.650, 0.742, 0.868, 0.871, 0.927),
    (0.8, "entangled", "ridge"): (0.343, 0.650, 0.742, 0.868, 0.871, 0.927),
}

Fit = Callable[[Tensor, Tensor, Tensor], Tensor]
Score = Callable[[Tensor, Tensor], Tensor]


def fit_lasso(features: Tensor, targets: Tensor, penalty: Tensor) -> Tensor:
    """Weights (tasks, m) for penalties (tasks,)."""
    return sparse_regression(features, targets, lambda1=penalty, tol=1e-8).weights


def fit_ridge(features: Tensor, targets: Tensor, penalty: Tensor) -> Tensor:
    """As `fit_lasso`."""
    return ridge_regression(features, targets, lambda2=penalty)


def fit_svm(features: Tensor, labels: Tensor, penalty: Tensor) -> Tensor:
    """Weights (tasks, way, m) for penalties (tasks, 2): lambda1 and lambda2."""
    lambda1, lambda2 = penalty.unbind(-1)
    return sparsesvm.solve(features, labels, lambda1=lambda1, lambda2=lambda2, n_way=WAY, tol=1e-4).weights


def r_squared(targets: Tensor, predicted: Tensor) -> Tensor:
    """(tasks,), relative to the mean of the targets."""
    total = (targets - targets.mean(-1, keepdim=True)).square().sum(-1)
    return 1 - (targets - predicted).square().sum(-1) / total


def accuracy(labels: Tensor, scores: Tensor) -> Tensor:
    """(tasks,)."""
    return (scores.argmax(-1) == labels).double().mean(-1)


def predict(features: Tensor, weights: Tensor) -> Tensor:
    """Outputs (tasks, n) of weights (tasks, m), or (tasks, n, way) of (tasks, way, m)."""
    return (features @ weights.unsqueeze(-1)).squeeze(-1) if weights.dim() == 2 else features @ weights.mT


def loss(targets: Tensor, outputs: Tensor) -> Tensor:
    """What cross-validation minimises, (tasks,): mean squared error, or the error rate."""
    return (targets - outputs).square().mean(-1) if targets.is_floating_point() else 1 - accuracy(targets, outputs)


def cross_validated(features: Tensor, targets: Tensor, fit: Fit, grid: Tensor) -> Tensor:
    """Weights on all samples with the penalty of the grid (n_penalties, ...) that predicts held-out folds best.

    Folds and penalties of one task are solved as one batch. Of equally good penalties the first is taken.
    """
    n_samples = len(features)
    folds = torch.arange(n_samples) % FOLDS
    kept = torch.stack([(folds != fold).nonzero().squeeze(1) for fold in range(FOLDS)])
    left = torch.stack([(folds == fold).nonzero().squeeze(1) for fold in range(FOLDS)])
    count = len(grid)
    repeat = torch.arange(FOLDS).repeat_interleave(count)
    weights = fit(features[kept][repeat], targets[kept][repeat], grid.repeat(FOLDS, *(1,) * (grid.dim() - 1)))
    losses = loss(targets[left][repeat], predict(features[left][repeat], weights)).unflatten(0, (FOLDS, count)).mean(0)
    best = int(losses.argmin())
    return fit(features.unsqueeze(0), targets.unsqueeze(0), grid[best : best + 1])


def regression(share: float, n_samples: int, seed: int) -> list[report.Row]:
    """One task, all four curves."""
    train, test, rotation, generator = _draw(n_samples, seed)
    weights = FixedSizeSupport(N_FACTORS, round(share * N_FACTORS)).draw(1, generator)[0].double()
    targets = noisy_targets(train, weights, NOISE, generator).squeeze(-1)
    truth = noisy_targets(test, weights, NOISE, generator).squeeze(-1)
    rows = []
    for representation, turn in (("disentangled", torch.eye(N_FACTORS, dtype=torch.float64)), ("entangled", rotation)):
        features, query = train @ turn, test @ turn
        scale = features.square().sum() / features.numel()
        grids = (("lasso", fit_lasso, LASSO * lambda_max(features, targets)), ("ridge", fit_ridge, RIDGE * scale))
        for model, fit, grid in grids:
            found = cross_validated(features, targets, fit, grid)
            score = float(r_squared(truth.unsqueeze(0), predict(query.unsqueeze(0), found)))
            rows.append({"representation": representation, "model": model, "score": score})
    return rows


def classification(share: float, n_samples: int, seed: int) -> list[report.Row]:
    """One task of WAY classes, the largest of WAY noisy outputs; all four curves. lambda2 is cross-validated too."""
    train, test, rotation, generator = _draw(n_samples, seed)
    weights = FixedSizeSupport(N_FACTORS, round(share * N_FACTORS)).draw(1, generator, WAY)[0].double()
    labels = noisy_targets(train, weights, NOISE, generator).argmax(-1)
    truth = noisy_targets(test, weights, NOISE, generator).argmax(-1)
    rows = []
    for representation, turn in (("disentangled", torch.eye(N_FACTORS, dtype=torch.float64)), ("entangled", rotation)):
        features, query = train @ turn, test @ turn
        largest = sparsesvm.lambda1_max(features, labels, n_way=WAY)
        for model, ratios in (("sparse SVM", SVM), ("SVM", SVM[:1])):
            found = cross_validated(features, labels, fit_svm, torch.cartesian_prod(ratios * largest, SVM_LAMBDA2))
            score = float(accuracy(truth.unsqueeze(0), predict(query.unsqueeze(0), found)))
            rows.append({"representation": representation, "model": model, "score": score})
    return rows


def _draw(n_samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
    """Gaussian factors for training and test, a random rotation, and the generator for the rest."""
    generator = torch.Generator().manual_seed(1000 * seed + n_samples)
    train = torch.randn(n_samples, N_FACTORS, generator=generator, dtype=torch.float64)
    test = torch.randn(TEST_SAMPLES, N_FACTORS, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(N_FACTORS, N_FACTORS, generator=generator, dtype=torch.float64))[0]
    return train, test, rotation, generator


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print a table, write JSON and a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--kind", choices=("regression", "classification"), default="regression")
    parser.add_argument("--seeds", type=int, default=20, help="independent tasks, samples and rotations")
    parser.add_argument("--samples", type=int, nargs="+", default=SAMPLES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/generalization_KIND.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    output = options.output or report.FOLDER / f"generalization_{options.kind}.json"
    run = regression if options.kind == "regression" else classification
    cells = [(share, n, seed) for share in SHARES for n in options.samples for seed in range(options.seeds)]
    rows: list[report.Row] = []
    for share, n, seed in tqdm(cells, unit="task", dynamic_ncols=True):
        rows += [{"share": share, "samples": n, "seed": seed, **row} for row in run(share, n, seed)]
    summary = summarise(rows)
    sizes = sorted({line["samples"] for line in summary})
    lines = []
    for key in dict.fromkeys((line["share"], line["representation"], line["model"]) for line in summary):
        found = {line["samples"]: line for line in summary if (line["share"], line["representation"], line["model"]) == key}
        cells_of_line = [f"{found[n]['score']:.3f} ± {found[n]['error']:.3f}" for n in sizes]
        lines.append([f"{100 * key[0]:.0f} %", key[1], key[2], *cells_of_line])
        if key in PUBLISHED:
            lines.append(["", "", "published", *(found[n]["published"] for n in sizes)])
    table = report.table(("useful", "representation", "model", *(f"n = {n}" for n in sizes)), lines)
    gains = advantages(rows)
    lines = []
    for share, model in dict.fromkeys((line["share"], line["model"]) for line in gains):
        found = {line["samples"]: line for line in gains if (line["share"], line["model"]) == (share, model)}
        lines.append([f"{100 * share:.0f} %", model, *(f"{found[n]['advantage']:.3f} ± {found[n]['error']:.3f}" for n in sizes)])
    gain_table = report.table(("useful", "model", *(f"n = {n}" for n in sizes)), lines)
    print(f"{table}\n\nDisentangled less entangled, paired:\n\n{gain_table}")
    notes = f"Mean ± standard error over {options.seeds} seeds. Chosen: {CHOICE}."
    content = {"choice": CHOICE, "seeds": options.seeds, "summary": summary, "advantages": gains, "rows": rows}
    report.write(output, content, f"{table}\n\nDisentangled less entangled, on the same tasks:\n\n{gain_table}\n\n{notes}")
    generalization_figure(summary, output.with_suffix(".svg"))


def summarise(rows: Sequence[report.Row]) -> list[report.Row]:
    """Mean and standard error over seeds of each curve and number of samples, with the published mean where there is one."""
    groups: dict[tuple[float, int, str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row["share"], row["samples"], row["representation"], row["model"]), []).append(row["score"])
    summary = []
    for (share, samples, representation, model), scores in groups.items():
        score, error = mean_and_error(scores)
        curve = PUBLISHED.get((share, representation, model))
        published = curve[SAMPLES.index(samples)] if curve and samples in SAMPLES else None
        line = {"share": share, "samples": samples, "representation": representation, "model": model}
        summary.append({**line, "score": score, "error": error, "published": published})
    return summary


def advantages(rows: Sequence[report.Row]) -> list[report.Row]:
    """Score on the factors less score on their rotation, for each share, number of samples and model: mean over tasks, and the
    standard error of the paired differences."""
    scores = {(row["share"], row["samples"], row["model"], row["representation"], row["seed"]): row["score"] for row in rows}
    differences: dict[tuple[float, int, str], list[float]] = {}
    for (share, samples, model, representation, seed), score in scores.items():
        if representation == "disentangled":
            rotated = scores[share, samples, model, "entangled", seed]
            differences.setdefault((share, samples, model), []).append(score - rotated)
    found = []
    for (share, samples, model), values in differences.items():
        advantage, error = mean_and_error(values)
        found.append({"share": share, "samples": samples, "model": model, "advantage": advantage, "error": error})
    return found


if __name__ == "__main__":
    main()
