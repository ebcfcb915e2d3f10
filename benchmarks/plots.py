"""Plots of the results; without matplotlib, a line that says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def time_against_gap(rows: Sequence[Row], path: Path) -> None:
    """One panel per cell with 8 tasks (else per cell): relative gap reached against the time of the batch."""
    curves = [row for row in rows if row.get("attempts")]
    curves = [row for row in curves if (row["tasks"], row["threads"]) == (8, 1)] or curves
    panels = sorted({(tuple(row["size"]), row["group_size"], -row["share"], row["dtype"]) for row in curves})
    figure, axes = _figure(len(panels), columns=3)
    if figure is None:
        return
    rivals = dict.fromkeys(row["peer"] for row in curves if row["peer"] != "sparsesvm")
    colors = {"sparsesvm": "black"} | {peer: f"C{number}" for number, peer in enumerate(rivals)}
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


def times(rows: Sequence[Row], path: Path) -> None:
    """Time of a batch of 8 tasks with a quarter of the features active, by size: this package and who solves the same problem."""
    target = min((row["target"] for row in rows), default=0)
    combination = (8, 1, target, "float32")
    some = [r for r in rows if 0.2 < r["share"] < 0.3 and (r["tasks"], r["threads"], r["target"], r["dtype"]) == combination]
    figure, axes = _figure(1 if some else 0, columns=1)
    if figure is None:
        return
    axis = axes[0]
    figure.set_size_inches(7.5, 3)
    cells = sorted({(tuple(row["size"]), row["group_size"]) for row in some}, key=lambda cell: (cell[0][0] * cell[0][1], *cell))
    for number, (size, group_size) in enumerate(cells):
        for row in some:
            time = row.get("forward_ms") if row.get("reached") else row.get("tried_ms")
            if (tuple(row["size"]), row["group_size"]) != (size, group_size) or time is None:
                continue
            color = "C3" if row["peer"] == "sparsesvm" else "C0" if row.get("reached") else "none"
            marker = "o" if row.get("reached") else ">"
            axis.scatter(time, number, s=40, marker=marker, facecolors=color, edgecolors="C0" if color != "C3" else color)
    names = [f"{k} classes, {n} samples, {m:,} features" + (f", groups of {g}" if g > 1 else "") for (k, n, m), g in cells]
    axis.set(
        xscale="log", yticks=range(len(cells)), yticklabels=names, xlabel=f"ms for 8 tasks on one core, to a gap of {target:.0e}"
    )
    axis.scatter([], [], color="C3", label="sparsesvm")
    axis.scatter([], [], color="C0", label="another solver")
    axis.scatter([], [], marker=">", facecolors="none", edgecolors="C0", label="not reached until then")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
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
            values = sorted({row["value"] for row in rows if row["sweep"] == sweep})
            axis.set(xlabel=sweep, ylabel="MiB above the features" if unit == "mib" else unit)
            axis.set_xticks(values, [f"{value:,}" for value in values])
            axis.set_xticks([], minor=True)
            if unit == "mib":
                axis.set_yscale("linear")
                axis.set_ylim(bottom=0)
            axis.legend(fontsize="small")
    _save(figure, path)


def field_growth(rows: Sequence[Row], axes_names: Sequence[str], path: Path) -> None:
    """Seconds of one solve against samples, features and classes, a panel each."""
    figure, axes = _figure(len(axes_names), columns=3)
    if figure is None:
        return
    for place, (axis, name) in enumerate(zip(axes, axes_names, strict=True)):
        for solver in dict.fromkeys(row["solver"] for row in rows):
            some = [row for row in rows if row["task"] == name and row["solver"] == solver and "seconds" in row]
            axis.loglog([row["size"][place] for row in some], [row["seconds"] for row in some], "o-", label=solver, markersize=3)
        axis.set(xlabel=name, ylabel="s")
    _legend(figure, axes)
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


def representation_figure(rows: Sequence[Row], summary: Sequence[Row], path: Path) -> None:
    """For each kind of data: MCC and R of each learner against rho, and MCC of each seed against the Lasso's penalty."""
    kinds = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = _figure(3 * len(kinds), columns=3)
    if figure is None:
        return
    for number, kind in enumerate(kinds):
        for axis, name in zip(axes[3 * number :], ("mcc", "r"), strict=False):
            for learner in dict.fromkeys(line["learner"] for line in summary):
                lines = [line for line in summary if (line["data"], line["learner"]) == (kind, learner)]
                if lines:
                    rho, value, error = zip(*((line["rho"], line[name], line[f"{name}_error"]) for line in lines), strict=True)
                    axis.errorbar(rho, value, error, fmt="o-", capsize=3, markersize=3, label=learner)
            axis.set(title=kind, xlabel="rho", ylabel=name.upper())
        axis = axes[3 * number + 2]
        chosen = [row for row in rows if (row["data"], row["learner"]) == (kind, "inner Lasso")]
        for shift, rho in enumerate(dict.fromkeys(row["rho"] for row in chosen)):
            points = [(row["penalty"] * (1 + 0.06 * shift), row["mcc"]) for row in chosen if row["rho"] == rho]
            axis.semilogx(*zip(*points, strict=True), "o", markersize=3, label=f"inner Lasso, each seed, rho {rho:g}")
        axis.set(title=kind, xlabel="lambda_ratio in training", ylabel="MCC")
        axis.legend(fontsize="small")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    _save(figure, path)


