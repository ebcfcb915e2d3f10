"""Labelled images, and how files and arrays become them. No pickle is ever loaded."""

from __future__ import annotations

import codecs
import mimetypes
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from sparsesvm._files import DataError

SPLITS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
_SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
_REMEDY = "Scale them to 0 to 255 and convert with .astype(numpy.uint8)."
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")  # no other decoder sees a file, whatever its name says


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
        class_names: Sequence[Any] | NDArray[Any],
        class_groups: Sequence[int] | None = None,
    ) -> None:
        self.images, self.class_groups = images, class_groups
        self.class_names = [str(name) for name in class_names]
        codes = np.asarray(labels)
        if codes.dtype.kind not in "iu" and codes.size:
            raise ValueError(
                f"labels must be integers; got {codes.dtype}. numpy.unique(labels, return_inverse=True) gives names and numbers."
            )
        self.labels = codes.astype(np.int64)
        if isinstance(images, Tensor) and (images.dim() != 4 or images.dtype != torch.uint8):
            raise ValueError(f"images must be uint8 (n, channels, height, width); got {images.dtype} {tuple(images.shape)}")
        n = len(images) if isinstance(images, Tensor) else len(images.paths)
        if n != len(self.labels):
            raise ValueError(f"images and labels must be as many; got {n} and {len(self.labels)}")
        if self.labels.min(initial=0) < 0:
            raise ValueError(f"labels must be 0 to {len(self.class_names) - 1}; got {self.labels.min()}")
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


def read_image(path: Path, size: int | None, channels: int) -> Tensor:
    """One file as uint8 (channels, height, width), upright; with `size` its middle square, resized to that side."""
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            # A photograph of several lenses (MPO) begins with the picture that is shown.
            if getattr(opened, "is_animated", False) and opened.format != "MPO":
                raise DataError("it holds several frames or pages. Save the one that is meant as a file of its own")
            if opened.format == "PNG" and "transparency" in opened.info and opened.tile[0][3] in ("L;2", "L;4", "RGB;16B"):
                # Pillow compares its number with pixels that it has rescaled.
                raise DataError("one of its colours means transparent, at a depth that is misread. Save it with an alpha channel")
            image = to_eight_bits(opened)
    except Exception as error:  # whatever a damaged or hostile file makes Pillow raise
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def to_eight_bits(image: Image.Image) -> Image.Image:
    """The picture in mode "L" or "RGB" as a viewer shows it: upright, and on white where it is transparent. Colour profiles are
    left aside."""
    tags: Any = getattr(image, "tag_v2", {})  # of a TIFF file
    kind = image.format
    image.load()  # the orientation may stand at the end of a file
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or tags.get(339, (1,))[0] != 1 or (image.mode == "I" and kind not in ("PNG", "PPM")):
        raise DataError(
            "its pixels are floating-point, signed or of 32 bits, and nothing says which value is white. "
            "Save it with 8 or 16 bits for each colour"
        )
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut off at 255
        levels = np.asarray(image).astype(np.int64)
        white = 2 ** tags.get(258, (16,))[0] - 1
        grey = np.round(levels * (255 / white))
        grey[levels == image.info.get("transparency", -1)] = 255
        # Pillow turns light and dark where a TIFF file says that white is zero, but not for 16 bits.
        image = Image.fromarray((255 - grey if tags.get(262) == 0 else grey).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # which Pillow converts to nothing else
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def to_images(images: ArrayLike | Tensor | Sequence[Any], *, standardised: bool = False) -> Tensor:
    """Images of any origin as float32 (n, channels, height, width) from 0 to 1.

    Args:
        images: pictures of Pillow, or arrays or tensors: uint8, bool, or floating-point from 0 to 1; (n, height, width),
            (n, channels, height, width) or, with 1 or 3 channels, (n, height, width, channels).
        standardised: floating-point images may be standardised ones, which are kept as they are.

    Raises:
        DataError: naming what was required and what came.
    """
    if isinstance(images, list | tuple):
        parts = [to_tensor(np.asarray(to_eight_bits(i)) if isinstance(i, Image.Image) else i) for i in images]
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) > 1:
            raise DataError(f"images must be of one size, and all grey or all coloured; got {sorted(shapes)}. Convert them.")
        images = torch.stack(parts) if parts else torch.zeros(0, 1, 1, 1)
    pixels = to_tensor(images)
    readable = pixels.is_floating_point() or pixels.dtype in (torch.uint8, torch.bool)
    if not readable or pixels.dim() not in (3, 4) or len(pixels) == 0:
        raise DataError(
            "images must be uint8, bool or floating-point, (n, height, width) or (n, channels, height, width), n > 0; "
            f"got {pixels.dtype} {tuple(pixels.shape)}." + ("" if readable else f" {_REMEDY}")
        )
    pixels = _channels_first(pixels)
    if not pixels.is_floating_point():
        return pixels.float() / (255 if pixels.dtype == torch.uint8 else 1)
    low, high = (float(value) for value in pixels.aminmax())
    least, most = (-10, 10) if standardised else (0, 1)  # standardised images reach a few units
    if not (least - 1e-3 <= low and high <= most + 1e-3):
        what = "from 0 to 1, or standardised" if standardised else "from 0 to 1"
        raise DataError(f"floating-point images must be {what}; got values from {low:g} to {high:g}. Divide them by 255.")
    return pixels.float()


