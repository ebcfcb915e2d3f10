"""Heads compared on small Omniglot, each with an encoder trained through it by the same recipe:
`python -m benchmarks.omniglot --root omniglot_small.npz [--folds 0 1 --seeds 0 1 2 --heads sparse svm ridge prototype]`.

Every head, seed and fold of test alphabets is one `sparsesvm fit --config omniglot-small` and its last checkpoint, so that
nothing is chosen; a complete run is not repeated, an interrupted one goes on. Then all are evaluated on the same test episodes,
and the differences to the first head are paired over episodes and averaged over seeds. The configuration's auxiliary head,
the dense SVM, helps to train every encoder. With `--filters` all encoders have another width of the last layer.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from benchmarks import report
from sparsesvm import RidgeHead, SparseSVMHead
from sparsesvm._facts import interval
from sparsesvm.meta import Comparison, Method, compare, embed, load, load_data
from sparsesvm.meta.command import CONFIGS
from sparsesvm.meta.evaluate import Head

ALPHABETS = ("Korean", "Japanese_(katakana)", "Latin", "Greek", "Early_Aramaic", "Tagalog", "Balinese", "Sanskrit")
FOLDS = (("Balinese", "Sanskrit"), ("Korean", "Latin"), ("Japanese_(katakana)", "Early_Aramaic"), ("Greek", "Tagalog"))
VALIDATION = (("Early_Aramaic", "Tagalog"), ("Early_Aramaic", "Tagalog"), ("Greek", "Tagalog"), ("Early_Aramaic", "Latin"))
WIDTHS = yaml.safe_load((CONFIGS / "omniglot-small.yaml").read_text())["model"]["encoder"]["init_args"]["widths"]
OPTION = "--model.head.init_args"
NO_WARMUP = "--model.sparsity_warmup=0"
HEADS = {
    "sparse": (),
    "sparse-from-start": (NO_WARMUP,),
    "svm": (NO_WARMUP, f"{OPTION}.lambda1_ratio=0", f"{OPTION}.refit=false", f"{OPTION}.max_active=1"),
    # With the penalty of the sparse head's refit at one shot.
    "ridge": (NO_WARMUP, "--model.head=sparsesvm.RidgeHead", f"{OPTION}.lambda2=1", f"{OPTION}.normalize=each"),
    "prototype": (NO_WARMUP, "--model.head=sparsesvm.PrototypeHead", f"{OPTION}.normalize=each"),
}


def train(head: str, fold: int, seed: int, arguments: argparse.Namespace) -> Path:
    """One run; its last checkpoint."""
    root = Path(arguments.runs) / f"filters{arguments.filters}" / f"fold{fold}" / f"seed{seed}" / head
    held_out = (*FOLDS[fold], *VALIDATION[fold])
    splits = {"train": [a for a in ALPHABETS if a not in held_out], "val": list(VALIDATION[fold]), "test": list(FOLDS[fold])}
    last = root / "checkpoints" / "last.ckpt"
    command = [sys.executable, "-m", "sparsesvm", "fit", "--config", "omniglot-small", "--root", arguments.root, *HEADS[head]]
    command += [f"--model.encoder.init_args.widths={[*WIDTHS[:-1], arguments.filters]}"]
    command += [f"--data.reader.init_args.{name}={alphabets}" for name, alphabets in splits.items()]
    command += [f"--seed_everything={seed}", f"--trainer.default_root_dir={root}", "--report=false"]
    command += ["--trainer.enable_progress_bar=false", f"--trainer.max_epochs={arguments.epochs}"]
    reached = torch.load(last, weights_only=True)["epoch"] + 1 if last.exists() else 0
    if reached < arguments.epochs:
        subprocess.run([*command, *(["--ckpt_path=last"] if reached else [])], check=True)
    return last


def evaluate(fold: int, seed: int, arguments: argparse.Namespace) -> Comparison:
    """All heads of one fold and seed on the same episodes."""
    methods: dict[str, Method] = {}
    for head in arguments.heads:
        checkpoint = train(head, fold, seed, arguments)
        data = load_data(str(checkpoint), arguments.root)
        learner = load(checkpoint)
        methods[head] = Method(embed(learner, data.images("test")), learner.head.eval())
    found = Comparison({name: {} for name in methods}, arguments.episodes, seed=0)
    for setting in data.settings["test"]:
        shot = {name: method._replace(head=_at_shot(method.head, setting.n_shot)) for name, method in methods.items()}
        for name, scores in compare(shot, data.images("test"), [setting], arguments.episodes, seed=0).scores.items():
            found.scores[name] |= scores
    return found


def _at_shot(head: Head, n_shot: int) -> Head:
    """The penalties fall with the shots for the dense heads too, as that of the sparse head's refit does."""
    head = copy.deepcopy(head)
    if isinstance(head, RidgeHead):
        head.lambda2 /= n_shot
    elif isinstance(head, SparseSVMHead) and not head.refit:
        head.dual_reg /= n_shot
    return head


