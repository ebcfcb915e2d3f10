"""Readers of published data sets whose factors form a grid: 3D Shapes, dSprites, MPI3D. The user brings the file."""

from __future__ import annotations

from os import PathLike
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsesvm._files import load_arrays

__all__ = ["FactorData", "load_3dshapes", "load_dsprites", "load_mpi3d"]


class FactorData(NamedTuple):
    """Pictures and the factors they were made from.

    Attributes:
        images: (n, channels, height, width) uint8.
        factors: (n, n_factors) float32, each standardised over the whole grid.
        names: of the factors.
    """

    images: Tensor
    factors: Tensor
    names: tuple[str, ...]


_3DSHAPES = ("floor hue", "wall hue", "object hue", "scale", "shape", "orientation")
_DSPRITES = ("shape", "scale", "orientation", "x", "y")
_MPI3D = ("object color", "object shape", "object size", "camera height", "background color", "first axis", "second axis")
_MPI3D_SIZES = ((6, 6, 2, 3, 3, 40, 40), (4, 4, 2, 3, 3, 40, 40))


def load_3dshapes(path: str | PathLike[str]) -> FactorData:
    """3D Shapes from `3dshapes.h5` (Burgess and Kim 2018): arrays "images" (n, 64, 64, 3) and "labels" (n, 6).

    Raises:
        ModuleNotFoundError: without h5py.
        ValueError: when the file holds other arrays.

    Example:
        >>> import h5py, numpy
        >>> from sparsesvm.factors import load_3dshapes
        >>> with h5py.File("3dshapes.h5", "w") as file:  # as the real one, but smaller
        ...     file["images"] = numpy.zeros((2, 64, 64, 3), numpy.uint8)
        ...     file["labels"] = numpy.array([[0.0] * 6, [1.0] * 6])
        >>> load_3dshapes("3dshapes.h5").images.shape
        torch.Size([2, 3, 64, 64])
    """
    try:
        import h5py
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError("load_3dshapes needs h5py: pip install h5py") from missing
    with h5py.File(path, "r") as file:
        lacking = [name for name in ("images", "labels") if name not in file]
        if lacking:
            raise ValueError(f"{path} must hold an array {lacking[0]!r}; it holds {', '.join(sorted(file)) or 'none'}")
        return _data(file["images"][:], file["labels"][:], _3DSHAPES, path)


def load_dsprites(path: str | PathLike[str]) -> FactorData:
    """dSprites from its `.npz` (Matthey et al. 2017): arrays "imgs" (n, 64, 64) and "latents_values" (n, 6), of which the
    constant colour is left out.

    Raises:
        ValueError: when the file holds other arrays.

    Example:
        >>> import numpy
        >>> from sparsesvm.factors import load_dsprites
        >>> values = numpy.array([[1.0] * 6, [2.0] * 6])
        >>> images = numpy.ones((2, 64, 64), numpy.uint8)  # the real file has 737,280
        >>> numpy.savez("dsprites.npz", imgs=images, latents_values=values)
        >>> load_dsprites("dsprites.npz").factors
        tensor([[-1., -1., -1., -1., -1.],
                [ 1.,  1.,  1.,  1.,  1.]])
    """
    file = load_arrays(path, ("imgs", "latents_values"))
    return _data(file["imgs"][..., None] * np.uint8(255), file["latents_values"][:, 1:], _DSPRITES, path)


def load_mpi3d(path: str | PathLike[str]) -> FactorData:
    """MPI3D from one of its `.npz` files (Gondal et al. 2019): the array "images" (n, height, width, 3), whose order is the grid
    of its seven factors; `n` tells the four files with simple objects from the one with real-world objects.

    Raises:
        ValueError: when the file holds no such array, or of another length.

    Example:
        >>> import numpy
        >>> from sparsesvm.factors import load_mpi3d
        >>> numpy.savez("mpi3d.npz", images=numpy.zeros((460_800, 1, 1, 3), numpy.uint8))  # as the real one, but a pixel each
        >>> load_mpi3d("mpi3d.npz").factors.shape
        torch.Size([460800, 7])
    """
    images = load_arrays(path, ("images",))["images"]
    sizes = next((sizes for sizes in _MPI3D_SIZES if np.prod(sizes) == len(images)), None)
    if sizes is None:
        lengths = " or ".join(str(int(np.prod(sizes))) for sizes in _MPI3D_SIZES)
        raise ValueError(f"{path} must hold {lengths} images, the grid of MPI3D; got {len(images)}")
    return _data(images, np.stack(np.unravel_index(np.arange(len(images)), sizes), 1), _MPI3D, path)


def _data(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.generic], names: tuple[str, ...], path: object) -> FactorData:
    if labels.shape != (len(images), len(names)):
        raise ValueError(f"{path} must hold {len(names)} factors for each of {len(images)} images; got shape {labels.shape}")
    values = labels.astype(np.float64)
    spread = values.std(0)
    factors = (values - values.mean(0)) / np.where(spread > 0, spread, 1)
    return FactorData(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(factors).float(), names)
