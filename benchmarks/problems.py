"""Random problems, shared by tests and benchmarks; the generator given fixes the problem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

import sparsesvm


def episode(rng: Generator, n_way: int, n_samples: int, n_features: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (n_samples, n_features) like the last activations of an encoder, and balanced labels.

    relu(0.6 * class mean + 0.7 * noise + 0.1) of standard normals, divided so that the mean squared row norm is one.
    """
    labels = np.arange(n_samples) % n_way
    features = _activations(rng, labels, n_way, n_features)
    return features / _root_mean_square_norm(features), labels


@dataclass(frozen=True)
class Problem:
    """The arguments of `sparsesvm.solve` for one task, in numpy; `family` names what makes it hard."""

    features: NDArray[np.float64]
    labels: NDArray[np.int64]
    n_way: int
    lambda1: float
    lambda2: float
    sample_weight: NDArray[np.float64]
    group_size: int = 1
    dual_reg: float = 0.0
    family: tuple[str, ...] = ()
    group_weight: NDArray[np.float64] | None = None

    def solve(self, dtype: torch.dtype = torch.float64, *, sparse: bool = False, **options: Any) -> sparsesvm.Solution:
        """The solution, with features in this type, dense or in compressed sparse rows."""
        features = torch.from_numpy(self.features).to(dtype)
        return sparsesvm.solve(
            features.to_sparse_csr() if sparse else features,
            torch.from_numpy(self.labels),
            lambda1=self.lambda1,
            **self._arguments(),
            **options,
        )

    def path(self, dtype: torch.dtype = torch.float64, **options: Any) -> sparsesvm.RegularizationPath:
        """Solutions for smaller and smaller lambda1."""
        features = torch.from_numpy(self.features).to(dtype)
        return sparsesvm.regularization_path(features, torch.from_numpy(self.labels), **self._arguments(), **options)

    def _arguments(self) -> dict[str, Any]:
        return {
            "lambda2": self.lambda2,
            "n_way": self.n_way,
            "sample_weight": torch.from_numpy(self.sample_weight),
            "group_size": self.group_size,
            "group_weight": None if self.group_weight is None else torch.from_numpy(self.group_weight),
            "dual_reg": self.dual_reg,
        }

    def scaled(self, scale: float) -> Problem:
        """The same problem in other units of the features: its weights are those of this one, divided by `scale`."""
        return replace(
            self,
            features=self.features * scale,
            lambda1=self.lambda1 * scale,
            lambda2=self.lambda2 * scale**2,
            dual_reg=self.dual_reg * scale**2,
        )


def uniform_bound(
    features: NDArray[np.float64],
    labels: NDArray[np.int64],
    n_way: int,
    sample_weight: NDArray[np.float64],
    group_size: int,
) -> float:
    """The upper bound on the largest useful lambda1 that takes the dual uniform over the wrong classes."""
    one_hot = np.eye(n_way)[labels]
    residual = one_hot - (1 - one_hot) / max(n_way - 1, 1)
    correlation = (sample_weight[:, None] * residual).T @ features
    squared = (correlation**2).sum(0).reshape(-1, group_size).sum(1)
    return float(np.sqrt(squared.max()))


