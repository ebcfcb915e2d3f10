"""One cell of the experiments on learnt representations: train an encoder on a stream of tasks, validate it, score its codes.

Penalties are chosen on the validation error of new tasks (`sparsesvm.bilevel.training.validation_error`); scores against the true
factors are computed afterwards. The one choice that was made on scores is named in `CHOICE`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.report import Row
from sparsesvm import metrics
from sparsesvm.bilevel import training
from sparsesvm.bilevel.encoders import Encoder, conv_encoder, mlp_encoder, spatial_encoder
from sparsesvm.bilevel.learners import InnerLasso, InnerRidge, Learner, OuterL1, SparseSVM
from sparsesvm.bilevel.tasks import (
    BernoulliSupport,
    BlockSupport,
    DenseCoefficients,
    FiniteCoefficients,
    TaskLaw,
    check_supports,
)
from sparsesvm.factors import SCENE_FACTORS, BoxGaussian, Gaussian, RandomMLP, SceneRenderer, UniformBox

N_FACTORS = 6
RESOLUTION = 32
WAY = 3
SCORED_SAMPLES, ICA_SAMPLES, VALIDATION_TASKS = 10_000, 20_000, 400
CHOICE = (
    "penalty per seed: least validation error (6 support samples of 400 new in-distribution tasks, penalty of the validation "
    "predictor the best of a fixed grid); steps, learning rate, width: fixed in advance; of scenes, the encoder and how many "
    "tasks share pictures: settled beforehand on scores of seed 0; apart from that no score chooses anything"
)

LEARNERS: dict[str, tuple[Callable[[float], Learner], tuple[float, ...]]] = {
    "inner Lasso": (InnerLasso, (0.03, 0.1, 0.3)),
    "inner ridge": (InnerRidge, (1e-7, 1e-2)),
    "outer L1": (OuterL1, (0.01, 0.1)),
    "sparse SVM": (lambda ratio: SparseSVM(ratio, WAY), (0.1, 0.3, 0.5)),
}
"""How each learner is made from its penalty, and the penalties tried."""

ICA = "inner ridge + ICA"

LAWS: dict[str, Callable[[], TaskLaw]] = {
    "sparse": lambda: BernoulliSupport(N_FACTORS),
    "blocks of 2": lambda: BlockSupport(N_FACTORS, 2),
    "blocks of 3": lambda: BlockSupport(N_FACTORS, 3),
    "blocks of 6": lambda: BlockSupport(N_FACTORS, 6),
    "one vector for all supports": lambda: FiniteCoefficients(BernoulliSupport(N_FACTORS), 1, shared=True),
    "one vector per support": lambda: FiniteCoefficients(BernoulliSupport(N_FACTORS), 1),
    "dense Gaussian": lambda: DenseCoefficients(N_FACTORS),
    "dense Laplace": lambda: DenseCoefficients(N_FACTORS, "laplace"),
}
"""Task laws of the experiments."""


ENCODERS: dict[str, tuple[Callable[[], Encoder], float]] = {
    "mlp": (lambda: mlp_encoder(64, N_FACTORS), 1e-3),
    "scenes": (lambda: spatial_encoder(N_FACTORS), 2e-3),
    "scenes-strided": (lambda: conv_encoder(RESOLUTION, N_FACTORS), 2e-3),
}
"""The encoder for each kind of data, and its learning rate."""


@dataclass(frozen=True)
class Cell:
    """What is trained; `data` is "mlp" (Gaussian factors, a random network), "scenes" (factors on the box, pictures) or
    "scenes-strided" (the same with the encoder of the paper)."""

    data: str
    rho: float
    law: str
    learner: str
    penalty: float
    seed: int
    steps: int


KEY = ("data", "rho", "law", "learner", "penalty", "seed", "steps")


def source(cell: Cell) -> training.TaskSource:
    """The stream of tasks of a cell; the mixing network differs between seeds, the renderer does not."""
    n_way = WAY if cell.learner == "sparse SVM" else None
    if cell.data == "mlp":
        mixing: nn.Module = RandomMLP(N_FACTORS, 64, seed=cell.seed)
        return training.TaskSource(Gaussian(N_FACTORS, cell.rho), mixing, LAWS[cell.law](), n_way=n_way)
    renderer = SceneRenderer(tuple(name for name in SCENE_FACTORS if name != "shape"), RESOLUTION)
    latents = BoxGaussian(N_FACTORS, cell.rho)
    return training.TaskSource(latents, renderer, LAWS[cell.law](), n_tasks=80, n_way=n_way, sharing=20)


def train(cell: Cell, after_step: Callable[[float], object] | None = None) -> tuple[Encoder, Learner, training.TaskSource]:
    """The trained encoder of a cell."""
    torch.manual_seed(cell.seed)
    make_encoder, rate = ENCODERS[cell.data]
    encoder, make, tasks = make_encoder(), LEARNERS[cell.learner][0], source(cell)
    learner = make(cell.penalty)
    training.train(encoder, learner, tasks, steps=cell.steps, learning_rate=rate, seed=cell.seed, after_step=after_step)
    return encoder, learner, tasks


def run(cell: Cell, after_step: Callable[[float], object] | None = None) -> list[Row]:
    """Train, validate, score on factors drawn uniformly from the box. Inner ridge gives a second row with FastICA on top, fitted
    to the codes of 20 000 training observations."""
    begin = time.perf_counter()
    encoder, learner, tasks = train(cell, after_step)
    seconds = time.perf_counter() - begin
    factors = UniformBox(N_FACTORS).draw(SCORED_SAMPLES, torch.Generator().manual_seed(10_000 + cell.seed))
    codes = training.encode(encoder, tasks.mixing, factors)
    report = check_supports(tasks.tasks.supports())
    row: Row = {**cell.__dict__, "supports_vary": report.satisfied, "seconds": seconds}
    row["validation"] = training.validation_error(encoder, learner, tasks, seed=20_000 + cell.seed, n_tasks=VALIDATION_TASKS)
    batch = tasks.draw(torch.Generator().manual_seed(30_000 + cell.seed), 200)
    with torch.no_grad():
        row["sparsity"] = metrics.sparsity(learner.fit(batch.features(encoder), batch.targets))
    rows = [{**row, **training.score(factors, codes)._asdict()}]
    if cell.learner == "inner ridge":
        seen = tasks.latents.draw(ICA_SAMPLES, torch.Generator().manual_seed(40_000 + cell.seed))
        unmix, converged = training.independent_components(training.encode(encoder, tasks.mixing, seen), seed=cell.seed)
        scores = training.score(factors, unmix(codes))._asdict()
        rows.append({**row, "learner": ICA, "converged": converged, **scores})
    return rows


def choose(rows: Iterable[Row], group: Sequence[str]) -> list[Row]:
    """Of the rows that agree on `group`, the one with the least validation error."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row[name] for name in group)
        if key not in best or row["validation"] < best[key]["validation"]:
            best[key] = row
    return list(best.values())


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error over seeds (zero for one seed)."""
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(np.mean(values)), spread


def summarise(rows: Iterable[Row], group: Sequence[str], names: Sequence[str]) -> list[Row]:
    """For each group of chosen rows, mean and standard error over seeds of the named scores, and the penalties chosen."""
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in choose(rows, (*group, "seed")):
        grouped.setdefault(tuple(row[name] for name in group), []).append(row)
    summary = []
    for key, members in grouped.items():
        line: Row = {**dict(zip(group, key, strict=True)), "seeds": len(members)}
        line["penalties"] = sorted(row["penalty"] for row in members)
        for name in names:
            line[name], line[f"{name}_error"] = mean_and_error([row[name] for row in members])
        summary.append(line)
    return summary
