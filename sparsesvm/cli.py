"""The `sparsesvm` command."""

from __future__ import annotations

import argparse
from pathlib import Path

import sparsesvm


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
    chosen = parser.parse_args(arguments)
    try:
        from sparsesvm.demo import run
    except ModuleNotFoundError as missing:
        raise SystemExit(f"sparsesvm demo needs {missing.name}: pip install 'sparsesvm[demo]'") from missing
    run(chosen.output, steps=chosen.steps, episodes=chosen.episodes, seed=chosen.seed)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value
