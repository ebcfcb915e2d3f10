"""Learnt codes against true factors, as a picture: `python -m benchmarks.matching_picture`.

Trains inner Lasso and inner ridge on rendered scenes and draws, for each, the table of absolute correlations (codes in the order
of their assignment) and the response of every code while one factor moves through its range and the others rest in the middle.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import report
from benchmarks.plots import matching_figure
from benchmarks.representation import CHOICE, ENCODERS, N_FACTORS, SCORED_SAMPLES, Cell, train
from sparsesvm import metrics
from sparsesvm.bilevel import training
from sparsesvm.factors import SceneRenderer, UniformBox
from sparsesvm.factors.latents import HALF_WIDTH

MODELS = {"inner Lasso": 0.1, "inner ridge": 1e-7}
POINTS = 41


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, write JSON and a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", choices=tuple(ENCODERS), default="scenes")
    parser.add_argument("--rho", type=float, default=0.0)
    parser.add_argument("--lambda-ratio", type=float, default=MODELS["inner Lasso"], help="of the inner Lasso")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=report.FOLDER / "matching_picture.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    factors = UniformBox(N_FACTORS).draw(SCORED_SAMPLES, torch.Generator().manual_seed(options.seed))
    sweeps = torch.zeros(N_FACTORS, POINTS, N_FACTORS)
    line = torch.linspace(-HALF_WIDTH, HALF_WIDTH, POINTS)
    for factor in range(N_FACTORS):
        sweeps[factor, :, factor] = line
    found = {}
    names: Sequence[str] = [f"factor {factor}" for factor in range(N_FACTORS)]
    for model, default in MODELS.items():
        penalty = options.lambda_ratio if model == "inner Lasso" else default
        cell = Cell(options.data, options.rho, "sparse", model, penalty, options.seed, options.steps)
        with tqdm(total=options.steps, desc=model, unit="step", dynamic_ncols=True) as bar:
            encoder, _, source = train(cell, lambda _, bar=bar: bar.update())
        if isinstance(source.mixing, SceneRenderer):
            names = source.mixing.factors
        codes = training.encode(encoder, source.mixing, factors)
        order = metrics.matching(factors, codes)
        responses = training.encode(encoder, source.mixing, sweeps.flatten(0, 1)).unflatten(0, (N_FACTORS, POINTS))
        found[model] = {
            "penalty": penalty,
            "correlations": metrics.correlations(factors, codes)[:, order].tolist(),
            "responses": responses[..., torch.from_numpy(order)].tolist(),
            **training.score(factors, codes)._asdict(),
        }
        print(f"{model}: MCC {found[model]['mcc']:.3f}, R {found[model]['r']:.4f}")
    content = {**vars(options), "output": options.output.name, "factors": list(names), "models": found}
    content["choice"] = f"penalties fixed in advance, as are steps and width. For the other experiments: {CHOICE}"
    report.write(options.output, content)
    matching_figure(found, names, line.tolist(), options.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
