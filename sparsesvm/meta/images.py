"""Labelled images, and how files and arrays become them. No pickle is ever loaded."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from sparsesvm.meta.errors import DataError

SPLITS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")


class Files(NamedTuple):
    """Image files, read by their reader when asked for."""

    paths: Sequence[Path]
    reader: Reader


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Labelled images, in memory or read from files when asked for.

    Args:
        images: (n, channels, height, width) uint8, or n `Files`.
        labels: (n,) integers 0 to n_classes - 1, every class present.
        class_names: of all classes.
        class_groups: group (alphabet, superclass) of each class; None where there are no groups.
    """

    def __init__(
        self,
        images: Tensor | Files,
        labels: Sequence[int] | NDArray[np.integer[Any]] | Tensor,
        class_names: Sequence[str],
        class_groups: Sequence[int] | None = None,
    ) -> None:
        self.images, self.class_names, self.class_groups = images, list(class_names), class_groups
        self.labels = np.asarray(labels, dtype=np.int64)
        if isinstance(images, Tensor) and (images.dim() != 4 or images.dtype != torch.uint8):
            raise ValueError(f"images must be uint8 (n, channels, height, width); got {images.dtype} {tuple(images.shape)}")
        n = len(images) if isinstance(images, Tensor) else len(images.paths)
        if n != len(self.labels):
            raise ValueError(f"images and labels must be as many; got {n} and {len(self.labels)}")
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        if len(counts) > len(self.class_names) or not counts.all():
            raise ValueError(
                f"labels must be 0 to {len(self.class_names) - 1} with every class present; got counts {counts.tolist()}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.load(np.array([index]))[0], int(self.labels[index])

    def load(self, indices: NDArray[np.integer[Any]]) -> Tensor:
        """Images (n, channels, height, width), float32 from 0 to 1."""
        if isinstance(self.images, Tensor):
            return self.images[torch.as_tensor(indices)].float() / 255
        paths, reader = self.images
        return reader.open([paths[int(i)] for i in indices]).float() / 255


class Reader(ABC):
    """Where images come from."""

    @abstractmethod
    def read(self, split: str) -> ImageSet:
        """The images of a split: "train", "val" or "test"."""

    def open(self, paths: Sequence[Path]) -> Tensor:
        """Single files as the images of this reader, uint8 (n, channels, height, width)."""
        raise DataError(f"{type(self).__name__} does not read single image files; use an .npz file, or ClassFolders or Omniglot")


def load_arrays(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an `.npz` or `.pt` file, pickles refused; `names` must be among them."""
    if not os.path.isfile(path):
        raise DataError(f"there is no file {path}")
    data: dict[str, NDArray[Any]] = {}
    try:
        if str(path).endswith(".npz"):
            with np.load(path, allow_pickle=False) as opened:
                data = {name: opened[name] for name in opened.files}
        elif str(path).endswith((".pt", ".pth")):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            data = {str(name): np.asarray(value) for name, value in dict(loaded).items()}
        else:
            raise DataError(f"arrays are read from .npz and .pt files; got {path}")
    except DataError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise DataError(f"{path} cannot be read as arrays: {error}") from error
    missing = [name for name in names if name not in data]
    if missing:
        raise DataError(
            f"{path} must hold the arrays {', '.join(names)}; it lacks {', '.join(missing)} and has {', '.join(data)}"
        )
    return data


def read_image(path: Path, size: int | None, channels: int) -> Tensor:
    """One file as uint8 (channels, height, width); with `size` its shorter side is resized to it and the middle cropped."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    if size is not None and image.size != (size, size):
        factor = size / min(image.size)
        image = image.resize(
            (max(size, round(image.width * factor)), max(size, round(image.height * factor))), Image.Resampling.BILINEAR
        )
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


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


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")


def find_files(folder: Path) -> list[Path]:
    """The image files of a folder, at least one."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"class folder {folder} holds no images ({', '.join(SUFFIXES)}). Fill or remove it.")
    return files


def find_folders(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, by the name of its folder."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    classes = {path.name: find_files(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    if not classes:
        raise DataError(f"{folder} must hold a folder for each class; it holds none")
    return classes


def to_channels_first(images: NDArray[Any], where: str) -> Tensor:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{where}: images must be uint8 with 3 or 4 dimensions; got {images.dtype} {images.shape}")
    pixels = torch.from_numpy(images)
    if pixels.dim() == 3:
        return pixels.unsqueeze(1)
    return pixels if pixels.shape[1] in (1, 3) else pixels.permute(0, 3, 1, 2).contiguous()
