"""Times on a CUDA device: `python -m benchmarks.gpu_time`.

Forward and backward of batches at a gap of 1e-5 per unit of sample weight, against a batched QP layer and the published algorithm
at an equal gap; the head's share of a training step of ResNet-12; what the device could do at best.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsesvm
from benchmarks import report
from benchmarks.interior_point import solve_interior
from benchmarks.peers import PEERS
from benchmarks.peers.first_order import DOUBLINGS, Published
from benchmarks.peers.quadratic import program, qpth_alpha
from benchmarks.tasks import Answer, Tasks, make_tasks, on_simplex, penalty_for
from sparsesvm import reference

GAP = 1e-5
# (tasks, n_way, n_samples, n_features): milliseconds that a forward may take on an H200.
CASES = {(64, 5, 75, 640): 3.0, (8, 5, 75, 16000): 10.0, (1024, 5, 25, 640): 20.0}
SHARES = (1.0, 0.25)
EPISODES, WAYS, SHOTS, QUERIES = 8, 5, 15, 15
PATIENCE_MS = 1500.0  # per solve of a baseline

Solve = Callable[[int], Answer]


def milliseconds(function: Callable[[], object], *, repeats: int = 10) -> float:
    """Median time on the device, after two calls that are not counted."""
    times = []
    for call in range(repeats + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        function()
        end.record()
        end.synchronize()
        if call >= 2:
            times.append(begin.elapsed_time(end))
        if sum(times) > PATIENCE_MS:
            break
    return statistics.median(times)


def gap(tasks: Tasks, answer: Answer) -> float:
    """Largest (P - D) / n over the batch, in float64."""
    problem = reference.make_problem(tasks.features, tasks.labels, **tasks.penalties)
    assert answer.dual is not None
    objective = problem.primal_objective(answer.weights.double())
    value = float((objective - problem.dual_objective(on_simplex(answer.dual))).max()) / tasks.features.shape[1]
    return value if value == value else float("inf")


def time_ours(tasks: Tasks) -> dict[str, Any]:
    """Forward, backward and what was reached."""
    options = {**tasks.penalties, "tol": GAP, "on_failure": "ignore"}
    found = sparsesvm.solve(tasks.features, tasks.labels, **options)
    forward = milliseconds(lambda: sparsesvm.solve(tasks.features, tasks.labels, **options))
    leaf = tasks.features.clone().requires_grad_()
    recorded = sparsesvm.solve(leaf, tasks.labels, **options).weights
    cotangent = torch.ones_like(recorded)
    backward = milliseconds(lambda: torch.autograd.grad(recorded, leaf, cotangent, retain_graph=True))
    # Every outer iteration reads the features twice at least, for V and for the scores.
    passes = 2 * (float(found.n_iter.double().mean()) + 1)
    return {
        "forward_ms": forward,
        "backward_ms": backward,
        "gap": gap(tasks, Answer(found.weights, found.dual)),
        "converged": float((found.status == 0).double().mean()),
        "active": float(found.active.double().mean()),
        "iterations_mean": float(found.n_iter.double().mean()),
        "iterations_max": int(found.n_iter.max()),
        "at_least_GB_per_s": passes * tasks.features.numel() * tasks.features.element_size() / forward / 1e6,
        "at_least_GFLOP_per_s": 2 * tasks.n_way * passes * tasks.features.numel() / forward / 1e6,
    }


def fewest_steps(tasks: Tasks, solve: Solve, settings: list[int]) -> dict[str, Any]:
    """The first setting that reaches the gap, and its time."""
    reached = float("inf")
    for setting in settings:
        reached = gap(tasks, solve(setting))
        slow = milliseconds(lambda setting=setting: solve(setting), repeats=1)
        if reached <= GAP:
            return {"ms": milliseconds(lambda setting=setting: solve(setting), repeats=3), "setting": setting, "gap": reached}
        if slow > PATIENCE_MS:
            break
    return {"ms": None, "more_than_ms": slow, "setting": setting, "gap": reached}


def baselines(tasks: Tasks) -> dict[str, Solve]:
    """What the same batch is solved with."""
    found: dict[str, Solve] = {"authors": lambda steps: Published().prepare(tasks)(steps)}
    if tasks.lambda1 == 0:
        double = tasks.to(torch.float64)
        found["interior point"] = lambda steps: Answer(*solve_interior(double.features, double.one_hot, tasks.lambda2, steps))
        if PEERS["qpth"].missing() is None:
            fixed = program(double.one_hot, tasks.lambda2)

            @torch.no_grad()
            def qpth(steps: int) -> Answer:
                alpha = qpth_alpha(double.features, fixed, tasks.n_way, steps)
                return Answer(alpha.mT @ double.features, double.one_hot - tasks.lambda2 * alpha)

            found["qpth"] = qpth
    return found


def measure(sizes: tuple[int, int, int, int], share: float) -> dict[str, Any]:
    """One row."""
    n_tasks, n_way, n_samples, n_features = sizes
    small = make_tasks(n_way, n_samples, n_features, n_tasks=2, dtype=torch.float32)
    lambda1 = penalty_for(share, small)
    tasks = make_tasks(n_way, n_samples, n_features, n_tasks=n_tasks, dtype=torch.float32)
    tasks = replace(tasks, lambda1=lambda1, features=tasks.features.cuda(), labels=tasks.labels.cuda())
    row: dict[str, Any] = {"sizes": sizes, "lambda1": lambda1, **time_ours(tasks), "baselines": {}}
    for name, solve in baselines(tasks).items():
        settings = list(DOUBLINGS) if name == "authors" else list(range(3, 26))
        try:
            row["baselines"][name] = fewest_steps(tasks, solve, settings)
        except RuntimeError as error:  # out of memory, a matrix that is not definite
            row["baselines"][name] = {"error": str(error).splitlines()[0]}
    return row


class Residual(nn.Module):
    """A block of ResNet-12: three convolutions, a shortcut, pooling."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(3):
            layers += [nn.Conv2d(before if index == 0 else after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.LeakyReLU(0.1)] if index < 2 else []
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))
        self.end = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x: Tensor) -> Tensor:
        """Half the height and width."""
        return self.end(self.body(x) + self.shortcut(x))


