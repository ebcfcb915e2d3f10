"""Omniglot: handwritten characters of many alphabets (Lake et al. 2015)."""

from __future__ import annotations

import hashlib
import urllib.request
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsesvm._files import DataError, load_arrays
from sparsesvm._shrink import shrink
from sparsesvm.factors.real import load_omniglot
from sparsesvm.meta.images import SPLITS, ImageSet, Reader, check_split, find_folders, read_image, visible


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
        check_split(split)
        return self._read_npz(split) if self.root.endswith(".npz") else self._read_folder(split)

    def _read_npz(self, split: str) -> ImageSet:
        images, labels, _, (alphabets, characters, *_) = load_omniglot(self.root, self.size)
        parts = load_arrays(self.root, (), ("alphabet_split",)).get("alphabet_split")
        default = None if parts is None else [name for name, part in zip(alphabets, parts, strict=True) if SPLITS[part] == split]
        chosen = np.isin(labels[:, 0], [alphabets.index(name) for name in self._wanted(split, alphabets, default)])
        of_image = labels[torch.from_numpy(chosen), :2].numpy()
        classes, first, codes = np.unique(of_image[:, 1], return_index=True, return_inverse=True)
        pixels = (255 * images[torch.from_numpy(chosen)]).round().to(torch.uint8)
        return ImageSet(pixels, codes, [characters[c] for c in classes], of_image[first, 0].tolist())

    def _read_folder(self, split: str) -> ImageSet:
        root = Path(self.root)
        folders: dict[str, dict[str, Path]] = {}
        for part in self._MD5:
            if not (root / part).is_dir() and self.download:
                self._fetch(part, root)
            if (root / part).is_dir():
                folders[part] = {path.name: path for path in visible(root / part) if path.is_dir()}
        if not folders:
            raise DataError(
                f"no Omniglot in {root}: neither images_background/ nor images_evaluation/. Unpack the official zip files there, "
                "set download, or give the .npz file as root."
            )
        background, evaluation = folders.get("images_background", {}), folders.get("images_evaluation", {})
        held_out = set(list(background)[5::6])
        default = {"train": [n for n in background if n not in held_out], "val": sorted(held_out), "test": list(evaluation)}
        alphabets = {**background, **evaluation}
        wanted = self._wanted(split, alphabets, default[split])
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

    def _wanted(self, split: str, present: Collection[str], default: Sequence[str] | None) -> Sequence[str]:
        """The alphabets of a split."""
        given = self.alphabets[split]
        wanted = default if given is None else given
        if wanted is None:
            raise DataError(f"{self.root} does not say how to split; give {split} as a list of alphabets out of {list(present)}")
        absent = [name for name in wanted if name not in present]
        if absent or not wanted:
            raise DataError(f"{split} must name alphabets that are in {self.root}, {list(present)}; got {absent or wanted}")
        return wanted

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
