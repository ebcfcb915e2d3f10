"""Pictures of an evaluation. Each function draws into the axes given and returns them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from torch import Tensor

from sparsesvm._facts import interval
from sparsesvm.meta.evaluate import Score


def draw_curve(curve: Mapping[float, Mapping[str, Score]], axes: Axes | None = None) -> Axes:
    """Accuracy against the share of features used, a line for each setting along values of lambda1_ratio."""
    axes = axes or pyplot.subplots(layout="constrained")[1]
    for setting in next(iter(curve.values())):
        scores = [of_setting[setting] for of_setting in curve.values()]
        used, accuracy = [s.used.mean() for s in scores], [s.accuracy.mean() for s in scores]
        axes.errorbar(used, accuracy, [interval(s.accuracy) for s in scores], fmt="o-", capsize=2, markersize=3, label=setting)
    axes.set_xlabel("features used (%)")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(f"lambda1_ratio from {max(curve):g} (left) to {min(curve):g}", fontsize=10)
    axes.legend()
    axes.grid(alpha=0.3)
    return axes


def draw_usage(scores: Mapping[str, Score], axes: Axes | None = None) -> Axes:
    """How many tasks use each feature, sorted, a line for each setting."""
    axes = axes or pyplot.subplots(layout="constrained")[1]
    for setting, found in scores.items():
        axes.plot(100 * np.sort(found.usage)[::-1] / len(found.accuracy), label=setting)
    axes.set_xlabel("feature, by its usage")
    axes.set_ylabel("tasks that use it (%)")
    axes.legend()
    axes.grid(alpha=0.3)
    return axes


def draw_shots(scores: Mapping[str, Mapping[int, Score]], axes: Axes | None = None) -> Axes:
    """Accuracy against shots, a line for each head."""
    axes = axes or pyplot.subplots(layout="constrained")[1]
    for name, of_shot in scores.items():
        accuracy, half = [s.accuracy.mean() for s in of_shot.values()], [interval(s.accuracy) for s in of_shot.values()]
        axes.errorbar(list(of_shot), accuracy, half, fmt="o-", capsize=2, markersize=3, label=name)
    axes.set_xlabel("shots")
    axes.set_ylabel("accuracy (%)")
    axes.set_xticks(list(next(iter(scores.values()))))
    axes.legend()
    axes.grid(alpha=0.3)
    return axes


def draw_weights(weights: Tensor, images: Tensor, names: Sequence[str]) -> Any:
    """Heat map of the weights (n_way, n_features) of one task, features sorted by their norm, with an image (n_way, channels,
    height, width) of each class. Returns the figure."""
    n_way = len(weights)
    figure = pyplot.figure(figsize=(9, 0.55 * n_way + 1.2), layout="constrained")
    grid = figure.add_gridspec(n_way, 2, width_ratios=[1, 14])
    for row in range(n_way):
        axes = figure.add_subplot(grid[row, 0])
        axes.imshow(images[row].permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray_r" if images.shape[1] == 1 else None)
        axes.set_axis_off()
    axes = figure.add_subplot(grid[:, 1])
    norms = weights.norm(dim=0)
    order = norms.argsort(descending=True)[: max(1, int((norms > 0).sum()))]
    limit = float(weights.abs().max()) or 1.0
    picture = axes.imshow(weights[:, order].numpy(), aspect="auto", cmap="RdBu", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_yticks(range(n_way), names, fontsize=7)
    axes.yaxis.tick_right()
    axes.set_xlabel(f"the {len(order)} features used out of {weights.shape[1]}, by norm")
    figure.colorbar(picture, ax=axes, location="top", shrink=0.5, label="weight")
    return figure


def save(axes: Axes, path: Path) -> None:
    """Write the whole figure that the axes stand in."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=150)