def generalization_figure(summary: Sequence[Row], path: Path) -> None:
    """One panel per share of useful factors: score against samples with standard errors of that panel; crosses are published."""
    shares_found = list(dict.fromkeys(line["share"] for line in summary))
    figure, axes = _figure(len(shares_found), columns=3)
    if figure is None:
        return
    curves = list(dict.fromkeys((line["representation"], line["model"]) for line in summary))
    for axis, share in zip(axes, shares_found, strict=True):
        for number, (representation, model) in enumerate(curves):
            lines = [
                line for line in summary if (line["share"], line["representation"], line["model"]) == (share, *curves[number])
            ]
            samples, score, error = zip(*((line["samples"], line["score"], line["error"]) for line in lines), strict=True)
            style = {"color": f"C{number}", "linestyle": "-" if representation == "disentangled" else "--"}
            axis.errorbar(samples, score, error, fmt="o", capsize=3, markersize=3, label=f"{representation}, {model}", **style)
            published = [line["published"] for line in lines]
            if None not in published:
                axis.plot(samples, published, "x", color=f"C{number}", markersize=5)
        axis.set(title=f"{100 * share:.0f} % of the factors matter", xlabel="training samples", ylabel="test score")
    _legend(figure, axes)
    _save(figure, path)


def violations_figure(summary: Sequence[Row], path: Path) -> None:
    """MCC and R for each correlation and task law."""
    figure, axes = _figure(1, columns=1)
    if figure is None:
        return
    laws = [f"{line['law']}, rho {line['rho']:g}" for line in summary]
    for shift, name, color in ((-0.2, "mcc", "C0"), (0.2, "r", "lightgray")):
        position = [number + shift for number in range(len(summary))]
        values, errors = [line[name] for line in summary], [line[f"{name}_error"] for line in summary]
        axes[0].barh(position, values, 0.4, xerr=errors, label=name.upper(), color=color)
    axes[0].set(yticks=range(len(laws)), yticklabels=laws, xlim=(0, 1.05))
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower left")
    _save(figure, path)


def matching_figure(found: dict[str, Row], names: Sequence[str], line: Sequence[float], path: Path) -> None:
    """For each model: the table of correlations, and each code's response to each factor moving alone."""
    figure, axes = _figure(len(found) * (1 + len(names)), columns=1 + len(names))
    if figure is None:
        return
    for number, (model, result) in enumerate(found.items()):
        table, *panels = axes[number * (1 + len(names)) : (number + 1) * (1 + len(names))]
        table.imshow(result["correlations"], vmin=0, vmax=1, cmap="gray_r")
        table.set(yticks=range(len(names)), yticklabels=names, xlabel="code", title=f"{model}, MCC {result['mcc']:.2f}")
        for panel, name, response in zip(panels, names, result["responses"], strict=True):
            for code in range(len(names)):
                panel.plot(line, [point[code] for point in response], color=f"C{code}", label=f"code {code}")
            panel.set(title=f"{name} moves")
    _legend(figure, axes)
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
