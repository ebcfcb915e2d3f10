"""Everything that only a CUDA device can show, in one command and under nine minutes: `python benchmarks/gpu_check.py`.

Builds for the devices found, runs the tests marked `cuda`, compute-sanitizer where there is one, and the benchmark gpu_time.
Names what is missing before anything is built. Writes benchmarks/results/gpu_check.json after every step, so that it holds what
was found whatever fails and however it ends, and exits with 1 if anything fails. Needs no network: torch with CUDA, numpy,
pytest, scikit-learn, scikit-build-core, pybind11, CMake, Ninja and nvcc must be there (`--no-build` takes what is installed).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "results" / "gpu_check.json"
# A small solve and its gradient, with one block per task and with several, and a sparse regression, for the sanitizer.
SMALL = """
import torch, sparsesvm
from sparsesvm.bilevel import sparse_regression
for sizes in ((3, 10, 40), (1, 40, 3300)):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(*sizes, generator=generator).cuda().requires_grad_()
    labels = (torch.arange(sizes[1], device="cuda") % 5).expand(sizes[0], -1)
    found = sparsesvm.solve(features, labels, lambda1_ratio=0.3, lambda2=0.5, n_way=5, tol=1e-4, on_failure="ignore")
    found.weights.square().sum().backward()
    if sizes[0] > 1:
        targets = features.detach()[..., :4].cumsum(-1)
        found = sparse_regression(features, targets, lambda_ratio=0.1, on_failure="ignore")
        found.weights.square().sum().backward()
    torch.cuda.synchronize()
"""


# What it runs on, and then for which architectures to compile.
DEVICE = """
import torch
print(torch.__version__, torch.version.cuda, [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())])
found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())} or exit(1)
print(";".join(f"{major}{minor}-real" for major, minor in sorted(found)))
"""
# Where this does not hold, the tests would be skipped.
BACKEND = "import sparsesvm; cuda = sparsesvm.backends()['cuda']; print(cuda); exit(not cuda['usable'])"


class Checks:
    """Runs commands one after the other, and writes what came of them to `output`."""

    def __init__(self, seconds: float, output: Path) -> None:
        self.end = time.monotonic() + seconds
        self.output = output
        self.steps: list[dict[str, Any]] = []
        self.times: dict[str, Any] | None = None

    def run(self, name: str, command: list[str], *, limit: float, **variables: str) -> bool:
        """Whether it succeeded; `limit` in seconds, or what is left."""
        begin = time.monotonic()
        if self.end - begin < 5:
            self.add(name, -1, 0.0, "no time was left for it")
            return False
        limit = min(limit, self.end - begin)
        print(f"== {name}: {' '.join(command)}"[:200], flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            # Output that Python holds back would be lost when time is up.
            env={**os.environ, "PYTHONUNBUFFERED": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # a compiler or a test under the sanitizer has children, which would go on
        )
        try:
            output, _ = process.communicate(timeout=limit)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, code = process.communicate()[0] + "\nran out of time", -1
        self.add(name, code, time.monotonic() - begin, output)
        return code == 0

    def add(self, name: str, code: int | None, seconds: float, output: str) -> None:
        """What came of a step; `code` is None where there is nothing to run."""
        self.steps.append({"name": name, "code": code, "seconds": round(seconds, 1), "output": output[-6000:]})
        print(f"{output[-1500:]}\n== {name}: {'not run' if code is None else f'exit status {code}'}, {seconds:.0f} s", flush=True)
        self.write()

    @property
    def failed(self) -> list[str]:
        """Names of the steps that failed."""
        return [step["name"] for step in self.steps if step["code"] not in (0, None)]

    def write(self) -> None:
        """What is known so far."""
        content = {"failed": self.failed, "python": platform.python_version(), "times": self.times, "steps": self.steps}
        self.output.parent.mkdir(parents=True, exist_ok=True)
        self.output.write_text(json.dumps(content, indent=1) + "\n")


def missing(build: bool) -> list[str]:
    """What has to be there and is not."""
    modules = ["torch", "numpy", "pytest", "sklearn", *(["scikit_build_core", "pybind11"] if build else ["sparsesvm"])]
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if build and not (shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists()):
        absent.append("nvcc")
    return absent


def main() -> None:
    """Run all steps, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--seconds", type=float, default=525.0, help="for everything")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    python = sys.executable
    checks = Checks(arguments.seconds, arguments.output.resolve())
    absent = missing(not arguments.no_build)
    if absent:
        sys.exit(f"missing: {', '.join(absent)}")
    if not checks.run("device", [python, "-c", DEVICE], limit=90):
        sys.exit("torch finds no CUDA device")
    architectures = ";".join(re.findall(r"\b\d+-real\b", checks.steps[-1]["output"]))
    if not arguments.no_build:
        options = ["--verbose", "--no-index", "--no-deps", "--no-build-isolation"]
        install = [python, "-m", "pip", "install", *options, "--editable", "."]
        if not checks.run("build", install, limit=300, SPARSESVM_CUDA="ON", SPARSESVM_CUDA_ARCHS=architectures):
            sys.exit("nothing to test without a build")
    if not checks.run("backend", [python, "-c", BACKEND], limit=60):
        sys.exit("the package has no CUDA device to use")
    # Plug-ins of this Python, and warnings of its torch, are not what is tested.
    pytest = [python, "-m", "pytest", "-v", "--durations=10", "-W", "default", "-p", "no:cacheprovider", "-m", "cuda"]
    tests = ["python_tests/test_cuda.py", "python_tests/test_regression_cuda.py"]
    checks.run("tests", [*pytest, *tests], limit=180, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    # Torch's kernels are not looked at. It asks the driver for functions that it may lack, which memcheck would count.
    ours = ["--kernel-regex", "kns=sparsesvm", "--error-exitcode", "1"]

    def sanitize(tool: str, *options: str) -> None:
        if Path(sanitizer).exists():
            checks.run(tool, [sanitizer, "--tool", tool, *ours, *options, python, "-c", SMALL], limit=60)
        else:
            checks.add(tool, None, 0.0, "no compute-sanitizer on this machine")

    sanitize("memcheck", "--report-api-errors", "no")
    times = checks.output.with_name("gpu_time.json")
    times.unlink(missing_ok=True)
    checks.run("times", [python, "-m", "benchmarks.gpu_time", "--output", str(times)], limit=180)
    if times.exists():
        checks.times = json.loads(times.read_text())
        times.unlink()
    for tool in ("racecheck", "synccheck"):
        sanitize(tool)
    print(f"written: {checks.output}; failed: {', '.join(checks.failed) or 'nothing'}")
    sys.exit(bool(checks.failed))


if __name__ == "__main__":
    main()
