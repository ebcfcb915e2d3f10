"""What becomes of the factors when the theorem's conditions on tasks are violated: `python -m benchmarks.violations`.

Inner Lasso on tasks that use factors in blocks of 2, 3 or 6, on tasks with one coefficient vector for all supports or for each,
and on dense tasks, against sparse tasks that satisfy the conditions; penalties chosen on validation tasks of the same law. The
checker's verdict on the supports stands beside each law. Runs are merged into the result file.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks import report
from benchmarks.identifiability import SCORES, parser, run_cells
from benchmarks.plots import violations_figure
from benchmarks.representation import CHOICE, KEY, LAWS, LEARNERS, Cell, summarise
from sparsesvm.bilevel.tasks import check_supports


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells, write JSON, a table and a figure."""
    options_parser = parser(__doc__, "violations")
    options_parser.add_argument("--laws", nargs="+", choices=tuple(LAWS), default=tuple(LAWS))
    options_parser.add_argument("--rho", type=float, nargs="+", default=(0.0,))
    options_parser.set_defaults(learners=("inner Lasso",))
    options = options_parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    output = options.output or report.FOLDER / f"violations_{options.data}.json"
    cells = [
        Cell(options.data, rho, law, learner, penalty, seed, options.steps)
        for seed in options.seeds
        for rho in options.rho
        for law in options.laws
        for learner in options.learners
        for penalty in options.penalties or LEARNERS[learner][1]
    ]
    rows = run_cells(cells, output)
    summary = summarise(rows, ("data", "rho", "law", "learner"), SCORES)
    summary.sort(key=lambda line: (line["rho"], list(LAWS).index(line["law"])))
    reference = {(line["rho"], line["learner"]): line for line in summary if line["law"] == "sparse"}
    lines = []
    for line in summary:
        base = reference.get((line["rho"], line["learner"]))
        line["checker"] = str(check_supports(LAWS[line["law"]]().supports()))
        line["mcc_change"], line["r_change"] = (line[name] - base[name] if base else None for name in ("mcc", "r"))
        flag = "satisfied" if check_supports(LAWS[line["law"]]().supports()).satisfied else "violated"
        scores = (f"{line['mcc']:.3f} ± {line['mcc_error']:.3f}", line["mcc_change"], f"{line['r']:.4f}", line["r_change"])
        chosen = " ".join(f"{p:g}" for p in line["penalties"])
        lines.append([line["law"], flag, line["rho"], line["learner"], line["seeds"], *scores, chosen])
    header = ("tasks", "support condition", "rho", "learner", "seeds", "MCC", "change", "R", "change", "penalties chosen")
    table = report.table(header, lines)
    print(table)
    notes = f"Mean ± standard error over seeds, on factors uniform over the box. Chosen: {CHOICE}."
    everything = report.merge(report.read(output), rows, KEY)
    report.write(output, {"choice": CHOICE, "summary": summary, "rows": everything}, f"{table}\n\n{notes}")
    violations_figure(summary, output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
