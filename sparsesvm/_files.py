"""Arrays of files, and the classes that labels name. No pickle is ever loaded."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

ARRAYS = (".npz", ".pt", ".pth")


class DataError(ValueError):
    """Data that cannot be had as asked for; the message says what was required, found, and can be done."""


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write, which takes its place when it is complete and on the disk: neither a full disk nor a kill damages an
    earlier one of that name."""
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(part, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)):  # torch's writer turns a full disk into a RuntimeError
            raise DataError(f"cannot write {target}: {error}. An earlier file of that name is intact.") from error
        raise


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """The text as a whole file."""
    with whole_file(path) as opened:
        opened.write(text.encode())


def load_arrays(path: str | os.PathLike[str], names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Arrays of an `.npz` or `.pt` file, pickles refused: `names`, and those of `optional` that are there. What else the file
    holds is not looked at."""
    if not os.path.isfile(path):
        raise DataError(f"there is no file {path}")
    try:
        if str(path).endswith(".npz"):
            # Opened here, as numpy leaves a damaged file open.
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as opened:
                present = list(opened.files)
                data = {name: _to_array(opened[name]) for name in (*names, *optional) if name in present}
        elif str(path).endswith(ARRAYS):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(loaded, dict):
                raise DataError(f"{path} must hold a dictionary of arrays; it holds a {type(loaded).__name__}")
            present = [str(name) for name in loaded]
            data = {name: _to_array(loaded[name]) for name in (*names, *optional) if name in loaded}
        else:
            raise DataError(f"arrays are read from .npz and .pt files; got {path}")
    except DataError:
        raise
    except pickle.UnpicklingError as error:
        reason = "it holds more than tensors and plain values. Save tensors, with torch.as_tensor(array), or an .npz file"
        raise DataError(f"{path} cannot be read as arrays: {reason}") from error
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise DataError(f"{path} cannot be read as arrays: {' '.join(str(error).split())}") from error
    missing = [name for name in names if name not in data]
    if missing:
        raise DataError(
            f"{path} must hold the arrays {', '.join(names)}; it lacks {', '.join(missing)} and has {', '.join(present)}"
        )
    return data


def _to_array(value: Any) -> NDArray[Any]:
    """An array of what numpy or torch load; bfloat16 and smaller types, which numpy lacks, in single precision."""
    if not isinstance(value, Tensor):
        array = np.asarray(value)
        if array.dtype != np.dtype("V2"):
            return array
        value = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)  # as JAX and ml_dtypes leave it in .npz files
    dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    numpy_has_it = not dense.is_floating_point() or dense.dtype in (torch.float16, torch.float32, torch.float64)
    found: NDArray[Any] = (dense if numpy_has_it else dense.float()).resolve_conj().resolve_neg().numpy()
    return found


def class_codes(labels: ArrayLike | Tensor, n: int, where: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The classes, integers or names in order, and the number of the class of each of n samples.

    Args:
        labels: (n,) or (n, 1) integers, names, or floating-point numbers that are whole.
        where: the file or argument, for messages.
    """
    if np.ma.is_masked(labels):
        raise DataError(f"{where} must have no masked entries. Drop these samples.")
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    array = array[:, 0] if array.shape == (n, 1) else array
    if array.shape != (n,):
        remedy = " One-hot labels become numbers with labels.argmax(1)." if array.ndim == 2 else ""
        raise DataError(f"{where} must have shape ({n},), one for each sample; got {array.shape}.{remedy}")
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.round(array)).all():
        array = array.astype(np.int64)
    elif array.dtype.kind == "S":  # as HDF5 gives names
        array = np.char.decode(array, "utf-8", "replace")
    elif array.dtype.kind == "O" and all(isinstance(name, str) for name in array):
        array = array.astype(np.str_)
    if array.dtype.kind not in "iubU":
        remedy = f" Take one of the fields, e.g. labels[{array.dtype.names[0]!r}]." if array.dtype.names else ""
        raise DataError(f"{where} must be integers or names; got {array.dtype}.{remedy}")
    classes, codes = np.unique(array, return_inverse=True)
    return classes, codes.astype(np.int64)
