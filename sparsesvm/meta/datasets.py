"""Readers of labelled images. None of them loads a pickle."""

from __future__ import annotations

import csv
import hashlib
import os
import urllib.request
import zipfile
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


class Digits(Reader):
    """The handwritten digits that come with scikit-learn, 8x8: 0 to 4 for training and validation, 5 to 9 for testing.

    Validation uses the last fifth of the images of each training class: there are too few digits to hold classes out.
    """

    def read(self, split: str) -> ImageSet:
        _check_split(split)
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        target = bunch.target.astype(np.int64)
        if split == "test":
            chosen = np.flatnonzero(target >= 5)
        else:
            parts = []
            for digit in range(5):
                members = np.flatnonzero(target == digit)
                kept = len(members) - len(members) // 5
                parts.append(members[:kept] if split == "train" else members[kept:])
            chosen = np.concatenate(parts)
        first = 5 if split == "test" else 0
        return ImageSet(images[torch.from_numpy(chosen)], target[chosen] - first, [str(first + d) for d in range(5)])


class Arrays(Reader):
    """Images from an `.npz` or `.pt` file.

    The file holds `images`, uint8 of shape (n, height, width), (n, height, width, channels) or (n, channels, height, width), with
    1 or 3 channels; `labels`, (n,) integers; and `split`, (n,) of "train", "val" and "test" (or 0, 1, 2), which may be left out
    if every split shall be all the data. A class may not be in two splits.

    Args:
        root: the file.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, split: str) -> ImageSet:
        _check_split(split)
        data = load_arrays(self.root, ("images", "labels"))
        images, labels = to_channels_first(data["images"], self.root), np.asarray(data["labels"])
        if "split" in data:
            of_image = np.asarray(data["split"])
            wanted = split if of_image.dtype.kind in "US" else SPLITS.index(split)
            of_image = of_image.astype(str) if of_image.dtype.kind == "S" else of_image
            chosen = of_image == wanted
            if not chosen.any():
                raise DataError(f"{self.root} has no images of split {split!r}; its splits are {np.unique(of_image).tolist()}")
            shared = np.intersect1d(labels[chosen], labels[~chosen])
            if len(shared):
                raise DataError(f"{self.root}: class {shared[0]} is in {split!r} and in another split; classes must be disjoint")
            images, labels = images[torch.from_numpy(chosen)], labels[chosen]
        names, codes = np.unique(labels, return_inverse=True)
        return ImageSet(images, codes, [str(name) for name in names])


class ClassFolders(Reader):
    """Images in one folder per class, split as their users have them (miniImageNet, tieredImageNet, CIFAR-FS, FC100, ...).

    For each split the first of these that exists is taken:

    - `root/train`, `root/val`, `root/test`: a folder per class inside;
    - `root/train.csv` ...: a header and rows `filename,label`, the files in `root/images`;
    - `root/train.txt` ...: one class name per line, the class folders in `root`, `root/images` or `root/data`.

    Args:
        root: the folder.
        size: images are resized and cropped to squares of this side.
        channels: 3 colour, 1 grey.
        invert: turn dark on light into light on dark, e.g. for drawings.
    """

    def __init__(self, root: str, size: int = 84, channels: int = 3, invert: bool = False) -> None:
        if size < 1 or channels not in (1, 3):
            raise ValueError(f"size must be positive and channels 1 or 3; got {size} and {channels}")
        self.root, self.size, self.channels, self.invert = root, size, channels, invert

    def open(self, paths: Sequence[Path]) -> Tensor:
        images = torch.stack([read_image(path, self.size, self.channels) for path in paths])
        return 255 - images if self.invert else images

    def read(self, split: str) -> ImageSet:
        _check_split(split)
        root = Path(self.root)
        if not root.is_dir():
            raise DataError(f"root must be a folder of images; {root} is not there")
        folder, table, names = root / split, root / f"{split}.csv", root / f"{split}.txt"
        if folder.is_dir():
            classes = find_folders(folder)
        elif table.is_file():
            classes = _read_table(table, root / "images")
        elif names.is_file():
            classes = _named_folders(names, root)
        else:
            raise DataError(f"no {split} split in {root}: neither folder {folder.name}/ nor file {table.name} nor {names.name}")
        paths = [path for files in classes.values() for path in files]
        labels = [label for label, files in enumerate(classes.values()) for _ in files]
        return ImageSet(Files(paths, self), labels, list(classes))


class Omniglot(Reader):
    """Handwritten characters of many alphabets; ink is 1 on 0. The groups are the alphabets.

    Args:
        root: an `.npz` file with `images105_packed` or `images28`, `character`, `alphabet`, `character_names`, `alphabet_names`;
            or a folder that holds, or shall hold, the official `images_background` and `images_evaluation`.
        train, val, test: names of alphabets. By default those the file says; of the folder, images_evaluation for test,
            every sixth alphabet of images_background for val and its others for train.
        size: side of the images, by averaging over the area of the original 105x105.
        download: fetch the official zip files into `root` (checked by their MD5 sums) if they are not there.
    """

    _URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
    _MD5 = {  # noqa: RUF012
        "images_background": "68d2efa1b9178cc56df9314c21c6e718",
        "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
    }

    def __init__(
        self,
        root: str,
        train: list[str] | None = None,
        val: list[str] | None = None,
        test: list[str] | None = None,
        size: int = 28,
        download: bool = False,
    ) -> None:
        self.root, self.size, self.download = root, size, download
        self.alphabets = {"train": train, "val": val, "test": test}

    def read(self, split: str) -> ImageSet:
        _check_split(split)
        return self._read_npz(split) if self.root.endswith(".npz") else self._read_folder(split)

    def _read_npz(self, split: str) -> ImageSet:
        data = load_arrays(self.root, ("character", "alphabet", "character_names", "alphabet_names"))
        names = [str(name) for name in data["alphabet_names"]]
        wanted = self.alphabets[split]
        if wanted is None:
            if "alphabet_split" not in data:
                raise DataError(f"{self.root} does not say how to split; give {split} as a list of alphabets out of {names}")
            wanted = [name for name, part in zip(names, data["alphabet_split"], strict=True) if SPLITS[part] == split]
        self._check_alphabets(split, wanted, names)
        chosen = np.isin(data["alphabet"], [names.index(name) for name in wanted])
        if "images105_packed" in data:
            bits = np.unpackbits(data["images105_packed"][chosen], axis=1, count=105 * 105)
            images = shrink(torch.from_numpy(bits).reshape(-1, 1, 105, 105) * 255, self.size, self.size)
        else:
            images = shrink(to_channels_first(data["images28"][chosen], self.root), self.size, self.size)
        classes, codes = np.unique(data["character"][chosen], return_inverse=True)
        groups = [int(data["alphabet"][chosen][codes == code][0]) for code in range(len(classes))]
        return ImageSet(images, codes, [str(data["character_names"][c]) for c in classes], groups)

    def _read_folder(self, split: str) -> ImageSet:
        root = Path(self.root)
        folders: dict[str, dict[str, Path]] = {}
        for part in self._MD5:
            if not (root / part).is_dir() and self.download:
                self._fetch(part, root)
            if (root / part).is_dir():
                folders[part] = {path.name: path for path in sorted((root / part).iterdir()) if path.is_dir()}
        if not folders:
            raise DataError(
                f"no Omniglot in {root}: neither images_background/ nor images_evaluation/. Unpack the official zip files there, "
                "set download, or give the .npz file as root."
            )
        background, evaluation = folders.get("images_background", {}), folders.get("images_evaluation", {})
        held_out = set(list(background)[5::6])
        default = {"train": [n for n in background if n not in held_out], "val": sorted(held_out), "test": list(evaluation)}
        wanted = self.alphabets[split]
        alphabets = {**background, **evaluation}
        if wanted is None:
            wanted = default[split]
        self._check_alphabets(split, wanted, list(alphabets))
        paths: list[Path] = []
        labels: list[int] = []
        names: list[str] = []
        groups: list[int] = []
        for group, name in enumerate(wanted):
            for character, files in find_folders(alphabets[name]).items():
                labels += [len(names)] * len(files)
                paths += files
                names.append(f"{name}/{character}")
                groups.append(group)
        return ImageSet(self.open(paths), labels, names, groups)  # small enough to keep in memory

    def open(self, paths: Sequence[Path]) -> Tensor:
        # The files are black on white.
        return torch.cat([shrink(255 - read_image(path, None, 1).unsqueeze(0), self.size, self.size) for path in paths])

    def _check_alphabets(self, split: str, wanted: list[str], present: list[str]) -> None:
        absent = [name for name in wanted if name not in present]
        if absent or not wanted:
            raise DataError(f"{split} must name alphabets that are in {self.root}, {present}; got {absent or wanted}")

    def _fetch(self, part: str, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        archive = root / f"{part}.zip"
        try:
            with urllib.request.urlopen(f"{self._URL}{part}.zip", timeout=60) as answer:
                content = answer.read()
        except OSError as error:
            raise DataError(f"cannot download {self._URL}{part}.zip: {error}. Put it unpacked into {root} by hand.") from error
        found = hashlib.md5(content).hexdigest()
        if found != self._MD5[part]:
            raise DataError(f"{self._URL}{part}.zip has MD5 sum {found} where {self._MD5[part]} is expected; nothing is kept")
        archive.write_bytes(content)
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(root)
        archive.unlink()


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


def _check_split(split: str) -> None:
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


def _read_table(table: Path, folder: Path) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    with open(table, newline="") as opened:
        rows = csv.DictReader(opened)
        if not {"filename", "label"} <= set(rows.fieldnames or ()):
            raise DataError(f"{table} must have the columns filename,label; got {rows.fieldnames}")
        for row in rows:
            path = folder / row["filename"]
            if not path.is_file():
                raise DataError(f"{table} names {row['filename']}, which is not in {folder}")
            classes.setdefault(row["label"], []).append(path)
    if not classes:
        raise DataError(f"{table} names no images")
    return classes


def _named_folders(names: Path, root: Path) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    for name in names.read_text().split():
        places = [place / name for place in (root, root / "images", root / "data") if (place / name).is_dir()]
        if not places:
            raise DataError(f"{names} names class {name}, which has no folder in {root}, {root / 'images'} or {root / 'data'}")
        classes[name] = find_files(places[0])
    if not classes:
        raise DataError(f"{names} names no classes")
    return classes


def to_channels_first(images: NDArray[Any], where: str) -> Tensor:
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(f"{where}: images must be uint8 with 3 or 4 dimensions; got {images.dtype} {images.shape}")
    pixels = torch.from_numpy(images)
    if pixels.dim() == 3:
        return pixels.unsqueeze(1)
    return pixels if pixels.shape[1] in (1, 3) else pixels.permute(0, 3, 1, 2).contiguous()
