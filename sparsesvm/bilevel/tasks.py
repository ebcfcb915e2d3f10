"""Laws of tasks, targets y = W z of known factors z: which factors a task uses, and with what coefficients.

A law is *sparse* in the theorem's sense when its supports vary enough (`check_supports`) and, given its support, a task's
coefficients fall on no hyperplane; docs/identifiability.md says why both matter.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from sparsesvm import _checks

__all__ = [
    "BernoulliSupport",
    "BlockSupport",
    "DenseCoefficients",
    "FiniteCoefficients",
    "FixedSizeSupport",
    "SupportReport",
    "TaskLaw",
    "check_supports",
    "noisy_targets",
]

_MOST_SUPPORTS = 1 << 20


class TaskLaw(ABC):
    """A distribution of task coefficients over `n_factors` factors."""

    n_factors: int

    @abstractmethod
    def draw_supports(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Which factors each task uses: (n_tasks, n_factors) bool, never none."""

    @abstractmethod
    def supports(self) -> Tensor:
        """All supports of positive probability: (n_supports, n_factors) bool."""

    def draw_coefficients(self, supports: Tensor, n_outputs: int, generator: torch.Generator) -> Tensor:
        """Standard normal coefficients of all factors, (n_tasks, n_outputs, n_factors)."""
        return torch.randn(len(supports), n_outputs, self.n_factors, generator=generator)

    def draw(self, n_tasks: int, generator: torch.Generator, n_outputs: int = 1) -> Tensor:
        """Coefficients W of tasks: (n_tasks, n_outputs, n_factors), zero outside the task's support.

        Raises:
            ValueError, TypeError: for numbers that are not positive integers.
        """
        n_tasks = _checks.check_integer("n_tasks", n_tasks, minimum=1)
        n_outputs = _checks.check_integer("n_outputs", n_outputs, minimum=1)
        supports = self.draw_supports(n_tasks, generator)
        return self.draw_coefficients(supports, n_outputs, generator) * supports.unsqueeze(1)


