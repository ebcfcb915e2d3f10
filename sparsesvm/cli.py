"""The `sparsesvm` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import sparsesvm

_TRAINING = {
    "fit": "train an encoder through a head on few-shot episodes: sparsesvm fit --config digits",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "classify images from a few images per class",
}


def main(arguments: list[str] | None = None) -> None:
    """Entry point; `arguments` are those of the command line by default."""
    parser = argparse.ArgumentParser(prog="sparsesvm", description=sparsesvm.__doc__)
    parser.add_argument("--version", action="version", version=f"sparsesvm {sparsesvm.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="few-shot learning on handwritten digits: the sparse SVM head against three others, in minutes on a CPU",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--output", type=Path, default=Path("sparsesvm-demo"), help="folder for the table and the picture")
    demo.add_argument("--steps", type=_positive, default=600, help="training steps of each head")
    demo.add_argument("--episodes", type=_positive, default=600, help="test episodes")
    demo.add_argument("--seed", type=int, default=0, help="of the initial weights and all draws")
    others = {
        "evaluate": "compare heads on trained encoders or frozen embeddings, with figures",
        "probe": "find the few features of embeddings that a linear classifier needs: sparsesvm probe features.npz",
    }
    for name, what in {**_TRAINING, **others}.items():
        commands.add_parser(name, help=what, add_help=False)
    given = sys.argv[1:] if arguments is None else arguments
    command = given[0] if given else None
    if command in _TRAINING or command == "evaluate":
        _run_meta(given)
        return
    if command == "probe":
        _run_probe(given[1:])
        return
    chosen = parser.parse_args(given)
    try:
        from sparsesvm.demo import run
    except ModuleNotFoundError as missing:
        raise SystemExit(f"sparsesvm demo needs {missing.name}: pip install 'sparsesvm[demo]'") from missing
    try:
        run(chosen.output, steps=chosen.steps, episodes=chosen.episodes, seed=chosen.seed)
    except OSError as error:
        raise SystemExit(f"sparsesvm demo: {error}") from error


def _run_meta(arguments: Sequence[str]) -> None:
    """What needs the extra `meta` reads its own arguments."""
    try:
        from sparsesvm.meta import command, report
    except ModuleNotFoundError as missing:
        raise SystemExit(f"sparsesvm {arguments[0]} needs {missing.name}: pip install 'sparsesvm[meta]'") from missing
    if arguments[0] == "evaluate":
        report.main(arguments[1:])
    else:
        command.run(arguments)


def _run_probe(arguments: Sequence[str]) -> None:
    try:
        from sparsesvm.sklearn import probe
    except ModuleNotFoundError as missing:
        name = str(missing.name).partition(".")[0]
        raise SystemExit(f"sparsesvm probe needs {name}: pip install 'sparsesvm[sklearn]'") from missing
    probe.main(list(arguments))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value
