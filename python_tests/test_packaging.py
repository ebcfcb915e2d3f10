"""What is installed: a typed package whose compiled module stands alone."""

from __future__ import annotations

import importlib.resources
import subprocess
import sys
from pathlib import Path

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
