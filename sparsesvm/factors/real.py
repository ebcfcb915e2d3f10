"""Real recordings with a few known discrete factors: handwriting (alphabet, character, drawer), speech (digit, speaker)."""

from __future__ import annotations

from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsesvm._files import load_arrays

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


def load_omniglot(path: str | PathLike[str]) -> LabelledImages:
    """Omniglot (Lake, Salakhutdinov and Tenenbaum 2015) from an `.npz` with "images28" (n, 28, 28), "alphabet", "character",
    "drawer" and the names of the first two. Drawer k of two alphabets is not the same person.

    Raises:
        ValueError: when the file or an array is missing.

    Example:
        >>> import numpy
        >>> from sparsesvm.factors import load_omniglot
        >>> numbers = {"alphabet": [0, 0], "character": [0, 1], "drawer": [0, 0]}
        >>> numpy.savez("omniglot.npz", images28=numpy.zeros((2, 28, 28), numpy.uint8), **numbers)
        >>> load_omniglot("omniglot.npz").labels
        tensor([[0, 0, 0],
                [0, 1, 0]])
    """
    return _read(path, "images28", ("alphabet", "character", "drawer"))


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
    return _read(path, "images32", ("digit", "speaker"))


def _read(path: str | PathLike[str], images: str, factors: tuple[str, ...]) -> LabelledImages:
    file = load_arrays(path, (images, *factors), [f"{name}_names" for name in factors])
    pictures = torch.from_numpy(file[images]).unsqueeze(1).float() / 255
    labels = torch.stack([torch.from_numpy(file[name].astype(np.int64)) for name in factors], 1)
    values = []
    for number, name in enumerate(factors):
        names = file.get(f"{name}_names", range(int(labels[:, number].max()) + 1))
        values.append(tuple(str(value) for value in names))
    return LabelledImages(pictures, labels, factors, tuple(values))
