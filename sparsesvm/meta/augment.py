"""Random changes of images, in batched torch operations."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augment:
    """Move, turn, stretch, bend and mirror every image of a batch by its own random amount.

    Pixels from outside the image are zero, unless `reflect`. All amounts are drawn on the CPU from the generator given, so that a
    seed means the same on every device.

    Args:
        shift: largest move along each axis, as a share of the side.
        rotate: largest angle in degrees.
        scale: largest logarithm of the factor of each axis; 0.1 stretches or shrinks by up to 10 %.
        shear: largest shear.
        elastic: standard deviation, as a share of the side, of a smooth displacement given at 5 by 5 points.
        flip: mirror left to right every second image, at random.
        brightness: images are multiplied by a factor from 1 - brightness to 1 + brightness.
        reflect: fill what comes from outside by reflection, for photographs.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    elastic: float = 0.0
    flip: bool = False
    brightness: float = 0.0
    reflect: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} must be finite and >= 0; got {value}")

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images (n, channels, height, width) of a floating-point type, each changed anew."""
        n = len(images)
        if n == 0:
            return images

        def uniform(limit: float, *shape: int) -> Tensor:
            return (2 * torch.rand(n, *shape, generator=generator) - 1) * limit

        angle, slope = uniform(math.radians(self.rotate)), uniform(self.shear)
        stretch, offset = uniform(self.scale, 2).exp(), uniform(2 * self.shift, 2)
        if self.flip:
            stretch[:, 0] *= torch.randint(2, (n,), generator=generator) * 2 - 1
        if self.shift or self.rotate or self.scale or self.shear or self.elastic or self.flip:
            cos, sin = angle.cos(), angle.sin()
            # Where each output pixel looks: rotation, then shear, then stretch.
            first = torch.stack([cos + slope * sin, slope * cos - sin, torch.zeros(n)], -1) * stretch[:, :1]
            second = torch.stack([sin, cos, torch.zeros(n)], -1) * stretch[:, 1:]
            matrix = torch.stack([first, second], 1)
            matrix[:, :, 2] = offset
            grid = functional.affine_grid(matrix, [n, 1, *images.shape[-2:]], align_corners=False)
            if self.elastic:
                grid = grid + self._displacement(n, images.shape[-2:], generator)
            padding = "reflection" if self.reflect else "zeros"
            grid = grid.to(images.device, images.dtype)
            images = functional.grid_sample(images, grid, padding_mode=padding, align_corners=False)
        if self.brightness:
            images = images * (1 + uniform(self.brightness, 1, 1, 1)).to(images.device, images.dtype)
        return images

    def _displacement(self, n: int, size: torch.Size, generator: torch.Generator | None) -> Tensor:
        """(n, height, width, 2), in the units of `grid_sample`, where a side is 2 long."""
        coarse = torch.randn(n, 2, 5, 5, generator=generator) * (2 * self.elastic)
        return functional.interpolate(coarse, list(size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def rotate_classes(images: Tensor, quarters: Tensor) -> Tensor:
    """Images (n, channels, height, width), each turned by its number of quarter turns (n,) in 0 to 3; needs square images."""
    turned = images
    for quarter in (1, 2, 3):
        chosen = quarters == quarter
        if chosen.any():
            turned = turned.clone() if turned is images else turned
            turned[chosen] = images[chosen].rot90(quarter, (-2, -1))
    return turned
