#!/bin/sh
# Runs the corpora of the fuzz targets under valgrind: reads of memory that nothing wrote, scratch memory and outputs included,
# steps over the ends of blocks, leaks. For a level that valgrind knows: it has no AVX-512.
set -eu
cd "$(dirname "$0")/../.."
cxx=${CXX:-c++} out=$PWD/build/valgrind
mkdir -p "$out"
flags="-std=c++17 -Icsrc -O1 -g -fopenmp-simd -fno-math-errno -fno-trapping-math -Wall -Wextra -Wshadow -Werror -pthread
  -DSPARSESVM_NO_POOL -DSPARSESVM_WATCHED_MEMORY"
if [ "$(uname -m)" = x86_64 ]; then flags="$flags -march=x86-64-v3"; fi
objects=
for source in cpu/driver cpu/kernels cpu/regression_driver cpu/regression_kernels cpu/parallel cpu/interrupt tests/replay_main; do
  object=$out/$(basename $source).o
  $cxx $flags -c csrc/$source.cpp -o "$object"
  objects="$objects $object"
done
for target in svm regression; do
  $cxx $flags csrc/tests/fuzz_$target.cpp $objects -ldl -o "$out/fuzz_$target"
  valgrind --quiet --error-exitcode=1 --leak-check=full "$out/fuzz_$target" csrc/tests/corpus/$target
done
