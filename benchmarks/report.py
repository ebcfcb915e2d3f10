"""Writes what the benchmarks find: rows as JSON with versions and hardware, and tables in Markdown beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sparsesvm._facts import environment
from sparsesvm._files import write_whole

FOLDER = Path(__file__).parent / "results"
PEERS = ("jax", "jaxopt", "qpth", "proxsuite", "clarabel", "scikit-learn", "cvxpy", "cvxpylayers", "diffcp", "adelie", "skglm")
Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of an earlier run, or none."""
    rows: list[Row] = json.loads(path.read_text()).get("rows", []) if path.exists() else []
    return rows


def merge(old: Iterable[Row], new: Iterable[Row], key: Sequence[str]) -> list[Row]:
    """Rows of both; a new row replaces the old one of the same key. Parts of a benchmark can so be run one by one."""
    merged = {json.dumps([row.get(name) for name in key]): row for row in (*old, *new)}
    return list(merged.values())


def write(path: Path, content: Row, markdown: str = "", *, quiet: bool = False) -> None:
    """Write `content` with the environment to `path`, and the Markdown, if any, beside it; `quiet` says nothing about it."""
    write_whole(path, json.dumps({**content, **environment(*PEERS)}, indent=1) + "\n")
    if markdown:
        write_whole(path.with_suffix(".md"), f"{markdown}\n\n{_footnote()}\n")
    if not quiet:
        print(f"written: {path}")


def table(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(show(cell) for cell in row) + " |" for row in rows)


def show(cell: object) -> str:
    """A number to three digits, nothing as a dash."""
    if cell is None:
        return "-"
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def _footnote() -> str:
    found = environment(*PEERS)
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    absent = ", ".join(name for name, version in found["versions"].items() if not version)
    hardware = f"{found['hardware']['processor']}, {found['hardware']['cores']} cores, {found['hardware']['simd']}"
    return f"{hardware}. {versions}." + (f" Not installed: {absent}." if absent else "")
