"""The compiled solver against stored optima and gradients, in both types and in three units of the features.

The repository's own small set (made by make_small_reference.py from the reference twin) is always there; a larger set, from
independent solvers, is tested where it is found (see conftest.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sparsesvm
from sparsesvm import reference

SMALL = Path(__file__).parent / "data" / "small.npz"
SMALL_CASES = (
    "two_classes",
    "five_way_one_shot",
    "more_samples_than_features",
    "groups",
    "weighted_smoothed",
    "missing_class",
)

# Where the solution map has a kink the stored gradient is one choice of several.
GRADIENT_KINKS = {
    "above_lam1max": "its first lam1 is the smallest at which W = 0",
    "degenerate_zero_active_rows": "its dual is not unique",
}
ONE_SIDED_ROWS = {"zero_row": [4]}
# There the stored W is zero up to the accuracy of its lam1 only, so that it has no largest entry to compare with.
AT_THRESHOLD = {("above_lam1max", 0)}


def load_small(case: str) -> dict[str, np.ndarray]:
    with np.load(SMALL) as arrays:
        return {name.split("/")[1]: arrays[name] for name in arrays.files if name.split("/")[0] == case}


def solve_level(data, level: int, dtype: torch.dtype, scale: float, tol: float):
    """The Solution of one level, and the gradient of sum(C * W); the penalties follow the units of the features."""
    features = (torch.from_numpy(data["F"]).to(dtype) * scale).requires_grad_()
    solution = sparsesvm.solve(
        features,
        torch.from_numpy(data["y"]),
        lambda1=float(data["lam1"][level]) * scale,
        lambda2=float(data["lam2"]) * scale**2,
        n_way=int(data["k"]),
        sample_weight=torch.from_numpy(data["sample_weight"]) if "sample_weight" in data else None,
        group_size=int(data["group_size"]) if "group_size" in data else 1,
        dual_reg=float(data["dual_reg"]) * scale**2 if "dual_reg" in data else 0.0,
        tol=tol,
        on_failure="raise",
    )
    (solution.weights * torch.from_numpy(data["C"]).to(dtype)).sum().backward()
    return solution, features.grad.double().numpy()


def summed_over_ties(gradient: np.ndarray, data) -> np.ndarray:
    """Equal rows move together: W has no derivative when one copy moves alone."""
    if "tie" not in data:
        return gradient
    summed = np.zeros((data["tie"].max() + 1, gradient.shape[1]))
    np.add.at(summed, data["tie"], gradient)
    return summed


def gradient_error(name: str, data, level: int, gradient: np.ndarray, scale: float) -> float:
    """Relative norm of the error; absolute where the stored gradient is zero."""
    computed = summed_over_ties(gradient * scale**2, data)
    stored = summed_over_ties(data["grad"][level], data)
    regular = np.setdiff1d(np.arange(len(stored)), ONE_SIDED_ROWS.get(name, []))
    error, size = np.linalg.norm((computed - stored)[regular]), np.linalg.norm(stored[regular])
    return error / size if size > 0 else error


def check_float64(name: str, data) -> None:
    for level in range(len(data["lam1"])):
        solution, gradient = solve_level(data, level, torch.float64, 1.0, tol=1e-10)
        where = f"{name}, level {level}"
        optimum = float(data["P"][level])
        assert abs(float(solution.objective) - optimum) <= 1e-9 * abs(optimum), f"objective of {where}"
        if (name, level) in AT_THRESHOLD:
            continue
        weights = data["W"][level]
        error = np.abs(solution.weights.detach().numpy() - weights).max()
        assert error <= 1e-6 * np.abs(weights).max(), f"weights of {where}: {error}"
        if name not in GRADIENT_KINKS or (name == "above_lam1max" and level > 0):
            assert gradient_error(name, data, level, gradient, 1.0) <= 1e-6, f"gradient of {where}"


def check_float32(name: str, data, scale: float) -> None:
    for level in range(len(data["lam1"])):
        solution, gradient = solve_level(data, level, torch.float32, scale, tol=1e-6)
        where = f"{name}, level {level}, scale {scale:g}"
        total = data["sample_weight"].sum() if "sample_weight" in data else len(data["y"])
        assert float(solution.gap) <= 1e-6 * total, f"gap of {where}"
        if (name, level) not in AT_THRESHOLD and name != "degenerate_zero_active_rows":
            assert gradient_error(name, data, level, gradient, scale) <= 1e-3, f"gradient of {where}"


@pytest.mark.parametrize("case", SMALL_CASES)
def test_float64_reaches_stored_objective_weights_and_gradient(case):
    check_float64(case, load_small(case))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("case", SMALL_CASES)
def test_float32_certifies_the_default_tolerance_with_an_accurate_gradient_in_any_units(case, scale):
    check_float32(case, load_small(case), scale)


def test_every_reference_file_float64_reaches_stored_objective_weights_and_gradient(reference_file):
    with np.load(reference_file) as data:
        check_float64(reference_file.stem, dict(data))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_every_reference_file_float32_certifies_with_an_accurate_gradient_in_any_units(reference_file, scale):
    with np.load(reference_file) as data:
        check_float32(reference_file.stem, dict(data), scale)


def test_small_set_is_stationary_for_its_stored_weights():
    """Guards the stored numbers themselves: their objective is P, and no random step from W lowers it."""
    generator = np.random.default_rng(0)
    for case in SMALL_CASES:
        data = load_small(case)
        for level, penalty in enumerate(data["lam1"]):
            problem = reference.make_problem(
                torch.from_numpy(data["F"]),
                torch.from_numpy(data["y"]),
                lambda1=float(penalty),
                lambda2=float(data["lam2"]),
                n_way=int(data["k"]),
                sample_weight=torch.from_numpy(data["sample_weight"]),
                group_size=int(data["group_size"]),
                dual_reg=float(data["dual_reg"]),
            )
            optimum = float(problem.primal_objective(torch.from_numpy(data["W"][level])))
            assert optimum == pytest.approx(float(data["P"][level]), rel=1e-13)
            for size in (1e-4, 1e-2, 1.0):
                step = size * generator.normal(size=data["W"][level].shape)
                moved = float(problem.primal_objective(torch.from_numpy(data["W"][level] + step)))
                assert moved > optimum
