"""What was built and what can be used here."""

from __future__ import annotations

from typing import Any

from sparsesvm import _core

USABLE_DEVICES = ("cpu",)
"""Device types that `solve` accepts."""


def backends() -> dict[str, dict[str, Any]]:
    """What was built, what is usable on this machine, and why not.

    Returns:
        {"cpu": {"simd": instruction set in use, "built": [instruction sets]}, "cuda": {"built": bool, "usable": bool,
        "reason": str}}. The environment variable SPARSESVM_SIMD (base, v3 or v4) forces an instruction set; results differ
        between them in the last digits.
    """
    return _core.backends()
