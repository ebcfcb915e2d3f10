"""What is installed: a typed package whose compiled module stands alone."""

from __future__ import annotations

import ast
import importlib.resources
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
import yaml

import sparsesvm
from sparsesvm import _core

ROOT = Path(__file__).resolve().parents[1]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


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


def test_version_and_requirements_are_the_same_everywhere():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.*)"', project, re.MULTILINE)[1]
    recipe = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    for stage, name in (("run", "dependencies"), ("host", "requires")):
        wanted = re.search(rf"^{name} = \[(.*)\]", project, re.MULTILINE)[1].replace('"', "").split(", ")
        conda = {each.replace(" ", "") for each in recipe["requirements"][stage]} - {"python", "pip"}
        assert conda == {each.replace("torch", "pytorch") for each in wanted}


def test_the_package_is_typed():
    files = importlib.resources.files(sparsesvm)
    assert files.joinpath("py.typed").is_file()
    assert files.joinpath("_core.pyi").is_file()


def test_everything_public_is_documented():
    for name in sparsesvm.__all__:
        assert getattr(sparsesvm, name).__doc__, name


def test_the_core_imports_without_the_extra_and_the_extra_names_itself():
    names = ("lightning", "jsonargparse", "PIL", "matplotlib", "safetensors", "sklearn")
    absent = f"import sys; sys.modules.update(dict.fromkeys({names}))"
    program = (
        f"{absent}; import sparsesvm, sparsesvm.cli; assert 'sparsesvm.meta' not in sys.modules; sparsesvm.cli.main(['fit'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "sparsesvm fit needs jsonargparse: pip install 'sparsesvm[meta]'"
    imported = "import sys, sparsesvm; assert not {'lightning', 'matplotlib', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", imported], check=True)


def test_the_source_distribution_holds_no_build_products(tmp_path, monkeypatch):
    backend = pytest.importorskip("scikit_build_core.build")
    sources = tmp_path / "sources"
    left_out = shutil.ignore_patterns(".git", "build", "dist", ".venv", "*.so", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, sources, ignore=left_out)
    tracked = {path for path in sources.rglob("*") if path.is_file()}
    for name in ("sparsesvm/_core.stray.so", "sparsesvm/__pycache__/head.pyc", "build/x.o", "docs/gallery/x.md"):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        (sources / name).touch()
    monkeypatch.chdir(sources)
    archive = backend.build_sdist(str(tmp_path))
    with tarfile.open(tmp_path / archive) as opened:
        packed = {sources.joinpath(*Path(name).parts[1:]) for name in opened.getnames()} - {sources / "PKG-INFO"}
    assert packed <= tracked
    parts = ("CMakeLists.txt", "pyproject.toml", "LICENSE", "sparsesvm/_core.pyi", "csrc/bindings.cpp")
    assert {sources / name for name in parts} <= packed


def test_wheels_are_built_for_the_versions_that_are_supported():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    oldest = project["project"]["requires-python"].removeprefix(">=3.")
    versions = re.fullmatch(r"cp3\{(.*)\}-manylinux_\*", project["tool"]["cibuildwheel"]["build"]).group(1).split(",")
    assert versions[0] == oldest
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["wheels"]["strategy"]["matrix"]["python"] == [f"cp3{version}" for version in versions]
    assert f"torch=={project['project']['dependencies'][0].removeprefix('torch>=')}." in str(workflow["jobs"]["oldest"])


def test_modules_import_one_way():
    def module(path):
        return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    paths = {module(path): path for path in (ROOT / "sparsesvm").rglob("*.py")}
    imports = {}
    for name, path in paths.items():
        lines = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom) and node.module in paths]
        found = {f"{line.module}.{alias.name}" for line in lines for alias in line.names}
        imports[name] = {each if each in paths else each.rpartition(".")[0] for each in found} - {name, "sparsesvm"}
    order = list(TopologicalSorter(imports).static_order())  # raises on a cycle
    assert order.index("sparsesvm._checks") < order.index("sparsesvm._lambda1_max") < order.index("sparsesvm.functional")


def test_estimators_stand_on_the_solvers_alone():
    program = (
        "import sys, sparsesvm; assert not {'sparsesvm.sklearn', 'sklearn'} & set(sys.modules); import sparsesvm.sklearn.probe; "
        "assert not {'sparsesvm.meta', 'sparsesvm.bilevel.training', 'lightning', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    program = "import sys; sys.modules['sklearn'] = None; import sparsesvm.cli; sparsesvm.cli.main(['probe', 'x.npz'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "sparsesvm probe needs sklearn: pip install 'sparsesvm[sklearn]'"


def test_bare_sources_name_the_remedy(tmp_path):
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(Path(sparsesvm.__file__).parent, tmp_path / "sparsesvm", ignore=ignored)
    # Without the module site, no editable install is found.
    program = [sys.executable, "-E", "-S", "-c", "import sparsesvm"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: {tmp_path}/sparsesvm holds the sources of sparsesvm without its compiled module")
    assert f"pip install --editable {tmp_path}`" in message


def script(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)


@pytest.mark.skipif(shutil.which("cmake", path=PATH) is None, reason="needs CMake")
def test_automatic_cuda_is_for_the_devices_present(tmp_path):
    pybind11 = pytest.importorskip("pybind11")

    def cuda(*nvidia_smi: str) -> str:
        """What the configuration says of CUDA where nvidia-smi is this script."""
        script(tmp_path / "bin" / "nvidia-smi", *nvidia_smi)
        folders = (f"-S{ROOT}", f"-B{tmp_path / 'build'}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
        settings = (f"-DPython_EXECUTABLE={sys.executable}", "-DSPARSESVM_CUDA=AUTO", "-DSPARSESVM_CUDA_ARCHS=")
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{PATH}"}
        done = subprocess.run(["cmake", *folders, *settings], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.rpartition("; CUDA ")[2].splitlines()[0]

    assert cuda("exit 9").startswith("off (nvidia-smi shows no device")
    assert cuda("echo 6.1").startswith("off (nvidia-smi shows no device")
    assert cuda("echo 99.0") == "off (no nvcc that compiles for 990-real)"
    if shutil.which("nvcc"):
        assert cuda("echo 9.0", "echo 8.0", "echo 9.0") == f"on ({shutil.which('nvcc')} for 90-real;80-real)"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_installs_again_only_what_is_compiled_and_when_settings_change(tmp_path):
    log = tmp_path / "log"
    script(tmp_path / "bin" / "python", f'echo "$@" >>{log}')

    def installs(*arguments: str) -> int:
        """How often the package is installed."""
        log.write_text("")
        stamp = tmp_path / ".sparsesvm-test"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SPARSESVM_", "MAKE", "MFLAGS"))}
        subprocess.run(["make", "-C", str(ROOT), f"VENV={tmp_path}", *arguments, str(stamp)], env=environment, check=True)
        return log.read_text().count("--no-build-isolation --editable")

    assert installs() == 1
    assert installs() == 0
    assert installs("--what-if=sparsesvm/functional.py") == 0
    assert installs("--what-if=csrc/bindings.cpp") == 1
    assert installs("SPARSESVM_CUDA=OFF") == 1
    assert installs("SPARSESVM_CUDA=OFF") == 0
