"""Random changes of images, in batched torch operations."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

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

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator | None = None,
        *,
        of_classes: Augment | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Change images (n, channels, height, width) of a floating-point type, each anew.

        Args:
            generator: of the amounts.
            of_classes: first change all images of a class alike, by these amounts: each draw makes new classes. Its brightness
                and filling do not count. Both changes together resample the image once.
            labels: (n,) classes 0, 1, ..., needed for that.
        """
        n = len(images)
        if n == 0:
            return images
        warps = [self._draw(n, generator)] if self._moves else []
        if of_classes is not None:
            if labels is None:
                raise ValueError("of_classes needs labels; got None")
            warps.append(of_classes._draw(int(labels.max()) + 1, generator).of(labels.cpu()))
        if warps:
            points = functional.affine_grid(torch.eye(2, 3).expand(n, 2, 3), [n, 1, *images.shape[-2:]], align_corners=False)
            for warp in warps:
                points = warp(points)
            padding = "reflection" if self.reflect else "zeros"
            points = points.to(images.device, images.dtype)
            images = functional.grid_sample(images, points, padding_mode=padding, align_corners=False)
        if self.brightness:
            factor = 1 + (2 * torch.rand(n, 1, 1, 1, generator=generator) - 1) * self.brightness
            images = images * factor.to(images.device, images.dtype)
        return images

    @property
    def _moves(self) -> bool:
        return bool(self.shift or self.rotate or self.scale or self.shear or self.elastic or self.flip)

    def _draw(self, n: int, generator: torch.Generator | None) -> _Warp:
        def uniform(limit: float, *shape: int) -> Tensor:
            return (2 * torch.rand(n, *shape, generator=generator) - 1) * limit

        angle, slope = uniform(math.radians(self.rotate)), uniform(self.shear)
        stretch, offset = uniform(self.scale, 2).exp(), uniform(2 * self.shift, 1, 1, 2)
        if self.flip:
            stretch[:, 0] *= torch.randint(2, (n,), generator=generator) * 2 - 1
        cos, sin = angle.cos(), angle.sin()
        # Rotation, then shear, then stretch.
        rows = torch.stack([torch.stack([cos + slope * sin, slope * cos - sin], -1), torch.stack([sin, cos], -1)], 1)
        bend = torch.randn(n, 2, 5, 5, generator=generator) * (2 * self.elastic) if self.elastic else None
        return _Warp(rows * stretch[:, :, None], offset, bend)


class _Warp(NamedTuple):
    """Where the pixels of each image look, in the units of `grid_sample`, where a side is 2 long."""

    matrix: Tensor  # (n, 2, 2)
    offset: Tensor  # (n, 1, 1, 2)
    bend: Tensor | None  # (n, 2, 5, 5), displacement at points all over the image

    def of(self, labels: Tensor) -> _Warp:
        return _Warp(self.matrix[labels], self.offset[labels], None if self.bend is None else self.bend[labels])

    def __call__(self, points: Tensor) -> Tensor:
        moved = points @ self.matrix.mT.unsqueeze(1) + self.offset
        if self.bend is not None:
            fine = functional.interpolate(self.bend, (17, 17), mode="bicubic", align_corners=True)
            bent = functional.grid_sample(fine, points, padding_mode="border", align_corners=True)
            moved = moved + bent.permute(0, 2, 3, 1)
        return moved


def rotate_classes(images: Tensor, quarters: Tensor) -> Tensor:
    """Images (n, channels, height, width), each turned by its number of quarter turns (n,) in 0 to 3; needs square images.

    Example:
        >>> import torch
        >>> from sparsesvm.meta import rotate_classes
        >>> image = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
        >>> rotate_classes(image, torch.tensor([1])).flatten()  # a quarter turn to the left
        tensor([1., 0., 0., 0.])
    """
    turned = images
    for quarter in (1, 2, 3):
        chosen = quarters == quarter
        if chosen.any():
            turned = turned.clone() if turned is images else turned
            turned[chosen] = images[chosen].rot90(quarter, (-2, -1))
    return turned
