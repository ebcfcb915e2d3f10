"""Heads compared on the same episodes, on features of any origin."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsesvm import FittedHead, PrototypeHead, RidgeHead, SparseSVMHead
from sparsesvm._facts import environment, interval
from sparsesvm._files import DataError, class_codes, load_arrays, write_whole
from sparsesvm.meta.data import Setting
from sparsesvm.meta.episodes import Draw
from sparsesvm.meta.images import ImageSet, to_tensor
from sparsesvm.meta.learner import MetaLearner
from sparsesvm.results import unconverged as above_tolerance

Head = SparseSVMHead | RidgeHead | PrototypeHead


class Method(NamedTuple):
    """What is evaluated: features of all samples (n, n_features) and a head."""

    features: Tensor
    head: Head


@dataclass
class Score:
    """One method in one setting.

    Attributes:
        accuracy: (episodes,) in percent.
        used: (episodes,) share of features with weights other than zero, in percent.
        usage: (n_features,) in how many episodes each feature is used.
        gap: largest relative duality gap, None for heads that have none.
        unconverged: number of episodes whose gap is above the tolerance.
    """

    accuracy: NDArray[np.float64]
    used: NDArray[np.float64]
    usage: NDArray[np.int64]
    gap: float | None
    unconverged: int


def default_methods(features: Tensor, ratio: float = 0.2) -> dict[str, Method]:
    """The sparse SVM at lambda1_ratio `ratio`, with and without refit, and the usual dense heads, on the same features.

    Example:
        >>> import torch
        >>> from sparsesvm.meta import default_methods
        >>> list(default_methods(torch.rand(20, 5)))
        ['sparse SVM 0.2', 'sparse SVM 0.2, refit', 'SVM', 'ridge', 'prototype']
    """
    heads: dict[str, Head] = {
        f"sparse SVM {ratio:g}": SparseSVMHead(ratio),
        f"sparse SVM {ratio:g}, refit": SparseSVMHead(ratio, refit=True),
        "SVM": SparseSVMHead(0.0),
        "ridge": RidgeHead(),
        "prototype": PrototypeHead(),
    }
    return {name: Method(features, head) for name, head in heads.items()}


def at_ratio(head: SparseSVMHead, ratio: float) -> SparseSVMHead:
    """The same head at another lambda1_ratio, which alone decides how many features are used."""
    changed = copy.deepcopy(head)
    changed.max_active = 1.0
    changed.lambda1, changed.lambda1_ratio = None, ratio
    changed.log_lambda1 = changed.log_lambda1_ratio = None
    return changed


def embed(learner: MetaLearner, images: ImageSet, copies: int = 0) -> Tensor:
    """Features (n, n_features) of all images, in evaluation mode; the mean over an image and so many changed copies of it.

    Example:
        >>> from sparsesvm import RidgeHead
        >>> from sparsesvm.meta import Conv4, Digits, MetaLearner, embed
        >>> learner = MetaLearner(Conv4(channels=1, widths=[4, 4], pool=[True, True]), RidgeHead())
        >>> embed(learner, Digits().read("test")).shape
        torch.Size([896, 16])
    """
    parts = np.array_split(np.arange(len(images)), max(1, len(images) // 256))
    return torch.cat([learner.embed(images.load(part), copies=copies, seed=int(part[0])).cpu() for part in parts])


def draw(setting: Setting, images: ImageSet, episodes: int, seed: int) -> list[Draw]:
    """The episodes of a setting: the same for every method and every run with this seed."""
    sampler = setting.sampler(images, seed)
    return [sampler.draw(number) for number in range(episodes)]


@torch.no_grad()
def score(method: Method, draws: Sequence[Draw], n_way: int) -> Score:
    """Evaluate a method on episodes of equal size."""
    support, query, labels, targets = (
        torch.from_numpy(np.stack([getattr(d, name) for d in draws]))
        for name in ("support", "query", "support_labels", "query_labels")
    )
    width = method.features.shape[1]
    # Few enough tasks that their features stay in the cache, and one for each thread of the solver.
    chunk = max(torch.get_num_threads(), 2_000_000 // (width * (support.shape[1] + query.shape[1])))
    accuracy, used, usage = [], [], torch.zeros(width, dtype=torch.int64)
    gap: float | None = None
    unconverged = 0
    for s, q, y, t in zip(*(part.split(chunk) for part in (support, query, labels, targets)), strict=True):
        fitted: FittedHead = method.head.fit(method.features[s], y, n_way)
        accuracy.append((fitted.predict(method.features[q]) == t).double().mean(-1))
        active = (fitted.weights != 0).any(-2)
        used.append(active.double().mean(-1))
        usage += active.sum(0)
        solution = method.head.last_solution if isinstance(method.head, SparseSVMHead) else None
        if solution is not None:
            gap = max(gap or 0.0, float(solution.gap.max()) / s.shape[1])
            unconverged += int(above_tolerance(solution.status).sum())
    return Score(100 * torch.cat(accuracy).numpy(), 100 * torch.cat(used).numpy(), usage.numpy(), gap, unconverged)


def compare(methods: Mapping[str, Method], images: ImageSet, settings: Sequence[Setting], episodes: int, seed: int) -> Comparison:
    """Evaluate all methods in all settings, on the same episodes.

    Example:
        >>> import torch
        >>> from sparsesvm.meta import Digits, Setting, compare, default_methods
        >>> images = Digits().read("test")
        >>> pixels = images.load(range(len(images))).flatten(1).float()
        >>> methods = {name: method for name, method in default_methods(pixels).items() if name in ("ridge", "prototype")}
        >>> found = compare(methods, images, [Setting(n_way=5, n_shot=1)], episodes=20, seed=0)
        >>> found.scores["ridge"]["5-way 1-shot"].accuracy.shape
        (20,)
    """
    scores: dict[str, dict[str, Score]] = {name: {} for name in methods}
    for setting in settings:
        draws = draw(setting, images, episodes, seed)
        for name, method in methods.items():
            scores[name][setting.name] = score(method, draws, setting.n_way)
    return Comparison(scores, episodes, seed)


@dataclass
class Comparison:
    """Scores of methods (by name) in settings (by name), and what was drawn."""

    scores: dict[str, dict[str, Score]]
    episodes: int
    seed: int

    def difference(self, method: str, other: str, setting: str) -> tuple[float, float]:
        """Mean of `method` minus `other` over the same episodes, in points, and half the width of its 95 % interval."""
        difference = self.scores[method][setting].accuracy - self.scores[other][setting].accuracy
        return float(difference.mean()), interval(difference)

    def markdown(self) -> str:
        """Accuracy and features used of all methods, and how much the first is above each other."""
        names, settings = list(self.scores), list(next(iter(self.scores.values())))
        lines = [
            f"Accuracy in % (share of the features used, in %); 95 % intervals over {self.episodes} episodes, seed {self.seed}.",
            "",
            "| head | " + " | ".join(settings) + " |",
            "| --- |" + " --- |" * len(settings),
        ]
        for name in names:
            cells = []
            for setting in settings:
                found = self.scores[name][setting]
                cells.append(f"{found.accuracy.mean():.2f} ± {interval(found.accuracy):.2f} ({found.used.mean():.1f})")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        if len(names) > 1:
            lines += ["", f"{names[0]} minus the other, on the same episodes, in points:", ""]
            lines += ["| other | " + " | ".join(settings) + " |", "| --- |" + " --- |" * len(settings)]
            for name in names[1:]:
                pairs = (self.difference(names[0], name, setting) for setting in settings)
                lines.append(f"| {name} | " + " | ".join(f"{mean:+.2f} ± {half:.2f}" for mean, half in pairs) + " |")
        unconverged = sum(found.unconverged for of_setting in self.scores.values() for found in of_setting.values())
        lines += [
            "",
            f"{unconverged} solutions above the tolerance of the duality gap." if unconverged else "All solutions converged.",
        ]
        return "\n".join(lines)

    def write(self, folder: Path, **facts: Any) -> None:
        """`table.md`, and `results.json` with the accuracy of every episode, versions and `facts`."""
        write_whole(folder / "table.md", self.markdown() + "\n")
        results = {
            name: {
                setting: {
                    "accuracy": float(found.accuracy.mean()),
                    "interval": interval(found.accuracy) if len(found.accuracy) > 1 else None,
                    "features_used": float(found.used.mean()),
                    "largest_gap": found.gap,
                    "unconverged": found.unconverged,
                    "episodes": found.accuracy.round(4).tolist(),
                }
                for setting, found in of_setting.items()
            }
            for name, of_setting in self.scores.items()
        }
        content = {"results": results, "episodes": self.episodes, "seed": self.seed, **environment(), **facts}
        write_whole(folder / "results.json", json.dumps(content, indent=1) + "\n")


def read_features(path: str) -> tuple[Tensor, ImageSet]:
    """Frozen embeddings from an `.npz` or `.pt` file with `features` (n, n_features), `labels` (n,) and perhaps `groups` (n,).

    Returns them, and a stand-in for the images that carries labels and groups.

    Example:
        >>> import numpy
        >>> from sparsesvm.meta import read_features
        >>> numpy.savez("features.npz", features=numpy.eye(4), labels=["cat", "cat", "dog", "dog"])
        >>> features, samples = read_features("features.npz")
        >>> features.shape, samples.class_names
        (torch.Size([4, 4]), ['cat', 'dog'])
    """
    data = load_arrays(path, ("features", "labels"), ("groups",))
    stored = data["features"]
    if stored.dtype.kind != "f" or stored.ndim != 2 or 0 in stored.shape:
        raise DataError(f"{path}: features must be floating-point (n, n_features), n > 0; got {stored.dtype} {stored.shape}")
    features = to_tensor(stored.astype(np.float64) if stored.dtype.itemsize > 8 else stored)
    names, codes = class_codes(data["labels"], len(features), f"{path}: labels")
    wrong = (~features.isfinite().all(1)).nonzero()
    if len(wrong):
        raise DataError(
            f"{path}: features must be finite; sample {int(wrong[0])} holds NaN or infinity, {len(wrong)} in all. Drop them."
        )
    largest = float(features.abs().max())
    if not (largest == 0 or 1e-30 < largest < torch.finfo(torch.float32).max):
        raise DataError(f"{path}: features must fit in single precision; the largest is {largest:g}. Rescale them.")
    groups = None
    if "groups" in data:
        _, of_sample = class_codes(data["groups"], len(features), f"{path}: groups")
        pairs = np.unique(np.stack([codes, of_sample]), axis=1)
        twice = np.flatnonzero(np.bincount(pairs[0]) > 1)
        if len(twice):
            raise DataError(f"{path}: every class must be in one group; class {names[twice[0]]} is in several")
        groups = pairs[1].tolist()
    stand_in = torch.zeros(len(codes), 1, 1, 1, dtype=torch.uint8)
    return features.float(), ImageSet(stand_in, codes, names, groups)
