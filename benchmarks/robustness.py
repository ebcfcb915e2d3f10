"""Solves thousands of adversarial problems: `python -m benchmarks.robustness [--problems N] [--first-seed N]`.

Each must end without a crash, with finite weights and with a certificate that an independent computation in plain torch
confirms; the share that reaches the default tolerance is reported. Exits with an error when a promise is broken.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

import sparsesvm
from benchmarks import report
from benchmarks.problems import adversarial

REQUIRED_SHARE = 0.995


def attempt(seed: int) -> dict[str, object]:
    """Solve problem `seed` (every third in float32) and check its answer."""
    torch.set_num_threads(1)
    problem = adversarial(np.random.default_rng(seed))
    dtype = torch.float32 if seed % 3 == 0 else torch.float64
    features, labels = torch.from_numpy(problem.features).to(dtype), torch.from_numpy(problem.labels)
    arguments = {
        "lambda1": problem.lambda1,
        "lambda2": problem.lambda2,
        "n_way": problem.n_way,
        "sample_weight": torch.from_numpy(problem.sample_weight),
        "group_size": problem.group_size,
        "dual_reg": problem.dual_reg,
    }
    begin = time.process_time()
    found = sparsesvm.solve(features, labels, **arguments, on_failure="ignore")
    seconds = time.process_time() - begin
    total = float(problem.sample_weight.sum())
    dual = found.dual.double()
    certificate = float(
        sparsesvm.duality_gap(features, labels, found.weights, dual=dual / dual.sum(-1, keepdim=True), **arguments)
    )
    return {
        "seed": seed,
        "family": " + ".join(problem.family),
        "shape": (problem.n_way, *problem.features.shape),
        "seconds": seconds,
        "status": sparsesvm.StatusCode(int(found.status)).name,
        "gap": float(found.gap) / total if total else 0.0,
        "finite": bool(found.weights.isfinite().all()),
        "confirmed": certificate <= float(found.gap) + 1e-7 * total,
    }


def main() -> None:
    """Run, print a summary and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=5000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=report.FOLDER / "robustness.json")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.problems)
    with multiprocessing.get_context("spawn").Pool() as pool:
        results = list(pool.imap_unordered(attempt, seeds, chunksize=20))
    statuses = Counter(str(result["status"]) for result in results)
    failures = sorted((r for r in results if r["status"] != "CONVERGED"), key=lambda r: int(str(r["seed"])))
    broken = [result for result in results if not (result["finite"] and result["confirmed"])]
    share = statuses["CONVERGED"] / len(results)
    times = sorted(float(str(result["seconds"])) for result in results)
    summary = {
        "problems": len(results),
        "converged": share,
        "statuses": dict(statuses),
        "median_seconds": times[len(times) // 2],
        "slowest_seconds": times[-1],
        "broken": broken,
        "not_converged": failures,
    }
    report.write(options.output, summary)
    print(f"{len(results)} problems: {100 * share:.2f} % converged; {dict(statuses)}; not finite or not confirmed: {len(broken)}")
    print(f"seconds: median {summary['median_seconds']:.4f}, slowest {times[-1]:.1f}")
    if broken or share < REQUIRED_SHARE:
        raise SystemExit("a promise is broken")


if __name__ == "__main__":
    main()
