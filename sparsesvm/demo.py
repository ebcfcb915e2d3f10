"""Few-shot learning on real handwritten digits: four heads on the same encoder and the same episodes.

The digits 0 to 4, each in four orientations, are the 20 training classes; the digits 5 to 9 are for testing and never seen
before. The images come with scikit-learn.
"""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

from sparsesvm import NoFeaturesWarning, PrototypeHead, RidgeHead, SparseSVMHead
from sparsesvm._facts import environment, interval
from sparsesvm._files import write_whole

WAY, QUERIES, TASKS_PER_STEP = 5, 15, 2
SHOTS = (1, 5)
RATIO = 0.1
RATIOS = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

Head = SparseSVMHead | RidgeHead | PrototypeHead


class Episodes(NamedTuple):
    """A batch of tasks: indices into the images, (tasks, n_support) and (tasks, n_query), and the labels."""

    support: Tensor
    query: Tensor
    support_labels: Tensor
    query_labels: Tensor


@dataclass
class Score:
    """Test result of one head at one number of shots; accuracy and its interval's half-width in percent."""

    accuracy: float
    interval: float
    features_used: float
    largest_gap: float | None


def heads() -> dict[str, Head]:
    """The heads compared, all with their defaults."""
    return {
        "sparse SVM": SparseSVMHead(RATIO),
        "SVM": SparseSVMHead(0.0),
        "ridge": RidgeHead(),
        "prototype": PrototypeHead(),
    }


def encoder() -> nn.Module:
    """Three convolutions: 8x8 images to 512 features."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        if inputs > 1:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten())


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (N, 1, 8, 8) in [0, 1] and labels of 20 classes; test images and labels of 5 classes."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target).long()
    seen = labels < 5
    turned = torch.cat([images[seen].rot90(quarter, (-2, -1)) for quarter in range(4)])
    classes = torch.cat([labels[seen] + 5 * quarter for quarter in range(4)])
    return turned, classes, images[~seen], labels[~seen] - 5


def draw_episodes(labels: Tensor, n_tasks: int, n_shot: int, generator: torch.Generator) -> Episodes:
    """Draw tasks: WAY classes each, n_shot support and QUERIES query samples per class, without repetition."""
    members = [(labels == label).nonzero().squeeze(1) for label in range(int(labels.max()) + 1)]
    drawn = []
    for _ in range(n_tasks):
        classes = torch.randperm(len(members), generator=generator)[:WAY].tolist()
        drawn.append(
            torch.stack([members[c][torch.randperm(len(members[c]), generator=generator)[: n_shot + QUERIES]] for c in classes])
        )
    samples = torch.stack(drawn)
    way = torch.arange(WAY).unsqueeze(1)

    def flat(part: Tensor) -> Tensor:
        return part.reshape(n_tasks, -1)

    return Episodes(
        flat(samples[..., :n_shot]),
        flat(samples[..., n_shot:]),
        flat(way.expand(n_tasks, WAY, n_shot)),
        flat(way.expand(n_tasks, WAY, QUERIES)),
    )


def train(head: Head, images: Tensor, labels: Tensor, *, steps: int, seed: int, bar: tqdm[None]) -> tuple[nn.Module, float]:
    """Meta-train an encoder under this head; also the head's share of the time, forward and backward."""
    torch.manual_seed(seed)
    network = encoder()
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    head_time, start = 0.0, time.perf_counter()
    for step in range(steps):
        task = draw_episodes(labels, TASKS_PER_STEP, SHOTS[step % len(SHOTS)], generator)
        indices = torch.cat([task.support, task.query], 1)
        batch = _jitter(images[indices.flatten()], generator)
        embedded = network(batch).reshape(*indices.shape, -1)
        # The graph is cut between encoder and head, so that each one's backward can be timed.
        features = embedded.detach().requires_grad_()
        begin = time.perf_counter()
        support, query = features.split([task.support.shape[1], task.query.shape[1]], 1)
        logits = head(query, support, task.support_labels, WAY)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), task.query_labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        head_time += time.perf_counter() - begin
        embedded.backward(features.grad)
        optimizer.step()
        schedule.step()
        bar.update()
    return network.eval(), head_time / (time.perf_counter() - start)


def evaluate(head: Head, features: Tensor, task: Episodes) -> Score:
    """Mean accuracy over the tasks on encoded images, with its 95 % confidence interval."""
    with torch.no_grad():
        fitted = head.fit(features[task.support], task.support_labels, WAY)
        predicted = fitted.predict(features[task.query])
    accuracy = 100 * (predicted == task.query_labels).double().mean(1)
    used = (fitted.weights != 0).any(-2).double().mean()
    solution = head.last_solution if isinstance(head, SparseSVMHead) else None
    return Score(
        accuracy=float(accuracy.mean()),
        interval=interval(accuracy),
        features_used=float(100 * used),
        largest_gap=None if solution is None else float(solution.gap.max()) / task.support.shape[1],
    )


