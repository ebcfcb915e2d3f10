"""Readers of labelled images: scikit-learn's digits, arrays, class folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsesvm._files import DataError, class_codes, load_arrays
from sparsesvm.meta.images import (
    SPLITS,
    Files,
    ImageSet,
    Reader,
    check_split,
    find_entry,
    find_files,
    find_folders,
    read_image,
    read_text,
    to_channels_first,
)


class Digits(Reader):
    """The handwritten digits that come with scikit-learn, 8x8: 0 to 4 for training and validation, 5 to 9 for testing.

    Validation uses the last fifth of the images of each training class: there are too few digits to hold classes out.
    """

    def read(self, split: str) -> ImageSet:
        check_split(split)
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
    1 or 3 channels; `labels`, (n,) integers or names; and `split`, (n,) of "train", "val" and "test" (or 0, 1, 2), which may be
    left out if every split shall be all the data. A class may not be in two splits.

    Args:
        root: the file.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def read(self, split: str) -> ImageSet:
        check_split(split)
        data = load_arrays(self.root, ("images", "labels"), ("split",))
        images = to_channels_first(data["images"], self.root)
        names, codes = class_codes(data["labels"], len(images), f"{self.root}: labels")
        if "split" not in data:
            return ImageSet(images, codes, names)
        splits, of_image = class_codes(data["split"], len(images), f"{self.root}: split")
        wanted = [number for number, name in enumerate(splits) if str(name) in (split, str(SPLITS.index(split)))]
        chosen = np.isin(of_image, wanted)
        if not chosen.any():
            raise DataError(f"{self.root} has no images of split {split!r}; its splits are {splits.tolist()}")
        shared = np.intersect1d(codes[chosen], codes[~chosen])
        if len(shared):
            raise DataError(
                f"{self.root}: class {names[shared[0]]} is in {split!r} and in another split; classes must be disjoint"
            )
        present, codes = np.unique(codes[chosen], return_inverse=True)
        return ImageSet(images[torch.from_numpy(chosen)], codes, names[present])


class ClassFolders(Reader):
    """Images in one folder per class, split as their users have them (miniImageNet, tieredImageNet, CIFAR-FS, FC100, ...).

    For each split the first of these that exists is taken:

    - `root/train`, `root/val`, `root/test`: a folder per class inside;
    - `root/train.csv` ...: a header and rows `filename,label`, also with semicolons or tabs and further columns, the files in
      `root/images`;
    - `root/train.txt` ...: one class name per line, the class folders in `root`, `root/images` or `root/data`.

    Hidden and system files are left aside; files of a kind that cannot be read are refused, not left out.

    Args:
        root: the folder.
        size: images are resized and cropped to squares of this side.
        channels: 3 colour, 1 grey.
        invert: turn dark on light into light on dark, e.g. for drawings.
        split: for a `root` that holds a folder per class and no splits: the shares of the classes for training, validation and
            test, which add up to 1. Which class goes where depends on the names of the classes alone.
    """

    def __init__(
        self,
        root: str,
        size: int = 84,
        channels: int = 3,
        invert: bool = False,
        split: tuple[float, float, float] | None = None,
    ) -> None:
        if split is not None and (len(split) != 3 or min(split) < 0 or abs(sum(split) - 1) > 1e-6):
            raise ValueError(f"split must be three shares >= 0 that add up to 1, such as 0.6, 0.2, 0.2; got {split}")
        if size < 1 or channels not in (1, 3):
            raise ValueError(f"size must be positive and channels 1 or 3; got {size} and {channels}")
        self.root, self.size, self.channels, self.invert, self.split = root, size, channels, invert, split

    def open(self, paths: Sequence[Path]) -> Tensor:
        images = torch.stack([read_image(path, self.size, self.channels) for path in paths])
        return 255 - images if self.invert else images

    def read(self, split: str) -> ImageSet:
        check_split(split)
        root = Path(self.root)
        if not root.is_dir():
            raise DataError(f"root must be a folder of images; {root} is not there")
        folder, table, names = root / split, root / f"{split}.csv", root / f"{split}.txt"
        if self.split is not None:
            classes = _part(root, SPLITS.index(split), self.split)
        elif folder.is_dir():
            classes = find_folders(folder)
        elif table.is_file():
            classes = _read_table(table, root / "images")
        elif names.is_file():
            classes = _named_folders(names, root)
        else:
            raise DataError(
                f"no {split} split in {root}: neither folder {folder.name}/ nor file {table.name} nor {names.name}. "
                "A folder per class and no more is read with `split`, the shares of the classes."
            )
        paths = [path for files in classes.values() for path in files]
        labels = [label for label, files in enumerate(classes.values()) for _ in files]
        return ImageSet(Files(paths, self), labels, list(classes))


def _part(root: Path, number: int, shares: Sequence[float]) -> dict[str, list[Path]]:
    """The classes of one of the splits, which have these shares of all."""
    held = [split for split in SPLITS if (root / split).is_dir()]
    if held:
        raise DataError(f"split is for a folder per class; this root holds {', '.join(held)}. Leave split out to use them.")
    classes = find_folders(root)
    names = sorted(classes)
    np.random.default_rng(0).shuffle(names)
    first, last = (round(len(names) * sum(shares[:end])) for end in (number, number + 1))
    return {name: classes[name] for name in sorted(names[first:last])}


def _read_table(table: Path, folder: Path) -> dict[str, list[Path]]:
    text = read_text(table)
    header = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets write semicolons where the comma is the decimal sign
    rows = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=delimiter, skipinitialspace=True)
    labels: dict[Path, str] = {}
    try:
        columns = [name.strip().lower() for name in next(rows, [])]
        if not {"filename", "label"} <= set(columns):
            raise DataError(f"{table} must have the columns filename,label; got {columns}")
        for row in filter(any, rows):
            named = dict(zip(columns, (cell.strip() for cell in row), strict=False))
            if not named.get("filename") or not named.get("label"):
                raise DataError(f"{table} lacks a filename or a label in line {rows.line_num}: {row}")
            path = find_entry(named["filename"], folder)
            if path is None:
                raise DataError(f"{table} names {named['filename']}, which is not in {folder}")
            if labels.setdefault(path, named["label"]) != named["label"]:
                raise DataError(f"{table} gives {named['filename']} two labels, {labels[path]} and {named['label']}")
    except csv.Error as error:
        raise DataError(f"{table} cannot be read as a table, line {rows.line_num}: {error}") from error
    if not labels:
        raise DataError(f"{table} names no images")
    classes: dict[str, list[Path]] = {}
    for path, label in labels.items():
        classes.setdefault(label, []).append(path)
    return classes


def _named_folders(names: Path, root: Path) -> dict[str, list[Path]]:
    classes: dict[str, list[Path]] = {}
    for name in filter(None, map(str.strip, read_text(names).splitlines())):
        folder = find_entry(name, root, root / "images", root / "data")
        if folder is None or not folder.is_dir():
            raise DataError(f"{names} names class {name}, which has no folder in {root}, {root / 'images'} or {root / 'data'}")
        classes[name] = find_files(folder)
    if not classes:
        raise DataError(f"{names} names no classes")
    return classes
