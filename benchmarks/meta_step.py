"""Share of the head in a training step of the configuration `omniglot-small`: `python -m benchmarks.meta_step [--check]`.

One episode of its tasks (24 ways, 1 shot, three support sets, 120 images of 28 x 28), its Conv4 in bfloat16, its sparse head at
full sparsity with the ridge refit and its dense auxiliary head, clipping and optimiser; 2 threads, or `--threads 1` and processor
time. The head's time is what training logs as `train/head_ms`: copies of features, both heads and the loss, forward and backward.
The images are random patterns, one for each class, moved and with noise; the encoder has taken some steps before.
`--root omniglot_small.npz` takes the configuration's data.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks import bars, report
from benchmarks.measure import clock
from sparsesvm import _ops
from sparsesvm.meta import Episode, EpisodeBatch, EpisodeData, MetaLearner, collate
from sparsesvm.meta.command import CONFIGS
from sparsesvm.meta.learner import _Watch
from sparsesvm.meta.loading import instantiate

POSITIONS = 9  # of the encoder's last layer, 3 x 3
WARM_STEPS = 20


def episode(n_way: int, n_shot: int, n_query: int, generator: torch.Generator) -> Episode:
    """Images of `n_way` patterns, moved by up to two pixels and with noise."""
    coarse = torch.randn(n_way, 1, 7, 7, generator=generator)
    patterns = (nn.functional.interpolate(coarse, 32, mode="bicubic") > 0.5).float()

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(n_way).repeat_interleave(count)
        corners = torch.randint(5, (len(labels), 2), generator=generator).tolist()
        images = [patterns[label, :, y : y + 28, x : x + 28] for label, (y, x) in zip(labels.tolist(), corners, strict=True)]
        return torch.stack(images) + 0.1 * torch.randn(len(labels), 1, 28, 28, generator=generator), labels

    return Episode(*draw(n_shot), *draw(n_query), n_way)


def batches(data: dict[str, Any], count: int, root: str | None) -> list[EpisodeBatch]:
    """Training batches as the configuration asks for them."""
    if root is not None:
        data["reader"]["init_args"]["root"] = root
        episodes = instantiate(EpisodeData, data)
        episodes.setup("fit")
        loader = iter(episodes.train_dataloader())
        return [next(loader) for _ in range(count)]
    generator = torch.Generator().manual_seed(0)
    size = (data["n_way"], data["n_shot"], data["n_query"])
    return [collate([episode(*size, generator)], data["support_sets"]) for _ in range(count)]


class SolverTime:
    """Adds up the time spent in the compiled solver and its derivative."""

    def __init__(self) -> None:
        self.ms = 0.0
        self._launch: Callable[..., None] = _ops.launch

    def __enter__(self) -> SolverTime:
        _ops.launch = self._timed
        return self

    def __exit__(self, *_: object) -> None:
        _ops.launch = self._launch

    def _timed(self, *arguments: Any) -> None:
        begin = clock()
        self._launch(*arguments)
        self.ms += 1e3 * (clock() - begin)


def step(learner: MetaLearner, optimizer: torch.optim.Optimizer, batch: EpisodeBatch) -> dict[str, float]:
    """One training step; its milliseconds."""
    logged: dict[str, float] = {}
    learner.log = lambda name, value, **_: logged.__setitem__(name, value)  # type: ignore[method-assign,assignment]
    learner.log_dict = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    begin = clock()
    with SolverTime() as solver:
        with torch.autocast("cpu", torch.bfloat16):
            loss = learner.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
        optimizer.step()
    whole = 1e3 * (clock() - begin)
    learner.on_train_batch_end(None, batch, 0)
    head = logged["train/head_ms"]
    return {"step_ms": whole, "head_ms": head, "solver_ms": solver.ms, "share": head / whole}


def measure(filters: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row: medians over the steps, that of the share over the shares of single steps."""
    config = yaml.safe_load((CONFIGS / "omniglot-small.yaml").read_text())
    config["model"]["encoder"]["init_args"]["widths"][-1] = filters
    torch.manual_seed(0)
    learner = instantiate(MetaLearner, config["model"])  # before any sparsity warm-up: at full sparsity
    learner._watch = _Watch(clock)
    optimizer: torch.optim.Optimizer = learner.configure_optimizers()["optimizer"]  # type: ignore[index,call-overload,assignment]
    drawn = batches(config["data"], min(options.steps, 16), options.root)
    for number in range(WARM_STEPS if options.steps > 1 else 1):
        step(learner, optimizer, drawn[number % len(drawn)])
    rows = [step(learner, optimizer, drawn[number % len(drawn)]) for number in range(options.steps)]
    medians = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    name = f"Conv4, {POSITIONS * filters:,} features"
    return {"encoder": name, "features": POSITIONS * filters, **medians, "steps": options.steps, "threads": options.threads}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write benchmarks/results/meta_step.*"""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--filters", type=int, nargs="+", default=[768, 1536], help="of the encoder's last layer")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--root", help="the .npz file of the configuration, instead of random patterns")
    parser.add_argument("--check", action="store_true", help="exit with an error when the head takes more than promised")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "meta_step.json")
    options = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            rows = [measure(filters, options) for filters in options.filters]
    finally:
        torch.set_num_threads(before)
    lines = [[row["encoder"], row["step_ms"], row["head_ms"], row["solver_ms"], f"{row['share']:.1%}"] for row in rows]
    header = ["encoder", "step, ms", "head, ms", "of it solver and derivative, ms", "share of the head"]
    table = report.table(header, lines)
    print(table)
    report.write(options.output, {"rows": rows}, f"# Share of the head in a training step, threads: {options.threads}\n\n{table}")
    bars.verdict(bars.check_meta_step(rows), options.check)


if __name__ == "__main__":
    main()
