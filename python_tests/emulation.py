"""The bodies of the CUDA kernels on emulated blocks of threads: compiled by the C++ compiler, called with tensors on the CPU."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparsesvm.bilevel.regression import RegressionSolution
from sparsesvm.results import Solution

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
FLAGS = ("-std=c++17", "-fno-math-errno", "-Wall", "-Wextra", "-Wshadow", "-Werror", f"-I{SOURCES}")


def compiler() -> list[str]:
    """The C++ compiler and its fixed arguments."""
    return shlex.split(os.environ.get("CXX", "c++"))


def compile_library(folder: Path, *definitions: str) -> ctypes.CDLL:
    """The shared library of csrc/tests/emulation.cpp."""
    path = folder / "emulation.so"
    source = str(SOURCES / "tests" / "emulation.cpp")
    subprocess.run([*compiler(), *FLAGS, *definitions, "-O2", "-shared", "-fPIC", source, "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.error_message.restype = ctypes.c_char_p
    return library


# The structs of csrc/core/svm/problem.h.
class _Batch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_tasks", "n_samples", "n_features", "n_way", "group_size")),
        ("features", ctypes.c_void_p),
        ("task_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("labels", "sample_weight", "lambda1", "lambda2")),
        ("dual_reg", ctypes.c_double),
        ("sparse", ctypes.c_bool),
        ("n_entries", ctypes.c_int64),
        ("row_start", ctypes.c_void_p),
        ("column", ctypes.c_void_p),
        ("group_weight", ctypes.c_void_p),
        ("group_weight_stride", ctypes.c_int64),
        ("task_way", ctypes.c_void_p),
    ]


class _SolveArguments(ctypes.Structure):
    _fields_ = [
        ("batch", _Batch),
        ("tol", ctypes.c_double),
        ("max_iter", ctypes.c_int64),
        ("identify", ctypes.c_bool),
        *((name, ctypes.c_void_p) for name in ("init_dual", "init_weights", *Solution._fields)),
    ]


class _VjpArguments(ctypes.Structure):
    _fields_ = [
        ("batch", _Batch),
        *((name, ctypes.c_void_p) for name in ("weights", "dual", "grad_weights")),
        *((name, ctypes.c_void_p) for name in ("features", "lambda1", "lambda2", "sample_weight")),
    ]


class _JvpArguments(ctypes.Structure):
    _fields_ = [
        ("batch", _Batch),
        *((name, ctypes.c_void_p) for name in ("weights", "dual", "features", "lambda1", "lambda2", "sample_weight", "out")),
    ]


# Those of csrc/core/regression/problem.h.
class _RegressionBatch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n_tasks", "n_samples", "n_features", "n_outputs", "max_active")),
        ("features", ctypes.c_void_p),
        ("task_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("targets", "lambda1", "lambda2")),
    ]


class _RegressionSolveArguments(ctypes.Structure):
    _fields_ = [
        ("batch", _RegressionBatch),
        ("tol", ctypes.c_double),
        ("max_iter", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in RegressionSolution._fields),
    ]


class _RegressionVjpArguments(ctypes.Structure):
    _fields_ = [
        ("batch", _RegressionBatch),
        *((name, ctypes.c_void_p) for name in ("weights", "grad_weights", "features", "targets", "lambda1", "lambda2")),
    ]


@dataclass(frozen=True)
class Problem:
    """A batch (tasks, n, m) with everything in the types that the kernels read."""

    features: Tensor
    labels: Tensor
    sample_weight: Tensor
    lambda1: Tensor
    lambda2: Tensor
    n_way: int
    group_size: int = 1
    dual_reg: float = 0.0
    group_weight: Tensor | None = None
    """(tasks, groups) in float64."""
    task_way: Tensor | None = None
    """(tasks,) int64, where tasks differ in the number of classes."""

    @property
    def suffix(self) -> str:
        return "float64" if self.features.dtype == torch.float64 else "float32"

    def batch(self) -> _Batch:
        assert self.features.stride(-1) == 1
        tasks, n, m = self.features.shape
        rest = (self.labels, self.sample_weight, self.lambda1, self.lambda2)
        assert all(tensor.is_contiguous() for tensor in rest)
        assert self.labels.dtype == torch.int64 and all(tensor.dtype == torch.float64 for tensor in rest[1:])
        where = (self.features.data_ptr(), self.features.stride(0), self.features.stride(1), *(t.data_ptr() for t in rest))
        batch = _Batch(tasks, n, m, self.n_way, self.group_size, *where, self.dual_reg)
        if self.group_weight is not None:
            batch.group_weight, batch.group_weight_stride = self.group_weight.data_ptr(), self.group_weight.stride(0)
        if self.task_way is not None:
            batch.task_way = self.task_way.data_ptr()
        return batch


@dataclass(frozen=True)
class Regression:
    """A batch of sparse regressions: features (tasks, n, m), targets (tasks, n, q), penalties (tasks,) in float64."""

    features: Tensor
    targets: Tensor
    lambda1: Tensor
    lambda2: Tensor
    max_active: int | None = None
    """Features for which the derivative keeps a matrix, by default all."""

    @property
    def suffix(self) -> str:
        return "float64" if self.features.dtype == torch.float64 else "float32"

    def batch(self) -> _RegressionBatch:
        assert self.features.stride(-1) == 1
        tasks, n, m = self.features.shape
        rest = (self.targets, self.lambda1, self.lambda2)
        assert all(tensor.is_contiguous() for tensor in rest)
        assert self.targets.dtype == self.features.dtype and all(tensor.dtype == torch.float64 for tensor in rest[1:])
        where = (self.features.data_ptr(), self.features.stride(0), self.features.stride(1), *(t.data_ptr() for t in rest))
        return _RegressionBatch(tasks, n, m, self.targets.shape[-1], self.max_active or m, *where)


@dataclass(frozen=True)
class Emulator:
    """Teams of `parts` blocks of `threads` each; `seed` = 0 runs them in order, others in an order drawn at every barrier."""

    library: ctypes.CDLL
    parts: int = 1
    threads: int = 32
    seed: int = 0

    def solve(
        self,
        problem: Problem,
        *,
        tol: float = 1e-6,
        max_iter: int = 100,
        init_dual: Tensor | None = None,
        identify: bool = False,
    ) -> Solution:
        tasks, n, m = problem.features.shape
        new = problem.features.new_empty
        found = Solution(
            weights=new(tasks, problem.n_way, m),
            dual=new(tasks, n, problem.n_way),
            gap=new(tasks, dtype=torch.float64),
            objective=new(tasks, dtype=torch.float64),
            n_iter=new(tasks, dtype=torch.int64),
            status=new(tasks, dtype=torch.int8),
            active=new((tasks, m // problem.group_size), dtype=torch.bool),
        )
        start = 0 if init_dual is None else init_dual.data_ptr()
        arguments = _SolveArguments(problem.batch(), tol, max_iter, identify, start, 0, *(field.data_ptr() for field in found))
        self._call("solve", problem, arguments)
        return found

    def vjp(self, problem: Problem, solution: Solution, grad_weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of features, lambda1, lambda2 and sample_weight."""
        tasks, n, m = problem.features.shape
        gradients = (
            problem.features.new_empty(tasks, n, m),
            torch.empty_like(problem.lambda1),
            torch.empty_like(problem.lambda2),
            torch.empty_like(problem.sample_weight),
        )
        given = (solution.weights, solution.dual, grad_weights)
        arguments = _VjpArguments(problem.batch(), *(t.data_ptr() for t in (*given, *gradients)))
        self._call("vjp", problem, arguments)
        return gradients

    def jvp(self, problem: Problem, solution: Solution, *tangents: Tensor) -> Tensor:
        """Tangent of the weights for those of features, lambda1, lambda2 and sample_weight."""
        out = torch.empty_like(solution.weights)
        arguments = _JvpArguments(problem.batch(), *(t.data_ptr() for t in (solution.weights, solution.dual, *tangents, out)))
        self._call("jvp", problem, arguments)
        return out

    def solve_regression(self, problem: Regression, *, tol: float = 1e-10, max_iter: int = 100) -> RegressionSolution:
        tasks, _, m = problem.features.shape
        new = problem.features.new_empty
        found = RegressionSolution(
            weights=new(tasks, problem.targets.shape[-1], m),
            gap=new(tasks, dtype=torch.float64),
            objective=new(tasks, dtype=torch.float64),
            n_iter=new(tasks, dtype=torch.int64),
            status=new(tasks, dtype=torch.int8),
            active=new((tasks, m), dtype=torch.bool),
        )
        arguments = _RegressionSolveArguments(problem.batch(), tol, max_iter, *(field.data_ptr() for field in found))
        self._call("solve_regression", problem, arguments)
        return found

    def regression_vjp(self, problem: Regression, weights: Tensor, grad_weights: Tensor) -> tuple[Tensor, ...]:
        """Gradients of features, targets, lambda1 and lambda2."""
        inputs = (problem.features, problem.targets, problem.lambda1, problem.lambda2)
        gradients = tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)
        arguments = _RegressionVjpArguments(problem.batch(), *(t.data_ptr() for t in (weights, grad_weights, *gradients)))
        self._call("regression_vjp", problem, arguments)
        return gradients

    def _call(self, name: str, problem: Problem | Regression, arguments: ctypes.Structure) -> None:
        function = getattr(self.library, f"{name}_{problem.suffix}")
        if function(ctypes.byref(arguments), self.parts, self.threads, ctypes.c_uint(self.seed)):
            raise RuntimeError(self.library.error_message().decode())
