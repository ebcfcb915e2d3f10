"""Whether the tests find what hands do wrong: `python -m benchmarks.mutations`.

Plants each fault of `benchmarks.faults` in a copy of the working tree, compiles what changed, and runs the tests named with it. A
fault is caught when one of them fails that passes on the tree as it is. One that no test finds, or whose text the code no longer
holds, ends the run with status 1. The copy and its build stay in build/mutations, and the next run brings them up to date.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import report
from benchmarks.faults import FAULTS, Fault

REPOSITORY = Path(__file__).resolve().parents[1]
KEY = ("file", "fault")
SECONDS = 1200
"""For the tests of one fault."""


class Workshop:
    """A copy of the working tree, its module compiled for one instruction set without optimising much."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.build = folder / "tree", folder / "build"

    def copy(self) -> None:
        """Files that are as they were keep their time, and with it what is compiled from them."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout
        for name in filter(None, listed.split("\0")):
            source, target = REPOSITORY / name, self.tree / name
            if source.exists() and not (target.exists() and target.read_bytes() == source.read_bytes()):
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read_bytes())

    def compile(self) -> bytes:
        """The module, which is put in its place too."""
        if not (self.build / "CMakeCache.txt").exists():
            pybind11 = subprocess.run(
                [sys.executable, "-m", "pybind11", "--cmakedir"], check=True, capture_output=True, text=True
            ).stdout.strip()
            settings = {
                "CMAKE_BUILD_TYPE": "Debug",
                "CMAKE_CXX_FLAGS_DEBUG": "-O1",
                "SPARSESVM_CUDA": "OFF",
                "SPARSESVM_X86_LEVELS": "OFF",
                "pybind11_DIR": pybind11,
                "Python_EXECUTABLE": sys.executable,
            }
            defined = [f"-D{name}={value}" for name, value in settings.items()]
            _run("cmake", "-S", str(self.tree), "-B", str(self.build), *defined)
        _run("cmake", "--build", str(self.build))
        (module,) = self.build.glob("_core*.so")
        self.put(module.name, module.read_bytes())
        return module.read_bytes()

    def environment(self) -> dict[str, str]:
        """In which the package of the copy is imported, before one that is installed."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join((str(self.tree), str(self.tree / "csrc" / "tests")))}

    def put(self, name: str, module: bytes) -> None:
        (self.tree / "sparsesvm" / name).write_bytes(module)

    @contextmanager
    def planted(self, fault: Fault) -> Iterator[None]:
        path = self.tree / fault.file
        text = path.read_text()
        if text.count(fault.old) != 1:
            raise SystemExit(f"{fault.file} must hold this once; it does {text.count(fault.old)} times: {fault.old}")
        path.write_text(text.replace(fault.old, fault.new))
        try:
            yield
        finally:
            path.write_text(text)

    def test(self, *targets: str) -> tuple[list[str], str]:
        """The tests that fail, and what pytest says; it stops at the first one."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        reference = os.environ.get("SPARSESVM_REFERENCE", str(REPOSITORY.parent / "shared" / "reference"))
        environment = {**self.environment(), "SPARSESVM_REFERENCE": reference}
        try:
            done = subprocess.run(
                [*command, *targets], cwd=self.tree, env=environment, capture_output=True, text=True, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return [], f"no end within {SECONDS} s"
        if done.returncode not in (0, 1):
            return [], f"pytest ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        failed = re.findall(r"^(?:FAILED|ERROR) (python_tests/\S+?\.py::.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
        return failed, done.stdout

    def imports_from_the_copy(self) -> bool:
        program = "import sparsesvm._core; print(sparsesvm._core.__file__)"
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=self.tree, env=self.environment(), capture_output=True, text=True)
        return Path(done.stdout.strip()).is_relative_to(self.tree)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def is_compiled(fault: Fault) -> bool:
    return fault.file.startswith("csrc/")


def try_fault(workshop: Workshop, fault: Fault) -> report.Row:
    """By which test it is caught, if by any."""
    begin = time.monotonic()
    with workshop.planted(fault):
        if is_compiled(fault):
            workshop.compile()
        failed, said = workshop.test(*(f"python_tests/test_{name}.py" for name in fault.tests))
    if not failed:
        print(said[-1500:])
    row = {"part": fault.part, "file": fault.file, "fault": fault.what, "old": fault.old, "new": fault.new}
    return {**row, "caught_by": failed[0] if failed else None, "seconds": round(time.monotonic() - begin, 1)}


def markdown(rows: Sequence[report.Row]) -> str:
    caught = sum(row["caught_by"] is not None for row in rows)
    lines = [(row["part"], f"`{row['file']}`", row["fault"], _short(row["caught_by"])) for row in rows]
    return "\n".join(
        (
            f"# {len(rows)} planted faults, {caught} caught",
            "",
            "Each is one text of the code in place of another (`benchmarks/faults.py`); named is the first test that failed.",
            "",
            report.table(("part", "file", "fault", "caught by"), lines),
        )
    )


def _short(test: str | None) -> str:
    return "**nothing**" if test is None else f"`{test.removeprefix('python_tests/').split('[')[0]}`"


def main(argv: list[str] | None = None) -> None:
    """Plant, test, print the table and write benchmarks/results/mutations.*"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="faults whose file or words hold one of these")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "mutations", help="of the copy and its build")
    parser.add_argument("--output", type=Path, default=report.FOLDER / "mutations.json")
    options = parser.parse_args(argv)
    workshop = Workshop(options.folder.resolve())
    workshop.copy()
    module = workshop.compile()
    name = next(workshop.build.glob("_core*.so")).name
    if not workshop.imports_from_the_copy():
        raise SystemExit("sparsesvm is not imported from the copy but from where it is installed. Uninstall it first.")
    chosen = [fault for fault in FAULTS if any(text in fault.file or text in fault.what for text in options.only)]
    rows: list[report.Row] = []
    for fault in sorted(chosen, key=is_compiled):  # those in Python first, with the module as it is
        rows.append(try_fault(workshop, fault))
        print(f"{rows[-1]['caught_by'] or 'NOT CAUGHT'}: {fault.file}: {fault.what} ({rows[-1]['seconds']} s)", flush=True)
        keep(options.output, rows)
    workshop.put(name, module)
    found = sorted({row["caught_by"] for row in rows if row["caught_by"]})
    if found:
        failed, said = workshop.test(*found)
        if failed or " passed" not in said:
            raise SystemExit(f"without any fault the tests that found one must pass; they do not:\n{said[-3000:]}")
    kept = keep(options.output, rows)
    print(markdown(kept))
    print(f"written: {options.output}")
    if any(row["caught_by"] is None for row in kept) or len(kept) < len(FAULTS):
        raise SystemExit(1)


def keep(output: Path, rows: Sequence[report.Row]) -> list[report.Row]:
    """Writes the rows, and those of earlier runs for other faults that are still planted; returns all."""
    order = {(fault.file, fault.what): place for place, fault in enumerate(FAULTS)}
    earlier = [row for row in report.read(output) if (row["file"], row["fault"]) in order]
    kept = sorted(report.merge(earlier, rows, KEY), key=lambda row: order[row["file"], row["fault"]])
    report.write(output, {"rows": kept}, markdown(kept), quiet=True)
    return kept


if __name__ == "__main__":
    main()
