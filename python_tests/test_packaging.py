"""What is installed: a typed package whose compiled module stands alone."""

from __future__ import annotations

import importlib.resources
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sparsesvm
from sparsesvm import _core


def test_the_compiled_module_links_neither_torch_nor_openmp():
    output = subprocess.run(["ldd", _core.__file__], capture_output=True, text=True, check=True).stdout
    linked = [line.split()[0] for line in output.splitlines()]  # names only: addresses may spell anything
    assert any(name.startswith("libc.so") for name in linked)
    for library in ("torch", "c10", "gomp", "libomp", "iomp", "cudart"):
        assert not any(library in name for name in linked)


def test_the_compiled_module_imports_without_torch():
    folder = str(Path(_core.__file__).parent)
    program = f"import sys; sys.path.insert(0, {folder!r}); import _core; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_cuda_backend_is_there_or_says_why_not():
    state = sparsesvm.backends()["cuda"]
    assert state["built"] == (importlib.util.find_spec("sparsesvm._cuda") is not None)
    assert state["usable"] == (state["reason"] == "")
    if not state["usable"]:
        assert not (torch.cuda.is_available() and state["built"])


@pytest.mark.skipif(importlib.util.find_spec("sparsesvm._cuda") is None, reason="built without CUDA")
def test_the_cuda_module_needs_neither_driver_nor_torch():
    from sparsesvm import _cuda

    output = subprocess.run(["ldd", _cuda.__file__], capture_output=True, text=True, check=True).stdout
    linked = [line.split()[0] for line in output.splitlines()]
    assert not any(library in name for name in linked for library in ("cuda", "torch", "c10"))
    folder = str(Path(_cuda.__file__).parent)
    program = f"import sys; sys.path.insert(0, {folder!r}); import _cuda; _cuda.devices(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_is_typed():
    files = importlib.resources.files(sparsesvm)
    assert files.joinpath("py.typed").is_file()
    assert files.joinpath("_core.pyi").is_file()


def test_everything_public_is_documented():
    for name in sparsesvm.__all__:
        assert getattr(sparsesvm, name).__doc__, name


def test_the_core_imports_without_the_extra_and_the_extra_names_itself():
    absent = "import sys; sys.modules.update(dict.fromkeys(('lightning', 'jsonargparse', 'PIL', 'matplotlib', 'sklearn')))"
    program = (
        f"{absent}; import sparsesvm, sparsesvm.cli; assert 'sparsesvm.meta' not in sys.modules; sparsesvm.cli.main(['fit'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "sparsesvm fit needs jsonargparse: pip install 'sparsesvm[meta]'"
    imported = "import sys, sparsesvm; assert not {'lightning', 'matplotlib', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", imported], check=True)
