"""Everything that only a CUDA device can show, in one command and under nine minutes: `python benchmarks/gpu_check.py`.

Builds for the devices found, runs the tests marked `cuda`, compute-sanitizer where there is one, and the benchmark gpu_time.
Writes benchmarks/results/gpu_check.json whatever fails, and exits with 1 if anything does. Needs no network: torch, numpy,
pytest, scikit-build-core, pybind11, CMake, Ninja and nvcc must be there (`--no-build` takes what is installed).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
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


class Checks:
    """Runs commands one after the other, and remembers what came of them."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.steps: list[dict[str, Any]] = []

    def run(self, name: str, command: list[str], *, limit: float, **variables: str) -> bool:
        """Whether it succeeded; `limit` in seconds, or what is left."""
        begin = time.monotonic()
        limit = max(1.0, min(limit, self.end - begin))
        print(f"== {name}: {' '.join(command)}"[:200], flush=True)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **variables},
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
        self.steps.append({"name": name, "code": code, "seconds": round(time.monotonic() - begin, 1), "output": output[-6000:]})
        print(output[-1500:], flush=True)
        return code == 0


def main() -> None:
    """Run all steps, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-build", action="store_true")
    parser.add_argument("--seconds", type=float, default=525.0, help="for everything")
    arguments = parser.parse_args()
    python = sys.executable
    checks = Checks(arguments.seconds)
    device = "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_properties(0))"
    checks.run("device", [python, "-c", device], limit=60)
    if not arguments.no_build:
        install = [python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--editable", "."]
        checks.run("build", install, limit=200, SPARSESVM_CUDA="ON", SPARSESVM_CUDA_ARCHS="native")
    tests = ["python_tests/test_cuda.py", "python_tests/test_regression_cuda.py"]
    checks.run("tests", [python, "-m", "pytest", "-q", "-m", "cuda", *tests], limit=200)
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    # Torch asks the driver for functions that it may lack, which memcheck would count.
    for tool, options in (("memcheck", ["--report-api-errors", "no"]), ("racecheck", []), ("synccheck", [])):
        if Path(sanitizer).exists():
            checks.run(tool, [sanitizer, "--tool", tool, *options, "--error-exitcode", "1", python, "-c", SMALL], limit=60)
        else:
            checks.steps.append({"name": tool, "code": None, "seconds": 0, "output": "no compute-sanitizer on this machine"})
    times = OUTPUT.with_name("gpu_time.json")
    times.unlink(missing_ok=True)
    checks.run("times", [python, "-m", "benchmarks.gpu_time", "--output", str(times)], limit=300)
    failed = [step["name"] for step in checks.steps if step["code"] not in (0, None)]
    result = {
        "failed": failed,
        "python": platform.python_version(),
        "times": json.loads(times.read_text()) if times.exists() else None,
        "steps": checks.steps,
    }
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")
    times.unlink(missing_ok=True)
    print(f"written: {OUTPUT}; failed: {', '.join(failed) or 'nothing'}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