def step_share(pooled: bool) -> dict[str, Any]:
    """The head's part of a training step: ResNet-12 on 84 x 84 images, mixed precision, 640 or 16000 features."""
    torch.manual_seed(0)
    widths = [3, 64, 160, 320, 640]
    blocks = [Residual(before, after) for before, after in itertools.pairwise(widths)]
    encoder = nn.Sequential(*blocks, *([nn.AdaptiveAvgPool2d(1)] if pooled else []), nn.Flatten()).cuda()
    head = sparsesvm.SparseSVMHead(lambda1_ratio=0.1, on_failure="ignore").cuda()
    n_support, n_query = WAYS * SHOTS, WAYS * QUERIES
    images = torch.rand(EPISODES * (n_support + n_query), 3, 84, 84, device="cuda")
    support_labels = (torch.arange(n_support, device="cuda") % WAYS).expand(EPISODES, -1)
    query_labels = (torch.arange(n_query, device="cuda") % WAYS).repeat(EPISODES)

    def loss(features: Tensor) -> Tensor:
        support, query = features.unflatten(0, (EPISODES, -1)).split([n_support, n_query], dim=1)
        logits = head(query, support, support_labels, WAYS)
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), query_labels)

    def step() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            value = loss(encoder(images))
        value.backward()

    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        features = encoder(images)
    leaf = features.detach().requires_grad_()

    def head_alone() -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            value = loss(leaf)
        value.backward()

    whole, part = milliseconds(step, repeats=5), milliseconds(head_alone, repeats=5)
    return {"features": features.shape[-1], "step_ms": whole, "head_ms": part, "share": part / whole}


def ceilings() -> dict[str, float]:
    """What the device does in its best case."""
    block = torch.empty(1 << 28, device="cuda")
    found = {"GB_per_s": 2 * block.numel() * 4 / milliseconds(lambda: block.add_(1.0)) / 1e6}
    for name, dtype, size in (("GFLOP_per_s_float32", torch.float32, 8192), ("GFLOP_per_s_float64", torch.float64, 4096)):
        square = torch.rand(size, size, device="cuda", dtype=dtype)
        found[name] = 2 * size**3 / milliseconds(lambda square=square: square @ square, repeats=5) / 1e6
    return found


def device() -> dict[str, Any]:
    """What it ran on."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "processors": properties.multi_processor_count,
        "memory_GB": properties.total_memory / 1e9,
        "cuda": torch.version.cuda,
        "backend": sparsesvm.backends()["cuda"],
    }


def verdict(rows: list[dict[str, Any]], shares: list[dict[str, Any]]) -> list[str]:
    """What was promised for an H200 and is not kept."""
    broken = []
    for row in rows:
        where = f"{tuple(row['sizes'])}, lambda1 = {row['lambda1']:.3g}"
        if row["gap"] > GAP or row["converged"] < 1:
            broken.append(f"{where}: gap {row['gap']:.1e}, {row['converged']:.1%} converged")
        if row["forward_ms"] > CASES[tuple(row["sizes"])]:
            broken.append(f"{where}: forward {row['forward_ms']:.2f} ms of {CASES[tuple(row['sizes'])]:g}")
        if row["backward_ms"] > row["forward_ms"] / 3:
            broken.append(f"{where}: backward {row['backward_ms']:.2f} ms, forward {row['forward_ms']:.2f} ms")
        for name, other in row["baselines"].items():
            slower = other.get("ms") or other.get("more_than_ms") or float("inf")
            if slower < 20 * row["forward_ms"]:
                broken.append(f"{where}: only {slower / row['forward_ms']:.1f} times faster than {name}")
    for share in shares:
        if share["share"] > 0.1:
            broken.append(f"the head takes {share['share']:.1%} of a step with {share['features']} features")
    return broken


def main() -> None:
    """Measure, print, and write what was found even where a part fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=report.FOLDER / "gpu_time.json")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    content: dict[str, Any] = {"device": device(), "rows": [], "step": [], "errors": []}

    def attempt(key: str, function: Callable[..., Any], *values: Any) -> None:
        try:
            found = function(*values)
        except Exception as error:
            traceback.print_exc()
            content["errors"].append(f"{function.__name__}{values}: {error}")
            return
        print(found, flush=True)
        if isinstance(content.get(key), list):
            content[key].append(found)
        else:
            content[key] = found
        report.write(arguments.output, content, quiet=True)  # what is there stays where time runs out

    attempt("ceilings", ceilings)
    for sizes in CASES:
        for share in SHARES:
            attempt("rows", measure, sizes, share)
    for pooled in (True, False):
        attempt("step", step_share, pooled)
    content["broken"] = verdict(content["rows"], content["step"])
    print("\n".join(content["broken"] or ["all promises for an H200 kept"]))
    report.write(arguments.output, content)
    sys.exit(bool(content["errors"]))


if __name__ == "__main__":
    main()
