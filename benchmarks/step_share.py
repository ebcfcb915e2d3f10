"""Share of a training step that the head takes: `python -m benchmarks.step_share [--check]`.

Conv-4 with 64 filters on 28 x 28 images, 8 episodes of 5 ways, 5 shots and 15 queries per class, random images, 2 threads:
forward, loss and backward of the step (no optimiser), and forward and backward of the head alone on the same features.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import bars, plots, report
from benchmarks.measure import median_ms
from benchmarks.peers import PEERS
from benchmarks.peers.quadratic import program, qpth_alpha
from sparsesvm import PrototypeHead, RidgeHead, SparseSVMHead

EPISODES, WAYS, SHOTS, QUERIES = 8, 5, 5, 15
FILTERS, PIXELS = 64, 28
Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def conv4(filters: int) -> nn.Module:
    """Four blocks of convolution, batch normalisation, ReLU and pooling: one number per filter at 28 x 28."""
    channels = [1, *[filters] * 4]
    blocks = [
        nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2))
        for before, after in itertools.pairwise(channels)
    ]
    return nn.Sequential(*blocks, nn.Flatten())


def metaoptnet(query: Tensor, support: Tensor, labels: Tensor) -> Tensor:
    """MetaOptNet's SVM head with its defaults: C = 0.1, a ridge of 1 on the matrix, at most 15 iterations of qpth."""
    one_hot = torch.nn.functional.one_hot(labels, WAYS).to(support)
    alpha = qpth_alpha(support, program(one_hot, 10.0), WAYS, 15, ridge=1.0)
    return query @ (alpha.mT @ support).mT


def heads() -> dict[str, Head]:
    """What is compared; MetaOptNet's where qpth is installed."""
    found: dict[str, Head] = {
        "sparse SVM": _call(SparseSVMHead(lambda1_ratio=0.1)),
        "SVM, lambda1 = 0": _call(SparseSVMHead(lambda1=0.0)),
        "ridge": _call(RidgeHead()),
        "prototypes": _call(PrototypeHead()),
    }
    if module := PEERS["qpth"].missing():
        print(f"absent: MetaOptNet's head (no module {module})")
    else:
        found["MetaOptNet (qpth)"] = metaoptnet
    return found


def _call(head: nn.Module) -> Head:
    return lambda query, support, labels: head(query, support, labels, n_way=WAYS)


class Step:
    """The parts of a training step on fixed random images."""

    def __init__(self, head: Head, filters: int, episodes: int) -> None:
        torch.manual_seed(0)
        self.head, self.episodes = head, episodes
        self.encoder = conv4(filters)
        n_support, n_query = WAYS * SHOTS, WAYS * QUERIES
        self.images = torch.rand(episodes * (n_support + n_query), 1, PIXELS, PIXELS)
        self.support_labels = (torch.arange(n_support) % WAYS).expand(episodes, -1)
        self.query_labels = (torch.arange(n_query) % WAYS).expand(episodes, -1)
        self.features = self.encoder(self.images).detach().requires_grad_()

    def loss(self, features: Tensor) -> Tensor:
        """Cross entropy of the queries."""
        support, query = features.unflatten(0, (self.episodes, -1)).split([WAYS * SHOTS, WAYS * QUERIES], dim=1)
        logits = self.head(query, support, self.support_labels)
        return nn.functional.cross_entropy(logits.flatten(0, 1), self.query_labels.flatten())

    def whole(self) -> None:
        """Forward and backward through encoder and head."""
        self.loss(self.encoder(self.images)).backward()

    def head_only(self) -> None:
        """Forward and backward of the head (and the loss), down to the features."""
        self.loss(self.features).backward()


def measure(name: str, head: Head, options: argparse.Namespace) -> dict[str, Any]:
    """One row: medians in ms. The whole step includes the head."""
    step = Step(head, options.filters, options.episodes)
    step_ms = median_ms(step.whole, seconds=options.seconds)
    head_ms = median_ms(step.head_only, seconds=options.seconds)
    shape = {"episodes": options.episodes, "filters": options.filters, "threads": options.threads}
    return {"head": name, "step_ms": step_ms, "head_ms": head_ms, "share": head_ms / step_ms, **shape}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure all heads and write benchmarks/results/step_share.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--filters", type=int, default=FILTERS)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each time")
    parser.add_argument("--smoke", action="store_true", help="one small encoder, one episode")
    parser.add_argument("--check", action="store_true", help="exit with an error when the head takes more than promised")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "step_share.json")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.filters, options.episodes, options.seconds = 8, 1, 0.0
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        rows = [measure(name, head, options) for name, head in heads().items()]
    finally:
        torch.set_num_threads(before)
    lines = [[row["head"], row["step_ms"], row["head_ms"], f"{row['share']:.1%}"] for row in rows]
    table = report.table(["head", "step, ms", "head forward + backward, ms", "share"], lines)
    print(table)
    report.write(options.output, {"rows": rows}, f"# Share of a Conv-4 training step, {options.threads} threads\n\n{table}")
    plots.shares(rows, options.output.with_suffix(".svg"))
    bars.verdict(bars.check_step(rows), options.check)


if __name__ == "__main__":
    main()