def to_tensor(values: ArrayLike | Tensor) -> Tensor:
    """Numbers as a tensor, also from arrays that torch refuses: mirrored ones, read-only ones, ones of another byte order."""
    if isinstance(values, Tensor):
        return values
    array = np.asarray(values)
    if np.ma.is_masked(values):
        raise DataError("numbers are needed; got an array with masked entries. Fill or drop them.")
    try:
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except TypeError as error:
        raise DataError(f"numbers are needed; got an array of {array.dtype}") from error


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")


def visible(folder: Path) -> list[Path]:
    """What a folder holds, in order, without the hidden and the system files of macOS, Windows, Jupyter and file servers."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    return sorted(path for path in folder.iterdir() if path.name not in _SYSTEM and not path.name.startswith("."))


def find_files(folder: Path) -> list[Path]:
    """The image files of a folder, at least one."""
    present = [path for path in visible(folder) if not path.is_dir()]
    files = [path for path in present if path.suffix.lower() in SUFFIXES]
    for path in set(present) - set(files):
        if (mimetypes.guess_type(path.name)[0] or "").startswith("image/"):
            raise DataError(f"{path} is of a kind that is not read ({', '.join(SUFFIXES)}). Convert or remove it.")
    if not files:
        raise DataError(f"class folder {folder} holds no images ({', '.join(SUFFIXES)}). Fill or remove it.")
    return files


def find_folders(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, by the name of its folder."""
    classes = {path.name: find_files(path) for path in visible(folder) if path.is_dir()}
    if not classes:
        raise DataError(f"{folder} must hold a folder for each class; it holds none")
    return classes


def find_entry(name: str, *folders: Path) -> Path | None:
    """The first of the folders' entries of this name, however it writes its accents (macOS takes them apart) and slashes."""
    spellings = (name, *(unicodedata.normalize(form, name.replace("\\", "/")) for form in ("NFC", "NFD")))
    return next((folder / spelling for folder in folders for spelling in spellings if (folder / spelling).exists()), None)


def read_text(path: Path) -> str:
    """A text file in UTF-8 or UTF-16, with or without a byte order mark."""
    content = path.read_bytes()
    try:
        return content.decode("utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be text in UTF-8: {error}. Save it so.") from error


def to_channels_first(images: NDArray[Any], where: str) -> Tensor:
    """Stored images as uint8 (n, 1 or 3 channels, height, width)."""
    if images.dtype not in (np.uint8, np.bool_) or images.ndim not in (3, 4):
        raise DataError(f"{where}: images must be uint8 with 3 or 4 dimensions; got {images.dtype} {images.shape}. {_REMEDY}")
    pixels = _channels_first(to_tensor(images))
    if pixels.shape[1] not in (1, 3):
        raise DataError(f"{where}: images must have 1 or 3 channels; got shape {images.shape}")
    return pixels.contiguous() if pixels.dtype == torch.uint8 else 255 * pixels.to(torch.uint8)


def _channels_first(pixels: Tensor) -> Tensor:
    """(n, channels, height, width) of three or four dimensions, in whose last one 1 or 3 channels may stand."""
    if pixels.dim() == 3:
        return pixels.unsqueeze(1)
    last = pixels.shape[1] not in (1, 3) and pixels.shape[-1] in (1, 3)
    return pixels.permute(0, 3, 1, 2) if last else pixels