@dataclass(frozen=True)
class BernoulliSupport(TaskLaw):
    """Each factor is used with the given probability, independently; a task that would use none uses one at random.

    That rule is applied task by task: the other tasks of a batch keep their supports.
    """

    n_factors: int
    probability: float = 0.5

    def __post_init__(self) -> None:
        _checks.check_integer("n_factors", self.n_factors, minimum=1)
        if not 0 <= _checks.check_number("probability", self.probability) <= 1:
            raise ValueError(f"probability must lie in [0, 1]; got {self.probability}")

    def draw_supports(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """As in `TaskLaw`."""
        supports = torch.rand(n_tasks, self.n_factors, generator=generator) < self.probability
        forced = torch.randint(self.n_factors, (n_tasks, 1), generator=generator)
        return supports | (~supports.any(1, keepdim=True) & (torch.arange(self.n_factors) == forced))

    def supports(self) -> Tensor:
        """As in `TaskLaw`."""
        if self.probability in (0, 1):
            full = torch.ones(1, self.n_factors, dtype=torch.bool)
            return full if self.probability else torch.eye(self.n_factors, dtype=torch.bool)
        return _subsets(self.n_factors)


@dataclass(frozen=True)
class FixedSizeSupport(TaskLaw):
    """Each task uses `size` factors, any with the same probability."""

    n_factors: int
    size: int

    def __post_init__(self) -> None:
        _checks.check_integer("n_factors", self.n_factors, minimum=1)
        if not 1 <= _checks.check_integer("size", self.size, minimum=1) <= self.n_factors:
            raise ValueError(f"size must be at most n_factors = {self.n_factors}; got {self.size}")

    def draw_supports(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """As in `TaskLaw`."""
        order = torch.rand(n_tasks, self.n_factors, generator=generator).argsort(1)
        return torch.zeros(n_tasks, self.n_factors, dtype=torch.bool).scatter_(1, order[:, : self.size], True)

    def supports(self) -> Tensor:
        """As in `TaskLaw`."""
        chosen = torch.tensor(list(itertools.combinations(range(self.n_factors), self.size)))
        return torch.zeros(len(chosen), self.n_factors, dtype=torch.bool).scatter_(1, chosen, True)


@dataclass(frozen=True)
class BlockSupport(TaskLaw):
    """Consecutive blocks of `block` factors are used together or not at all, each with the given probability.

    Violates the support condition for block > 1: no task tells the factors of a block apart.
    """

    n_factors: int
    block: int
    probability: float = 0.5

    def __post_init__(self) -> None:
        _checks.check_integer("n_factors", self.n_factors, minimum=1)
        _checks.check_integer("block", self.block, minimum=1)
        if self.n_factors % self.block:
            raise ValueError(f"block must divide n_factors = {self.n_factors}; got {self.block}")
        self._blocks()

    def _blocks(self) -> BernoulliSupport:
        return BernoulliSupport(self.n_factors // self.block, self.probability)

    def draw_supports(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """As in `TaskLaw`."""
        return self._blocks().draw_supports(n_tasks, generator).repeat_interleave(self.block, 1)

    def supports(self) -> Tensor:
        """As in `TaskLaw`."""
        return self._blocks().supports().repeat_interleave(self.block, 1)


@dataclass(frozen=True)
class DenseCoefficients(TaskLaw):
    """Every task uses all factors, with Gaussian or Laplace coefficients of variance one.

    Violates the support condition. (Laplace coefficients are often near zero, and in practice still identify the factors.)
    """

    n_factors: int
    law: str = "gaussian"

    def __post_init__(self) -> None:
        _checks.check_integer("n_factors", self.n_factors, minimum=1)
        if self.law not in ("gaussian", "laplace"):
            raise ValueError(f'law must be "gaussian" or "laplace"; got {self.law!r}')

    def draw_supports(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """As in `TaskLaw`."""
        return torch.ones(n_tasks, self.n_factors, dtype=torch.bool)

    def supports(self) -> Tensor:
        """As in `TaskLaw`."""
        return torch.ones(1, self.n_factors, dtype=torch.bool)

    def draw_coefficients(self, supports: Tensor, n_outputs: int, generator: torch.Generator) -> Tensor:
        """As in `TaskLaw`."""
        shape = (len(supports), n_outputs, self.n_factors)
        if self.law == "gaussian":
            return torch.randn(shape, generator=generator)
        # The difference of two exponentials is Laplace, of variance two.
        exponential = -torch.log1p(-torch.rand(2, *shape, generator=generator))
        return (exponential[0] - exponential[1]) / 2**0.5


@dataclass(frozen=True)
class FiniteCoefficients(TaskLaw):
    """The supports of another law, but only `n_vectors` coefficient vectors for each support, fixed by `seed`.

    Violates the theorem's condition on coefficients given the support, not the one on supports. Needs a law with at most about
    a million supports.

    Args:
        shared: every support takes its coefficients from the same `n_vectors` vectors over all factors, and a factor always
            has the same few coefficients. Then mixed representations can be as sparse as the factors: of w1 z1, w2 z2 and
            w1 z1 + w2 z2, one each is a code by itself whether the codes are z1 and z2 or z1 and w1 z1 + w2 z2. Vectors of each
            support's own leave, with many supports, no other representation that is sparse on all of them.
    """

    law: TaskLaw
    n_vectors: int
    seed: int = 0
    shared: bool = False
    _vectors: Tensor = field(init=False, repr=False, compare=False)
    _rows: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _checks.check_integer("n_vectors", self.n_vectors, minimum=1)
        supports = self.law.supports()
        generator = torch.Generator().manual_seed(self.seed)
        vectors = torch.randn(1 if self.shared else len(supports), self.n_vectors, self.n_factors, generator=generator)
        object.__setattr__(self, "_vectors", vectors.expand(len(supports), -1, -1))
        object.__setattr__(self, "_rows", {code: row for row, code in enumerate(_codes(supports))})

    @property
    def n_factors(self) -> int:  # type: ignore[override]
        """As in the other law."""
        return self.law.n_factors

    def draw_supports(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """As in `TaskLaw`."""
        return self.law.draw_supports(n_tasks, generator)

    def supports(self) -> Tensor:
        """As in `TaskLaw`."""
        return self.law.supports()

    def draw_coefficients(self, supports: Tensor, n_outputs: int, generator: torch.Generator) -> Tensor:
        """One of its support's vectors for each output."""
        rows = torch.tensor([self._rows[code] for code in _codes(supports)])
        chosen = torch.randint(self.n_vectors, (len(supports), n_outputs), generator=generator)
        return self._vectors[rows.unsqueeze(1), chosen]


class SupportReport(NamedTuple):
    """What `check_supports` found.

    Attributes:
        satisfied: whether the supports vary enough.
        entangled: for each factor that violates the condition, the factors that no task uses without it.
    """

    satisfied: bool
    entangled: dict[int, tuple[int, ...]]

    def __str__(self) -> str:
        if self.satisfied:
            return "sufficient support variability holds"
        parts = (f"no task uses {_listed(others)} without factor {factor}" for factor, others in self.entangled.items())
        return "sufficient support variability is violated: " + "; ".join(parts)


def check_supports(supports: Tensor | Iterable[Iterable[int]], n_factors: int | None = None) -> SupportReport:
    """Whether supports satisfy the theorem's condition on their variability: for every factor j, the union of the supports
    without j holds all other factors.

    Args:
        supports: (n_supports, n_factors) bool, e.g. `TaskLaw.supports()`; or the sets of factors, numbered from zero.
        n_factors: required with sets.

    Raises:
        TypeError, ValueError: for factors out of range, or sets without n_factors.

    Source: Lachapelle et al. 2023 (arXiv 2211.14666), the assumption of sufficient support variability.

    Example:
        >>> from sparsesvm.bilevel.tasks import check_supports
        >>> check_supports([{0}, {1}, {0, 2}, {1, 2}], n_factors=3).satisfied
        True
        >>> check_supports([{0, 1}, {2}], n_factors=3).entangled  # no task tells the first two apart
        {0: (1,), 1: (0,)}
    """
    if isinstance(supports, Tensor):
        if supports.dtype != torch.bool or supports.dim() != 2:
            raise TypeError(
                f"supports must be a bool tensor (n_supports, n_factors); got {supports.dtype} {tuple(supports.shape)}"
            )
        table = supports
    else:
        if n_factors is None:
            raise ValueError("n_factors is required when supports are given as sets; got None")
        sets = [sorted(set(support)) for support in supports]
        table = torch.zeros(len(sets), n_factors, dtype=torch.bool)
        for row, chosen in enumerate(sets):
            if chosen and not 0 <= chosen[0] <= chosen[-1] < n_factors:
                raise ValueError(f"supports must hold factors in [0, {n_factors}); got {chosen}")
            table[row, chosen] = True
    entangled: dict[int, tuple[int, ...]] = {}
    for factor in range(table.shape[1]):
        reached = table[~table[:, factor]].any(0)
        missing = [other for other in range(table.shape[1]) if other != factor and not reached[other]]
        if missing:
            entangled[factor] = tuple(missing)
    return SupportReport(not entangled, entangled)


def noisy_targets(factors: Tensor, weights: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Targets W z + noise: (..., n_samples, n_outputs) from factors (..., n_samples, n_factors) and weights (..., n_outputs,
    n_factors). `noise` is the ratio of the norms of noise and signal, in each task and output; 0.1 is one percent of energy.

    Example:
        >>> import torch
        >>> from sparsesvm.bilevel.tasks import noisy_targets
        >>> factors, weights = torch.eye(3), torch.tensor([[1.0, 0.0, 2.0]])
        >>> noisy_targets(factors, weights, noise=0.0, generator=torch.Generator()).flatten()
        tensor([1., 0., 2.])
    """
    signal: Tensor = factors @ weights.mT
    raw = torch.randn(signal.shape, generator=generator, dtype=signal.dtype)
    scale: Tensor = signal.norm(dim=-2, keepdim=True) / raw.norm(dim=-2, keepdim=True)
    return signal + noise * scale * raw


def _subsets(size: int) -> Tensor:
    """All non-empty subsets."""
    if 1 << size > _MOST_SUPPORTS:
        raise ValueError(f"n_factors must be at most 20 to list all supports; got {size}")
    numbers: Tensor = torch.arange(1, 1 << size).unsqueeze(1)
    bits: Tensor = (numbers >> torch.arange(size)) & 1
    return bits.bool()


def _codes(supports: Tensor) -> list[int]:
    codes: list[int] = (supports.long() << torch.arange(supports.shape[1])).sum(1).tolist()
    return codes


def _listed(factors: tuple[int, ...]) -> str:
    return ("factor " if len(factors) == 1 else "factors ") + ", ".join(map(str, factors))
