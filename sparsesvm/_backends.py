"""What was built and what can be used here."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from sparsesvm import _core

HAS_CUDA = importlib.util.find_spec("sparsesvm._cuda") is not None
"""Whether the CUDA module was built."""

USABLE_DEVICES = ("cpu", "cuda") if HAS_CUDA else ("cpu",)
"""Device types that `solve` accepts."""


def backends() -> dict[str, dict[str, Any]]:
    """What was built, what is usable on this machine, and why not.

    Returns:
        {"cpu": {"simd": instruction set in use, "built": [instruction sets]}, "cuda": {"built": bool, "usable": bool,
        "reason": why not, or empty}}, and where the CUDA backend was built its "architectures", the "runtime" and "driver"
        versions (13000 is 13.0; driver 0 means none) and the "count" of devices. The environment variable SPARSESVM_SIMD
        (base, v3 or v4) forces an instruction set; results differ between them in the last digits.

    Example:
        >>> import sparsesvm
        >>> sorted(sparsesvm.backends())
        ['cpu', 'cuda']
    """
    return {"cpu": _core.simd(), "cuda": _cuda_state()}


def _cuda_state() -> dict[str, Any]:
    if not HAS_CUDA:
        reason = "built without CUDA: no device or no nvcc was found; SPARSESVM_CUDA=ON pip install ... asks for it"
        return {"built": False, "usable": False, "reason": reason}
    from sparsesvm import _cuda

    state = _cuda.devices()
    if not state["reason"] and torch.version.cuda is None:
        state["reason"] = f"torch {torch.__version__} was built without CUDA"
    return {"built": True, "usable": not state["reason"], **state}
