#!/bin/sh
# Lines of csrc/core and csrc/cpu that the tests of the solvers reach, file by file: coverage.sh [pytest arguments]. Fails below 95 %.
# PYTHON has pytest, what the tests need, cmake, ninja, pybind11 and gcovr. All instruction sets are compiled, into build/coverage; a
# line of a template counts once, reached if it is in any instance.
set -eu
cd "$(dirname "$0")/../.."
root=$PWD out=$PWD/build/coverage python=$(realpath -s "$(command -v "${PYTHON:-python3}")")
PATH="$(dirname "$python"):$PATH"
tests="determinism functional gradients group_weight intercept large_tasks path proximal regression solver sparse_features task_way
  torch_integration"
mkdir -p build
cmake -S . -B "$out" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG="-O1 --coverage" -DSPARSESVM_CUDA=OFF \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$python" >"$out.log" || { cat "$out.log"; exit 1; }
cmake --build "$out"
find "$out" -name '*.gcda' -delete
rm -rf "$out/package"
mkdir -p "$out/package"
cp -r sparsesvm "$out/package"
rm -f "$out"/package/sparsesvm/*.so
cp "$out"/_core*.so "$out/package/sparsesvm"
# From a folder without the package, which would come first. A process for each file: what it counted is kept when another is killed.
for name in $tests; do
  (cd "$out" && PYTHONPATH="$out/package:$root/csrc/tests" "$python" -m pytest -q -p no:cacheprovider -c "$root/pyproject.toml" \
    --rootdir "$root" "$@" "$root/python_tests/test_$name.py")
done
# Threads count without waiting for each other, so that counts may be off; none that is positive comes from nothing.
"$python" -m gcovr --root . --object-directory "$out" --filter csrc/core/ --filter csrc/cpu/ --merge-lines \
  --merge-mode-functions merge-use-line-min --gcov-ignore-parse-errors negative_hits.warn_once_per_file \
  --gcov-ignore-parse-errors suspicious_hits.warn_once_per_file --fail-under-line 95 "$out"