def summarise(found: Sequence[Comparison]) -> list[list[object]]:
    """A row per head and setting: accuracy, features used, and the difference of the first head to it."""
    heads, settings = list(found[0].scores), list(next(iter(found[0].scores.values())))
    rows: list[list[object]] = []
    for setting in settings:
        first = _accuracies(found, heads[0], setting)
        for head in heads:
            accuracy = _accuracies(found, head, setting)
            used = np.mean([comparison.scores[head][setting].used.mean() for comparison in found])
            by_seed = ", ".join(f"{value:.2f}" for value in accuracy.mean(1))
            # The episodes are common to the seeds: their mean over the seeds is what varies.
            difference = (first - accuracy).mean(0)
            gain = "-" if head == heads[0] else f"{difference.mean():+.2f} ± {interval(difference):.2f}"
            mean = f"{accuracy.mean():.2f} ± {interval(accuracy.mean(0)):.2f}"
            rows.append([setting, head, mean, by_seed, f"{used:.1f}", gain])
    return rows


def _accuracies(found: Sequence[Comparison], head: str, setting: str) -> NDArray[np.float64]:
    """(seeds, episodes)."""
    return np.stack([comparison.scores[head][setting].accuracy for comparison in found])


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="the .npz file")
    parser.add_argument("--folds", type=int, nargs="+", default=[0], choices=range(len(FOLDS)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--heads",
        nargs="+",
        default=["sparse", "svm", "ridge", "prototype"],
        choices=list(HEADS),
        help="the others are compared with the first",
    )
    parser.add_argument("--epochs", type=int, default=36, help="of the configuration's learning rate schedule too")
    parser.add_argument("--filters", type=int, default=WIDTHS[-1], help="of the encoder's last layer")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--runs", default="runs/omniglot-heads", help="folder of the training runs")
    parser.add_argument("--output", type=Path, default=report.FOLDER, help="folder of the tables")
    chosen = parser.parse_args(arguments)
    header = ["setting", "head", "accuracy %", "by seed", "features used %", f"{chosen.heads[0]} minus it"]
    for fold in chosen.folds:
        rows = summarise([evaluate(fold, seed, chosen) for seed in chosen.seeds])
        title = (
            f"Test alphabets {' and '.join(FOLDS[fold])}, seeds {chosen.seeds}, {chosen.epochs} epochs, {chosen.filters} filters"
        )
        table = report.table(header, rows)
        print(f"{title}\n\n{table}\n")
        settings = {name: getattr(chosen, name) for name in ("seeds", "epochs", "filters", "episodes")}
        content = {"rows": [dict(zip(header, row, strict=True)) for row in rows], "settings": settings}
        report.write(chosen.output / f"omniglot_fold{fold}.json", content, f"{title}\n\n{table}")


if __name__ == "__main__":
    main()
