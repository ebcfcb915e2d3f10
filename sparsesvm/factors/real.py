"""Real recordings with a few known discrete factors: handwriting (alphabet, character, drawer), speech (digit, speaker)."""

from __future__ import annotations

from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsesvm._files import DataError, load_arrays
from sparsesvm._shrink import shrink

__all__ = ["LabelledImages", "load_omniglot", "load_spoken_digits"]


class LabelledImages(NamedTuple):
    """Pictures with discrete factors.

    Attributes:
        images: (n, 1, height, width) float32 in [0, 1].
        labels: (n, n_factors) int64, the value of each factor from zero.
        names: of the factors.
        values: for each factor, the names of its values.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]


def load_omniglot(path: str | PathLike[str], size: int = 28) -> LabelledImages:
    """Omniglot (Lake, Salakhutdinov and Tenenbaum 2015) from an `.npz` with "images105_packed" (n, 1379), the bits of 105x105
    pixels, or "images28" (n, 28, 28), "alphabet", "character", perhaps "drawer", and the names of the first two. Drawer k of two
    alphabets is not the same person.

    Args:
        size: side of the images, by averaging over areas.

    Raises:
        ValueError: when the file or an array is missing, or images28 are not uint8.

    Example:
        >>> import numpy
        >>> from sparsesvm.factors import load_omniglot
        >>> numbers = {"alphabet": [0, 0], "character": [0, 1], "drawer": [0, 0]}
        >>> numpy.savez("omniglot.npz", images28=numpy.zeros((2, 28, 28), numpy.uint8), **numbers)
        >>> load_omniglot("omniglot.npz").labels
        tensor([[0, 0, 0],
                [0, 1, 0]])
    """
    drawings = load_arrays(path, (), ("images105_packed", "images28"))
    if "images105_packed" in drawings:
        ink = 255 * np.unpackbits(drawings["images105_packed"], axis=1, count=105 * 105).reshape(-1, 105, 105)
    elif "images28" in drawings:
        ink = drawings["images28"]
    else:
        raise DataError(f"{path} must hold images105_packed or images28; it holds neither")
    return _labelled(path, shrink(_grey(path, ink), size, size), ("alphabet", "character"), ("drawer",))


def load_spoken_digits(path: str | PathLike[str]) -> LabelledImages:
    """The Free Spoken Digit Dataset (Jackson et al.) from an `.npz` of log-mel pictures "images32" (n, 32, 32) with "digit",
    "speaker" and "speaker_names".

    Raises:
        ValueError: when the file or an array is missing.

    Example:
        >>> import numpy
        >>> from sparsesvm.factors import load_spoken_digits
        >>> pictures = numpy.zeros((2, 32, 32), numpy.uint8)
        >>> numpy.savez("spoken.npz", images32=pictures, digit=[3, 4], speaker=[0, 0], speaker_names=["jackson"])
        >>> load_spoken_digits("spoken.npz").values[1]
        ('jackson',)
    """
    return _labelled(path, _grey(path, load_arrays(path, ("images32",))["images32"]), ("digit", "speaker"))


def _grey(path: str | PathLike[str], images: NDArray[Any]) -> Tensor:
    """(n, 1, height, width) uint8."""
    if images.dtype != np.uint8 or images.ndim != 3:
        raise DataError(f"{path}: images must be uint8 (n, height, width); got {images.dtype} {images.shape}")
    return torch.from_numpy(images).unsqueeze(1)


def _labelled(
    path: str | PathLike[str], images: Tensor, factors: tuple[str, ...], optional: tuple[str, ...] = ()
) -> LabelledImages:
    file = load_arrays(path, factors, [*optional, *(f"{name}_names" for name in factors)])
    factors = (*factors, *(name for name in optional if name in file))
    labels = torch.stack([torch.from_numpy(file[name].astype(np.int64)) for name in factors], 1)
    values = []
    for number, name in enumerate(factors):
        names = file.get(f"{name}_names", range(int(labels[:, number].max()) + 1))
        values.append(tuple(str(value) for value in names))
    return LabelledImages(images.float() / 255, labels, factors, tuple(values))
