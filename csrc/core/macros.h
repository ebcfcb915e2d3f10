// Compile-time switches of the core.
//
// The core is compiled once per instruction set. SPARSESVM_VARIANT names the set and becomes an inline namespace, so that the
// copies never share a symbol: a linker that merged them could hand AVX-512 code to a processor without it.
#pragma once

#ifndef SPARSESVM_VARIANT
#define SPARSESVM_VARIANT base
#endif

#define SPARSESVM_BEGIN \
  namespace sparsesvm { \
  inline namespace SPARSESVM_VARIANT {
#define SPARSESVM_END \
  }                   \
  }

#define SPARSESVM_INLINE inline __attribute__((always_inline))

// Small functions that kernels call as well.
#ifdef __CUDACC__
#define SPARSESVM_HD __host__ __device__
#else
#define SPARSESVM_HD
#endif

// Functions that a kernel calls from several places, or whose registers should not add up with the caller's: without it kernels
// take minutes to compile and spill. Their arguments must be values and references into shared or global memory, never to local
// variables.
#ifdef __CUDACC__
#define SPARSESVM_NOINLINE __noinline__
#else
#define SPARSESVM_NOINLINE
#endif
