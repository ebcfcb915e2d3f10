"""A fixed random network that mixes factors into observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsesvm import _checks

__all__ = ["RandomMLP"]


class RandomMLP(nn.Module):
    """Observations (..., n_outputs) of factors (..., n_factors): leaky ReLU layers with orthogonal random weights, frozen.

    No layer is narrower than the one before, so that the map is injective.

    Args:
        n_factors: number of inputs.
        n_outputs: width of all layers, at least n_factors.
        n_layers: linear layers.
        seed: of the weights.
    """

    def __init__(self, n_factors: int, n_outputs: int = 64, n_layers: int = 3, seed: int = 0) -> None:
        super().__init__()
        n_factors = _checks.check_integer("n_factors", n_factors, minimum=1)
        n_outputs = _checks.check_integer("n_outputs", n_outputs, minimum=1)
        n_layers = _checks.check_integer("n_layers", n_layers, minimum=1)
        if n_outputs < n_factors:
            raise ValueError(f"n_outputs must be at least n_factors = {n_factors}, or factors are lost; got {n_outputs}")
        self.n_factors = n_factors
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for layer in range(n_layers):
            linear = nn.Linear(n_factors if layer == 0 else n_outputs, n_outputs)
            nn.init.orthogonal_(linear.weight, generator=generator)
            nn.init.uniform_(linear.bias, -0.5, 0.5, generator=generator)
            layers += [linear, nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers[:-1]).requires_grad_(False)

    def forward(self, factors: Tensor) -> Tensor:
        """See the class."""
        observations: Tensor = self.layers(factors)
        return observations
