"""Small coloured scenes with known factors, rendered in batches as they are needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsesvm import _checks
from sparsesvm.factors.latents import HALF_WIDTH

__all__ = ["SCENE_FACTORS", "SceneRenderer"]

# Each factor's range over the box: positions and size in units of half the picture, orientation in radians, hues in turns (less
# than a full turn, so that the two ends differ).
SCENE_FACTORS: dict[str, tuple[float, float]] = {
    "x": (-0.4, 0.4),
    "y": (-0.4, 0.4),
    "size": (0.35, 0.7),
    "shape": (1.0, 0.15),  # 1 / exponent of a superellipse: diamond, ellipse, rectangle
    "orientation": (-0.7, 0.7),
    "object_hue": (0.0, 0.75),
    "background_hue": (0.0, 0.75),
}
"""The factors and their ranges."""

_ASPECT = 1.8


class SceneRenderer(nn.Module):
    """Pictures (n, 3, resolution, resolution) in [0, 1] of factors (n, n_factors) on the box of `latents`.

    One object, a superellipse twice as long as wide, before a plain background; its edge is smooth, so that every factor moves
    the picture continuously. Deterministic, and differentiable in the factors.

    Args:
        factors: names out of `SCENE_FACTORS`, in the order of the columns; the others stay in the middle of their range.
        resolution: pixels along each side.
    """

    grid: Tensor

    def __init__(self, factors: Sequence[str] = tuple(SCENE_FACTORS), resolution: int = 32) -> None:
        super().__init__()
        unknown = [name for name in factors if name not in SCENE_FACTORS]
        if unknown or len(set(factors)) != len(factors) or not factors:
            raise ValueError(f"factors must be different names out of {', '.join(SCENE_FACTORS)}; got {tuple(factors)}")
        self.factors = tuple(factors)
        self.resolution = _checks.check_integer("resolution", resolution, minimum=2)
        self.register_buffer("grid", (torch.arange(resolution) + 0.5) / resolution * 2 - 1)

    @property
    def n_factors(self) -> int:
        """Number of columns of the factors."""
        return len(self.factors)

    def forward(self, factors: Tensor) -> Tensor:
        """See the class.

        Raises:
            ValueError: for another number of factors.
        """
        if factors.dim() != 2 or factors.shape[1] != self.n_factors:
            raise ValueError(f"factors must have shape (n, {self.n_factors}); got {tuple(factors.shape)}")
        setting = {name: self._value(name, factors).reshape(-1, 1, 1) for name in SCENE_FACTORS}
        right, up = self.grid - setting["x"], -self.grid.unsqueeze(1) - setting["y"]
        cosine, sine = setting["orientation"].cos(), setting["orientation"].sin()
        along = (cosine * right + sine * up) / setting["size"]
        across = _ASPECT * (cosine * up - sine * right) / setting["size"]
        exponent = 1 / setting["shape"]
        # A small constant keeps powers and roots differentiable on the axes.
        radius = ((along.square() + 1e-6) ** (exponent / 2) + (across.square() + 1e-6) ** (exponent / 2)) ** (1 / exponent)
        inside = torch.sigmoid((1 - radius) * setting["size"] * self.resolution).unsqueeze(1)
        return inside * _color(setting["object_hue"], 1.0) + (1 - inside) * _color(setting["background_hue"], 0.5)

    def _value(self, name: str, factors: Tensor) -> Tensor:
        low, high = SCENE_FACTORS[name]
        if name not in self.factors:
            return factors.new_full((len(factors),), (low + high) / 2)
        return low + (high - low) * (factors[:, self.factors.index(name)] / (2 * HALF_WIDTH) + 0.5)


def _color(hue: Tensor, value: float) -> Tensor:
    """Fully saturated colours (n, 3, 1, 1) of the hue, in turns."""
    turns = torch.stack([hue, hue - 1 / 3, hue - 2 / 3], 1)
    return value * (2 - 6 * (turns - turns.round()).abs()).clamp(0, 1)
