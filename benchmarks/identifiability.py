"""Which learners recover the factors, against their correlation: `python -m benchmarks.identifiability [--data scenes]`.

MCC, R and DCI for inner Lasso, inner ridge, ridge + ICA, an outer L1 penalty and the sparse SVM head on sparse tasks, penalties
chosen on validation tasks. Runs are merged into the result file, so that parts can be run one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import report
from benchmarks.plots import representation_figure
from benchmarks.representation import CHOICE, ENCODERS, KEY, LEARNERS, Cell, run, summarise

SETTING = ("data", "rho", "law", "seed", "steps")
SCORES = (
    "mcc",
    "r",
    "disentanglement",
    "completeness",
    "informativeness",
    "disentanglement_unweighted",
    "validation",
    "sparsity",
)


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options that the experiments on representations share."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    found.add_argument(
        "--data", choices=tuple(ENCODERS), default="mlp", help="a random network, or rendered pictures (and which encoder)"
    )
    found.add_argument("--learners", nargs="+", choices=tuple(LEARNERS), default=tuple(LEARNERS))
    found.add_argument("--penalties", type=float, nargs="+", help="instead of each learner's own grid")
    found.add_argument("--seeds", type=int, nargs="+", default=range(5))
    found.add_argument(
        "--steps",
        type=int,
        default=2000,
        help="training steps: 8 tasks with 50 samples each; scenes: 4 sets of 50 pictures, 20 tasks on each",
    )
    found.add_argument("--threads", type=int, default=1)
    found.add_argument("--output", type=Path, help=f"default: benchmarks/results/{name}_DATA.json")
    return found


def run_cells(cells: Sequence[Cell], output: Path) -> list[report.Row]:
    """Run what the result file lacks, and write after every cell; the rows of these settings, old and new."""
    rows = report.read(output)
    done = {tuple(row[name] for name in KEY) for row in rows}
    left = [cell for cell in cells if tuple(cell.__dict__[name] for name in KEY) not in done]
    with tqdm(total=sum(cell.steps for cell in left), unit="step", dynamic_ncols=True) as bar:
        for cell in left:
            bar.set_description(f"{cell.data}, {cell.law}, rho {cell.rho}, {cell.learner} {cell.penalty:g}, seed {cell.seed}")
            rows = report.merge(rows, run(cell, lambda _: bar.update()), KEY)
            report.write(output, {"choice": CHOICE, "rows": rows}, quiet=True)
    wanted = {tuple(cell.__dict__[name] for name in SETTING) for cell in cells}
    return [row for row in rows if tuple(row[name] for name in SETTING) in wanted]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells, write JSON, a table and a figure."""
    options_parser = parser(__doc__, "identifiability")
    options_parser.add_argument("--rho", type=float, nargs="+", default=(0.0, 0.5, 0.9, 0.95))
    options = options_parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    output = options.output or report.FOLDER / f"identifiability_{options.data}.json"
    cells = [
        Cell(options.data, rho, "sparse", learner, penalty, seed, options.steps)
        for seed in options.seeds
        for rho in options.rho
        for learner in options.learners
        for penalty in options.penalties or LEARNERS[learner][1]
    ]
    rows = run_cells(cells, output)
    summary = sorted(summarise(rows, ("data", "rho", "learner"), SCORES), key=lambda line: (line["data"], line["rho"]))
    header = ("data", "rho", "learner", "seeds", "MCC", "R", "D", "C", "I", "D unweighted", "zeros", "penalties chosen")
    lines = [
        [
            *(line["data"], line["rho"], line["learner"], line["seeds"], f"{line['mcc']:.3f} ± {line['mcc_error']:.3f}"),
            f"{line['r']:.4f}",
            *(line[name] for name in SCORES[2:6]),
            line["sparsity"],
            " ".join(f"{penalty:g}" for penalty in line["penalties"]),
        ]
        for line in summary
    ]
    table = report.table(header, lines)
    print(table)
    notes = f"Mean ± standard error over seeds, on factors uniform over the box. Chosen: {CHOICE}."
    everything = report.merge(report.read(output), rows, KEY)
    report.write(output, {"choice": CHOICE, "summary": summary, "rows": everything}, f"{table}\n\n{notes}")
    representation_figure(rows, summary, output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