def run(output: Path, *, steps: int, episodes: int, seed: int) -> None:
    """Train, test and write results.json and accuracy.png to the folder `output`."""
    begin = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    train_images, train_labels, test_images, test_labels = load()
    generator = torch.Generator().manual_seed(seed + 1)
    tests = {shot: draw_episodes(test_labels, episodes, shot, generator) for shot in SHOTS}
    scores: dict[str, dict[int, Score]] = {}
    shares: dict[str, float] = {}
    compared = heads()
    total = len(compared) * steps + len(RATIOS)
    with tqdm(total=total, unit="step", desc="training", dynamic_ncols=True) as bar:
        sparse_features = None
        for name, head in compared.items():
            bar.set_description(f"training: {name}")
            network, shares[name] = train(head, train_images, train_labels, steps=steps, seed=seed, bar=bar)
            with torch.no_grad():
                features = network(test_images)
            scores[name] = {shot: evaluate(head, features, test) for shot, test in tests.items()}
            sparse_features = features if sparse_features is None else sparse_features
        assert sparse_features is not None
        bar.set_description("sweep of lambda1_ratio")
        sweep: dict[float, dict[int, Score]] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoFeaturesWarning)  # the sweep shows what is left where little is
            for ratio in RATIOS:
                sweep[ratio] = {shot: evaluate(SparseSVMHead(ratio), sparse_features, test) for shot, test in tests.items()}
                bar.update()
    print(table(scores, shares, episodes))
    _draw(sweep, output / "accuracy.png")
    seconds = time.perf_counter() - begin
    _write(output / "results.json", scores, shares, sweep, steps=steps, episodes=episodes, seed=seed, seconds=seconds)
    print(f"{seconds:.0f} s. Written: {output / 'results.json'}, {output / 'accuracy.png'}")


def table(scores: dict[str, dict[int, Score]], shares: dict[str, float], n_episodes: int) -> str:
    """The results as text."""
    lines = [
        f"Digits 5 to 9 after training on 0 to 4: {WAY}-way accuracy in % over {n_episodes} episodes, with 95 % interval",
        f"{'head':12}" + "".join(f"{f'{shot}-shot':>14}{'features':>10}" for shot in SHOTS) + f"{'gap / n':>10}{'head time':>11}",
    ]
    for name, of_shot in scores.items():
        cells = "".join(
            f"{f'{score.accuracy:.1f} ± {score.interval:.1f}':>14}{f'{score.features_used:.1f} %':>10}"
            for score in of_shot.values()
        )
        gaps = [score.largest_gap for score in of_shot.values() if score.largest_gap is not None]
        gap = f"{max(gaps):.0e}" if gaps else "-"
        lines.append(f"{name:12}{cells}{gap:>10}{f'{100 * shares[name]:.0f} %':>11}")
    lines.append(
        "features: share with weights other than zero; gap / n: largest certified distance from the optimum, per sample;"
    )
    lines.append("head time: share of the training step, forward and backward")
    return "\n".join(lines)


def _jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to one pixel along each axis."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    patches = padded.unfold(2, 8, 1).unfold(3, 8, 1)
    row, column = torch.randint(3, (2, len(images)), generator=generator)
    return patches[torch.arange(len(images)), :, row, column]


def _draw(sweep: dict[float, dict[int, Score]], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, sharex=True, figsize=(6, 6), layout="constrained")
    for shot in SHOTS:
        chosen = [of_shot[shot] for of_shot in sweep.values()]
        label = f"{shot}-shot"
        above.errorbar(list(sweep), [s.accuracy for s in chosen], [s.interval for s in chosen], fmt="o-", capsize=3, label=label)
        below.plot(list(sweep), [s.features_used for s in chosen], marker="o", label=label)
    above.set_ylabel("accuracy (%)")
    below.set_ylabel("features used (%)")
    below.set_xlabel("lambda1_ratio at test time")
    above.set_title(f"Sparse SVM head, {WAY}-way, digits never seen in training (trained at {RATIO})", fontsize=10)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _write(
    path: Path,
    scores: dict[str, dict[int, Score]],
    shares: dict[str, float],
    sweep: dict[float, dict[int, Score]],
    **settings: float,
) -> None:
    def plain(of_shot: dict[int, Score]) -> dict[str, dict[str, float | None]]:
        return {f"{shot}-shot": asdict(score) for shot, score in of_shot.items()}

    results = {
        "heads": {name: {**plain(of_shot), "head_time_share": shares[name]} for name, of_shot in scores.items()},
        "sweep": [{"lambda1_ratio": ratio, **plain(of_shot)} for ratio, of_shot in sweep.items()],
        "settings": {
            "way": WAY,
            "queries": QUERIES,
            "tasks_per_step": TASKS_PER_STEP,
            "lambda1_ratio": RATIO,
            "threads": torch.get_num_threads(),
            **settings,
        },
        **environment(),
    }
    write_whole(path, json.dumps(results, indent=2) + "\n")
