#!/bin/sh
# Compiles the fuzz targets and runs each for SECONDS, or RUNS inputs where that is sooner: fuzz.sh SECONDS [RUNS]. Inputs that reached
# new code are kept in build/fuzz, beside those of csrc/tests/corpus. With CXX=clang++ libFuzzer runs them, otherwise fuzz_main.cpp.
# Null pointers and steps over an end are address sanitizer's, and not looked for twice.
set -eu
cd "$(dirname "$0")/../.."
seconds=$1 runs=${2:-1000000000} cxx=${CXX:-c++} out=$PWD/build/fuzz
mkdir -p "$out"
flags="-std=c++17 -Icsrc -O2 -g1 -march=native -fopenmp-simd -fno-math-errno -fno-trapping-math -Wall -Wextra -Wshadow -Werror -pthread
  -fsanitize=address,undefined -fno-sanitize=null,object-size -fno-sanitize-recover=all -DSPARSESVM_NO_POOL -DSPARSESVM_GUARDED_ARENA"
if $cxx --version | grep -q clang; then
  traced=-fsanitize=fuzzer-no-link main=-fsanitize=fuzzer
else
  traced=-fsanitize-coverage=trace-pc main=$out/fuzz_main.o
  $cxx $flags -c csrc/tests/fuzz_main.cpp -o "$main"
fi
objects=
for source in cpu/driver cpu/kernels cpu/regression_driver cpu/regression_kernels cpu/parallel cpu/interrupt; do
  object=$out/$(basename $source).o
  $cxx $flags $traced -c csrc/$source.cpp -o "$object"
  objects="$objects $object"
done
for target in svm regression; do
  $cxx $flags $traced -c csrc/tests/fuzz_$target.cpp -o "$out/fuzz_$target.o"
  $cxx $flags "$out/fuzz_$target.o" $objects "$main" -ldl -o "$out/fuzz_$target"
  mkdir -p "$out/corpus_$target"
  cp -n csrc/tests/corpus/$target/* "$out/corpus_$target" 2>/dev/null || true
  if [ "$main" = -fsanitize=fuzzer ]; then
    (cd "$out" && ./fuzz_$target -max_total_time="$seconds" -runs="$runs" -timeout=30 -max_len=1024 corpus_$target)
  else
    (cd "$out" && ./fuzz_$target "$seconds" "$runs" corpus_$target)
  fi
done
