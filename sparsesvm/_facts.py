"""What every report states beside its results: where they were found, and how wide the interval of a mean is."""

from __future__ import annotations

import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparsesvm._backends import backends


def environment(*packages: str) -> dict[str, Any]:
    """Versions, also of further packages (None where one is absent), and hardware."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("sparsesvm", "torch", "numpy", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    hardware = {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "simd": backends()["cpu"]["simd"]}
    return {"versions": versions, "hardware": hardware}


def interval(values: ArrayLike) -> float:
    """Half the width of the 95 % interval of the mean: 1.96 standard errors; NaN where there is one value."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    return float(1.96 * values.std() / len(values) ** 0.5)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
