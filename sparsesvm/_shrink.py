"""Images to another size."""

from __future__ import annotations

import torch
from torch import Tensor


def shrink(images: Tensor, height: int, width: int) -> Tensor:
    """Images (n, channels, ...) to another size: every pixel is the mean over the area it covers; uint8 stays uint8."""
    if tuple(images.shape[-2:]) == (height, width):
        return images
    rows, columns = _overlaps(images.shape[-2], height), _overlaps(images.shape[-1], width)
    # In parts, because the pixels of many large images take little room as uint8 only.
    resized = torch.cat([rows @ part.float() @ columns.T for part in images.split(1024)])
    return resized.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else resized


def _overlaps(side: int, size: int) -> Tensor:
    """(size, side): what share of each new pixel every old pixel covers."""
    edges = torch.arange(size + 1, dtype=torch.float64) * side / size
    pixel = torch.arange(side, dtype=torch.float64)
    overlap = (torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)).clamp(min=0)
    return (overlap / overlap.sum(1, keepdim=True)).float()
