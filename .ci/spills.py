"""Compiles the CUDA kernels and fails if any function spills registers or uses a stack frame.

Memory would then do what registers should. Prints what the compiler reports. `python .ci/spills.py [sm_80 sm_90 ...]`
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
UNITS = ("float32", "float64", "regression")
FLAGS = ("-std=c++17", "-O3", f"-I{SOURCES}", "-Werror=all-warnings", "-Xptxas=-v", "-cubin")

_FUNCTION = re.compile(r"Function properties for (\S+)")
_MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers.*?(?:(\d+) bytes smem)?$", re.MULTILINE)


def compile_unit(nvcc: str, unit: str, architecture: str) -> str:
    """The assembler's report."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "unit.cubin")
        source = str(SOURCES / "cuda" / f"{unit}.cu")
        command = [nvcc, *FLAGS, f"-arch={architecture}", source, "-o", output]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    return run.stdout + run.stderr


def parse(report: str) -> tuple[list[tuple[str, int]], int, list[str]]:
    """Kernels with their registers, how many functions were looked at, and those that use memory."""
    functions = list(zip(_FUNCTION.findall(report), _MEMORY.findall(report), strict=True))
    faults = [
        f"{name}: stack, spill stores and loads {'/'.join(numbers)} bytes" for name, numbers in functions if {*numbers} != {"0"}
    ]
    kernels = re.findall(r"Compiling entry function '(\S+)'", report)
    registers = [int(number) for number, _ in _REGISTERS.findall(report)]
    return list(zip(kernels, registers, strict=True)), len(functions), faults


def main() -> None:
    from shutil import which

    nvcc = which("nvcc") or "/usr/local/cuda/bin/nvcc"
    failed = False
    print("architecture unit       registers of its kernels  functions  with stack or spills")
    for architecture in sys.argv[1:] or ["sm_80", "sm_90"]:
        for unit in UNITS:
            kernels, count, faults = parse(compile_unit(nvcc, unit, architecture))
            if not kernels or count < len(kernels):
                sys.exit("the compiler's report was not understood")
            registers = ", ".join(str(number) for _, number in kernels)
            print(f"{architecture:12} {unit:10} {registers:25} {count:9d}  {len(faults)}", flush=True)
            for fault in faults:
                print(f"  {fault}")
            failed = failed or bool(faults)
    sys.exit(failed)


if __name__ == "__main__":
    main()
