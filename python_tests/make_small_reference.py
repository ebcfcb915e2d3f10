"""Makes data/small.npz with the reference twin alone: `python python_tests/make_small_reference.py`.

The arrays of a problem are named `<problem>/<array>`: F (n, m) float32, y (n,), k, lam1 (L,), lam2, sample_weight (n,),
group_size, dual_reg, and for each level of lam1 the optimum W (L, k, m), P (L,), and for the loss sum(C * W) its gradient
grad (L, n, m).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1]))

from benchmarks.problems import episode, uniform_bound
from sparsesvm import reference

PATH = Path(__file__).parent / "data" / "small.npz"
SHARES = (0.0, 0.2, 0.5)


def problems(rng: np.random.Generator) -> dict[str, dict]:
    """Arguments of each problem; features are float32 so that both types see the same problem."""

    def problem(n_way, n_samples, n_features, *, lambda2=0.05, group_size=1, dual_reg=0.0, weighted=False):
        features, labels = episode(rng, n_way, n_samples, n_features)
        weight = rng.uniform(0.5, 2, n_samples) if weighted else np.ones(n_samples)
        return {
            "F": features.astype(np.float32),
            "y": labels,
            "k": n_way,
            "lam2": lambda2,
            "sample_weight": weight,
            "group_size": group_size,
            "dual_reg": dual_reg,
        }

    cases = {
        "two_classes": problem(2, 6, 12),
        "five_way_one_shot": problem(5, 5, 40),
        "more_samples_than_features": problem(3, 18, 6),
        "groups": problem(4, 12, 24, group_size=4),
        "weighted_smoothed": problem(4, 10, 16, dual_reg=0.7, weighted=True),
        "missing_class": problem(3, 9, 14) | {"k": 4},
    }
    cases["two_classes"]["F"][:, 3] = 0
    return cases


def solve(case: dict, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Optimum and gradient of each level, and the margins to the nearest kinks, which must be wide."""
    features, labels = torch.from_numpy(case["F"]).double(), torch.from_numpy(case["y"])
    bound = uniform_bound(case["F"].astype(float), case["y"], case["k"], case["sample_weight"], case["group_size"])
    cotangent = torch.from_numpy(generator.integers(-3, 4, (case["k"], features.shape[1]))).double()
    levels = []
    for share in SHARES:
        features.requires_grad_().grad = None
        problem = reference.make_problem(
            features,
            labels,
            lambda1=share * bound,
            lambda2=case["lam2"],
            n_way=case["k"],
            sample_weight=torch.from_numpy(case["sample_weight"]),
            group_size=case["group_size"],
            dual_reg=case["dual_reg"],
        )
        detached = problem.detach()
        dual = solve_on_face(detached)
        gap = float(detached.duality_gap(dual) / detached.sample_weight.sum())
        assert gap < 1e-13, f"gap {gap}"
        check_margins(detached, dual)
        weights = reference.implicit_weights(problem, dual)
        (weights * cotangent).sum().backward()
        levels.append(
            {
                "lam1": share * bound,
                "W": detached.weights_from_dual(dual).numpy(),
                "P": float(detached.primal_objective(detached.weights_from_dual(dual))),
                "grad": features.grad.numpy().copy(),
            }
        )
    stacked = {name: np.stack([np.asarray(level[name]) for level in levels]) for name in levels[0]}
    return case | stacked | {"C": cotangent.numpy().astype(np.int8)}


def solve_on_face(problem: reference.Problem) -> torch.Tensor:
    """Optimal dual; entries on their way to zero when the first-order method stopped are zero."""
    dual = reference.solve(problem, tol=1e-13).dual
    dual = torch.where(dual < 1e-6, torch.zeros_like(dual), dual)
    return reference.polish(problem, dual / dual.sum(-1, keepdim=True))


def check_margins(problem: reference.Problem, dual: torch.Tensor) -> None:
    """The gradient is that of a smooth point: no group near its threshold, no dual entry near leaving its face."""
    residual = problem.sample_weight[:, None] * (problem.one_hot - dual)
    norms = reference.group_norms(residual.T @ problem.features, problem.group_size)
    if problem.lambda1 > 0:
        assert (norms - problem.lambda1).abs().min() > 1e-4 * problem.lambda1
    positive = dual[(dual > 0) & (dual < 1)]
    assert positive.numel() == 0 or positive.min() > 1e-4, positive.min()
    gradient = problem.dual_gradient(dual)
    slack = gradient - gradient.gather(-1, dual.argmax(-1, keepdim=True))
    assert slack[dual == 0].numel() == 0 or slack[dual == 0].min() > 1e-5


def main() -> None:
    rng = np.random.default_rng(12)
    arrays = {}
    for name, case in problems(rng).items():
        for array, value in solve(case, rng).items():
            arrays[f"{name}/{array}"] = np.asarray(value)
    PATH.parent.mkdir(exist_ok=True)
    np.savez_compressed(PATH, **arrays)
    print(f"{PATH}: {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
