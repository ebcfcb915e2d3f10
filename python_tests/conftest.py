"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from emulation import Emulator, compile_library

import sparsesvm

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.append(str(REPOSITORY))  # for `benchmarks`, which is not installed; last, so that `sparsesvm` is the installed one


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers in numpy, the same for every test."""
    return np.random.default_rng(0)


@pytest.fixture
def generator() -> torch.Generator:
    """Random numbers in torch, the same for every test."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def four_threads():
    """Torch's thread count set to four, and put back after the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The CUDA kernels' bodies, compiled for the host."""
    return compile_library(tmp_path_factory.mktemp("emulation"))


@pytest.fixture(scope="session")
def library_of_large_tasks(tmp_path_factory):
    """The same with matrices of at most 16 rows; beyond, the proximal method solves and conjugate gradients differentiate."""
    return compile_library(tmp_path_factory.mktemp("emulation_large"), "-DSPARSESVM_MAX_MODEL_SIZE=16")


@pytest.fixture
def emulator(library):
    """One block of 32 threads, in order."""
    return Emulator(library)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none, with the reason that `sparsesvm.backends()` gives."""
    cuda = sparsesvm.backends()["cuda"]
    if not cuda["usable"]:
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason=f"no usable CUDA device: {cuda['reason']}"))


def reference_folder() -> Path:
    """Where the stored reference solutions may lie: SPARSESVM_REFERENCE, or beside the checkout."""
    return Path(os.environ.get("SPARSESVM_REFERENCE", REPOSITORY.parent / "shared" / "reference"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per reference file; where there are none, one test skipped with the reason."""
    if "reference_file" not in metafunc.fixturenames:
        return
    files = sorted(reference_folder().glob("*.npz"))
    if files:
        metafunc.parametrize("reference_file", files, ids=lambda path: path.stem)
        return
    reason = f"no reference solutions in {reference_folder()}; set SPARSESVM_REFERENCE to the folder that holds them"
    metafunc.parametrize("reference_file", [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")])
