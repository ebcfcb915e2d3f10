"""Laws of factors: uniform on a box, Gaussian, or on the box with probability proportional to a Gaussian density.

Factors are standardised: under the uniform law each has mean zero and variance one, hence lies in [-sqrt(3), sqrt(3)].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsesvm import _checks

__all__ = ["HALF_WIDTH", "BoxGaussian", "Gaussian", "LatentLaw", "UniformBox", "correlation_matrix", "grid_probabilities"]

HALF_WIDTH = 3**0.5
"""Half the width of the box."""

STRUCTURES = ("equal", "chain")


class LatentLaw(ABC):
    """A distribution of factors on the box."""

    n_factors: int

    @abstractmethod
    def draw(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """Factors (n_samples, n_factors)."""


@dataclass(frozen=True)
class UniformBox(LatentLaw):
    """Independent uniform factors."""

    n_factors: int

    def draw(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """As in `LatentLaw`."""
        return HALF_WIDTH * (2 * torch.rand(n_samples, self.n_factors, generator=generator) - 1)


@dataclass(frozen=True)
class Gaussian(LatentLaw):
    """N(0, Sigma), not confined to the box. Sigma has ones on the diagonal and `rho` everywhere else (structure "equal") or
    rho^|i-j| ("chain"). At rho = 0 no independent component analysis can find the factors."""

    n_factors: int
    rho: float = 0.0
    structure: str = "equal"

    def __post_init__(self) -> None:
        correlation_matrix(self.n_factors, self.rho, self.structure)

    def draw(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """As in `LatentLaw`."""
        factor = torch.linalg.cholesky(correlation_matrix(self.n_factors, self.rho, self.structure)).float()
        white = torch.randn(n_samples, self.n_factors, generator=generator)
        factors: Tensor = white @ factor.mT
        return factors


@dataclass(frozen=True)
class BoxGaussian(LatentLaw):
    """Density on the box proportional to that of N(0, Sigma): the `Gaussian` restricted to the box.

    The restriction lowers variances and correlations: at rho = 0 the standard deviation is 0.79.
    """

    n_factors: int
    rho: float = 0.0
    structure: str = "equal"

    def __post_init__(self) -> None:
        correlation_matrix(self.n_factors, self.rho, self.structure)

    def draw(self, n_samples: int, generator: torch.Generator) -> Tensor:
        """As in `LatentLaw`; by rejection."""
        law = Gaussian(self.n_factors, self.rho, self.structure)
        kept: list[Tensor] = []
        while sum(map(len, kept)) < n_samples:
            proposed = law.draw(max(2 * n_samples, 64), generator)
            kept.append(proposed[proposed.abs().amax(1) <= HALF_WIDTH])
        return torch.cat(kept)[:n_samples]


def correlation_matrix(n_factors: int, rho: float, structure: str = "equal") -> Tensor:
    """Sigma of `Gaussian`, (n_factors, n_factors) float64.

    Raises:
        ValueError: for rho outside [0, 1), or an unknown structure.
    """
    n_factors = _checks.check_integer("n_factors", n_factors, minimum=1)
    if _checks.check_number("rho", rho) >= 1:
        raise ValueError(f"rho must lie in [0, 1); got {rho}")
    if structure not in STRUCTURES:
        raise ValueError(f'structure must be "equal" or "chain"; got {structure!r}')
    steps = torch.arange(n_factors).double()
    distance = (steps.unsqueeze(0) - steps.unsqueeze(1)).abs()
    if structure == "equal":
        distance = distance.clamp(max=1)
    return rho**distance if rho > 0 else torch.eye(n_factors, dtype=torch.float64)


def grid_probabilities(factors: Tensor, rho: float, structure: str = "equal") -> Tensor:
    """Probability of each sample of a data set that holds a grid of factors, proportional to the density of N(0, Sigma) at the
    sample's factors: (n_samples,) float64, sum one. For `torch.multinomial`, or numpy's `choice` beyond 2^24 samples.

    Args:
        factors: (n_samples, n_factors), standardised.
        rho, structure: as in `Gaussian`.

    Example:
        >>> import torch
        >>> from sparsesvm.factors import grid_probabilities
        >>> grid = torch.cartesian_prod(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]))
        >>> grid_probabilities(grid, rho=0.5)  # equal signs are likelier
        tensor([0.3957, 0.1043, 0.1043, 0.3957], dtype=torch.float64)
    """
    precision = torch.linalg.inv(correlation_matrix(factors.shape[1], rho, structure))
    values = factors.double()
    exponent: Tensor = -0.5 * torch.einsum("ni,ij,nj->n", values, precision, values)
    return torch.softmax(exponent, 0)
