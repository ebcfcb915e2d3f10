"""Plots of the results; without matplotlib, a line that says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def time_against_gap(rows: Sequence[Row], path: Path) -> None:
    """One panel per cell with 8 tasks (else per cell): relative gap reached against the time of the batch."""
    curves = [row for row in rows if row.get("attempts")]
    curves = [row for row in curves if (row["tasks"], row["threads"]) == (8, 2)] or curves
    panels = sorted({(tuple(row["size"]), row["group_size"], -row["share"], row["dtype"]) for row in curves})
    figure, axes = _figure(len(panels), columns=3)
    if figure is None:
        return
    colors = {peer: f"C{number}" for number, peer in enumerate(dict.fromkeys(row["peer"] for row in curves))}
    for axis, (size, group_size, share, dtype) in zip(axes, panels, strict=False):
        for row in curves:
            if (tuple(row["size"]), row["group_size"], -row["share"], row["dtype"]) == (size, group_size, share, dtype):
                _, gaps, times = zip(*row["attempts"], strict=True)
                style = {"color": colors[row["peer"]], "label": row["peer"], "markersize": 3}
                axis.loglog(times, [max(gap, 1e-12) for gap in gaps], "o-", **style)
        group = f" / {group_size}" if group_size > 1 else ""
        axis.set(title=f"{size}{group}, {-share:.0%} active, {dtype}", xlabel="ms", ylabel="relative gap")
        axis.set_ylim(1e-10, 2)
    _legend(figure, axes)
    _save(figure, path)


def growth(rows: Sequence[Row], path: Path) -> None:
    """Time and memory of one batch against m, n, k and the number of tasks, a panel each."""
    sweeps = [sweep for sweep in dict.fromkeys(row["sweep"] for row in rows) if sweep not in ("threads", "largest")]
    figure, axes = _figure(2 * len(sweeps), columns=2)
    if figure is None:
        return
    for index, sweep in enumerate(sweeps):
        for quantity, unit in (("solve", "ms"), ("backward", "ms"), ("peak", "mib")):
            axis = axes[2 * index + (unit == "mib")]
            for share in dict.fromkeys(row["share"] for row in rows):
                some = [row for row in rows if row["sweep"] == sweep and row["share"] == share and f"{quantity}_{unit}" in row]
                points = sorted((row["value"], row[f"{quantity}_{unit}"]) for row in some)
                if points:
                    axis.loglog(*zip(*points, strict=True), "o-", label=f"{quantity}, {share:.0%} active", markersize=3)
            axis.set(xlabel=sweep, ylabel="MiB above the features" if unit == "mib" else unit)
            axis.legend(fontsize="small")
    _save(figure, path)


def shares(rows: Sequence[Row], path: Path) -> None:
    """Training step by head: encoder and head."""
    figure, axes = _figure(1, columns=1)
    if figure is None:
        return
    names = [row["head"] for row in rows]
    rest = [row["step_ms"] - row["head_ms"] for row in rows]
    axes[0].barh(names, rest, label="everything else", color="lightgray")
    axes[0].barh(names, [row["head_ms"] for row in rows], left=rest, label="head", color="C0")
    axes[0].set(xlabel="ms per training step")
    axes[0].legend()
    _save(figure, path)


def _figure(panels: int, *, columns: int) -> tuple[Any, Any]:
    if not panels:
        return None, None
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return None, None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(columns, panels)
    lines = -(-panels // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(5 * columns, 3.5 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[panels:]:
        axis.remove()
    return figure, list(axes.flat[:panels])


def _legend(figure: Any, axes: Any) -> None:
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside upper center", ncols=6)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path)
    pyplot.close(figure)
    print(f"written: {path}")