def adversarial(rng: Generator, *, max_samples: int = 100, max_features: int = 2000) -> Problem:
    """A problem drawn from a mixture of what breaks solvers.

    Sizes are n_way 2..20, n 1..max_samples and m 1..max_features, the latter two log-uniform. Independently of each other
    the draw may hold duplicated rows (of any label), dead columns, zero rows, a single class, classes that never occur,
    entries on a coarse grid (ties), columns of very different size, sample weights with zeros, groups, a smoothed hinge,
    and units of the features from 1e-6 to 1e6 with the penalties in the same units. In units where the mean squared row
    norm is one, lambda2 is log-uniform in 1e-4..1e2 (one in seven: from 1e-6), and lambda1 runs from zero to beyond the
    value at which all weights vanish.
    """
    n_way = int(rng.integers(2, 21))
    n_samples, n_features = _log_uniform(rng, max_samples), _log_uniform(rng, max_features)
    labels = rng.integers(0, n_way, n_samples)
    family = []

    def happens(probability: float, name: str) -> bool:
        if rng.random() >= probability:
            return False
        family.append(name)
        return True

    if happens(0.3, "signed"):
        features = rng.normal(size=(n_samples, n_features))
    else:
        features = _activations(rng, labels, n_way, n_features)
    if happens(0.25, "duplicates"):
        features[rng.integers(0, n_samples, n_samples // 2 + 1)] = features[rng.integers(0, n_samples)]
    if happens(0.2, "dead columns"):
        features[:, rng.random(n_features) < 0.3] = 0
    if happens(0.15, "zero rows"):
        features[rng.random(n_samples) < 0.2] = 0
    if happens(0.1, "one class"):
        labels = np.full(n_samples, rng.integers(0, n_way))
    if happens(0.15, "missing classes"):
        labels = labels % max(1, n_way // 2)
    if happens(0.15, "ties"):
        features = np.round(features * 2) / 2
    if happens(0.05, "column scales"):
        features = features * np.exp(3 * rng.normal(size=n_features))
    features = features / _root_mean_square_norm(features)
    sample_weight = np.ones(n_samples)
    if happens(0.3, "weights"):
        sample_weight = rng.uniform(0, 3, n_samples) * (rng.random(n_samples) < 0.8)
    lambda2 = 10 ** rng.uniform(-6 if happens(0.15, "weak ridge") else -4, 2)
    group_size = 1
    if happens(0.2, "groups"):
        group_size = int(rng.choice([size for size in range(1, n_features + 1) if n_features % size == 0]))
    dual_reg = float(rng.choice([0.1, 1.0])) if happens(0.33, "smoothed") else 0.0
    shares = [0.0, rng.uniform(0, 0.3), rng.uniform(0.3, 0.8), rng.uniform(0.6, 1), 1.0, 1.2]
    lambda1 = float(rng.choice(shares)) * uniform_bound(features, labels, n_way, sample_weight, group_size)
    problem = Problem(features, labels, n_way, lambda1, lambda2, sample_weight, group_size, dual_reg, family=tuple(family))
    if happens(0.5, "scale"):
        problem = problem.scaled(10 ** rng.uniform(-6, 6))
    return replace(problem, family=tuple(family))


def weakly_ridged(rng: Generator, *, sizes: tuple[int, int] | None = None) -> Problem:
    """A small problem with any ridge: n 1..60, m 1..400, n_way 2..12, units of the features 1e-4..1e4 log-uniform.

    Or of these `sizes`, n and m.

    lambda2 is log-uniform from 1e-8 to 10 of the mean squared row norm, or zero (one in ten); lambda1 is uniform from zero to 1.1
    of `uniform_bound` (seven in ten), log-uniform from 1e-4 of it, or zero (one in twenty, with lambda2 > 0). A third each has
    dead columns, repeated rows, zero rows, sample weights, groups, and a smoothed hinge.
    """
    n_samples, n_features = sizes or (int(rng.integers(1, 61)), int(rng.integers(1, 401)))
    n_way = int(rng.integers(2, 13))
    labels = rng.integers(0, n_way, n_samples)
    features = rng.normal(size=(n_samples, n_features))
    family = []

    def happens(name: str, probability: float = 1 / 3) -> bool:
        if rng.random() >= probability:
            return False
        family.append(name)
        return True

    if happens("activations", 0.5):
        features = np.maximum(features + 0.5 * rng.normal(size=n_features), 0)
    if happens("class means", 0.5):
        features += rng.random() * rng.normal(size=(n_way, n_features))[labels]
    if happens("dead columns"):
        features[:, rng.random(n_features) < 0.3] = 0
    if happens("repeated rows"):
        features[rng.integers(0, n_samples, n_samples // 3)] = features[rng.integers(0, n_samples, n_samples // 3)]
    if happens("zero rows"):
        features[rng.random(n_samples) < 0.1] = 0
    sample_weight = rng.uniform(0.01, 2, n_samples) if happens("weights") else np.ones(n_samples)
    group_size = 1
    if happens("groups"):
        group_size = int(rng.integers(1, min(5, n_features) + 1))
        features = features[:, : n_features // group_size * group_size]
    features = features * 10 ** rng.uniform(-4, 4)
    mean_square = float((features**2).sum(1).mean()) or 1.0
    lambda2 = 0.0 if happens("no ridge", 0.1) else mean_square * 10 ** rng.uniform(-8, 1)
    dual_reg = lambda2 * 10 ** rng.uniform(-3, 1) if lambda2 > 0 and happens("smoothed") else 0.0
    bound = uniform_bound(features, labels, n_way, sample_weight, group_size)
    lambda1 = bound * (rng.uniform(0, 1.1) if rng.random() < 0.7 else 10 ** rng.uniform(-4, 0))
    if lambda2 > 0 and happens("dense", 0.05):
        lambda1 = 0.0
    elif bound == 0:
        lambda1 = 1.0  # nothing to learn from; both penalties may not be zero
    return Problem(features, labels, n_way, lambda1, lambda2, sample_weight, group_size, dual_reg, family=tuple(family))


def with_any_options(rng: Generator) -> Problem:
    """A problem of `weakly_ridged`, or of `adversarial` (three in ten), with the options that these lack.

    n is log-uniform in 1..60, m in 1..400, as uniform sizes take several times as long.
    Groups have weights of their own (one in three), samples of weight zero occur (one in four), lambda1 is far beyond the value
    at which all weights vanish (one in twenty), and there is but one class (one in twenty).
    """
    if rng.random() < 0.3:
        problem = adversarial(rng, max_samples=60, max_features=400)
    else:
        problem = weakly_ridged(rng, sizes=(_log_uniform(rng, 60), _log_uniform(rng, 400)))
    family, n_samples = list(problem.family), len(problem.labels)
    if rng.random() < 0.05:
        family.append("no other class")
        problem = replace(problem, n_way=1, labels=np.zeros_like(problem.labels))
    if rng.random() < 0.25:
        family.append("absent samples")
        problem = replace(problem, sample_weight=problem.sample_weight * (rng.random(n_samples) < 0.7))
    if not problem.sample_weight.any():
        problem = replace(problem, sample_weight=np.ones(n_samples))
    if rng.random() < 1 / 3:
        family.append("group weights")
        weight = np.exp(rng.normal(size=problem.features.shape[1] // problem.group_size))
        problem = replace(problem, group_weight=weight)
    if rng.random() < 0.05:
        family.append("beyond")
        structure = (problem.n_way, problem.sample_weight, problem.group_size)
        problem = replace(problem, lambda1=problem.lambda1 + 1e3 * uniform_bound(problem.features, problem.labels, *structure))
    return replace(problem, family=tuple(family))


def with_padding(rng: Generator, problem: Problem) -> Problem:
    """The same problem, its samples of weight zero given as padding: labels that are none, features that are no numbers."""
    absent = problem.sample_weight == 0
    labels, features = problem.labels.copy(), problem.features.copy()
    labels[absent] = rng.choice([-100, -1, 255], absent.sum())
    features[absent] = rng.choice([np.nan, np.inf, 1e300, 0.0], (int(absent.sum()), 1))
    return replace(problem, labels=labels, features=features)


def of_the_same_shape(rng: Generator, problem: Problem, n_way: int) -> Problem:
    """Another task for a batch with `problem`: other features in the same units, `n_way` classes, other penalties."""
    n_samples, n_features = problem.features.shape
    spread = float(np.abs(problem.features).mean())
    return replace(
        problem,
        features=problem.features[rng.permutation(n_samples)] + rng.random() * spread * rng.normal(size=(n_samples, n_features)),
        labels=rng.integers(0, n_way, n_samples),
        n_way=n_way,
        lambda1=problem.lambda1 * rng.uniform(0.1, 1.5),
        lambda2=problem.lambda2 * 10 ** rng.uniform(-1, 1),
        sample_weight=rng.permutation(problem.sample_weight),
    )


def _activations(rng: Generator, labels: NDArray[np.int64], n_way: int, n_features: int) -> NDArray[np.float64]:
    means = rng.normal(size=(n_way, n_features))
    noise = rng.normal(size=(len(labels), n_features))
    return np.maximum(0.6 * means[labels] + 0.7 * noise + 0.1, 0)


def _root_mean_square_norm(features: NDArray[np.float64]) -> float:
    return float(np.sqrt((features**2).sum(1).mean())) or 1.0


def _log_uniform(rng: Generator, largest: int) -> int:
    return int(np.exp(rng.uniform(0, np.log(largest))) + 0.5)
