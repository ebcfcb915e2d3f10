// The team interface (team.h) for blocks of CUDA threads.
#pragma once

#include "cuda/team.h"

SPARSESVM_BEGIN
namespace gpu {

template <int Threads>
class DeviceTeam {
 public:
  static constexpr int n_warps = Threads / lanes;
  static_assert(Threads % lanes == 0 && n_warps <= lanes);

  // What the threads of a block share. `parts` blocks side by side form a team; `arrivals` counts its barriers, from zero at the
  // start of the kernel. All blocks of the grid must be resident at once where parts > 1.
  struct Block {
    double warp[n_warps];
    unsigned* arrivals;
    unsigned awaited;
    int part, parts;
  };

  // To be called by all threads of the block.
  __device__ DeviceTeam(Block& block, int parts, unsigned* arrivals) : block_(block) {
    if (threadIdx.x == 0) {
      block.arrivals = arrivals;
      block.awaited = 0;
      block.part = static_cast<int>(blockIdx.x) % parts;
      block.parts = parts;
    }
    __syncthreads();
  }

  __device__ int part() const { return block_.part; }
  __device__ int parts() const { return block_.parts; }
  __device__ int rank() const { return static_cast<int>(threadIdx.x); }
  __device__ int size() const { return Threads; }
  __device__ int warp() const { return static_cast<int>(threadIdx.x) / lanes; }
  __device__ int warps() const { return n_warps; }
  __device__ int lane() const { return static_cast<int>(threadIdx.x) % lanes; }

  __device__ void sync() const { __syncthreads(); }
  __device__ double warp_broadcast(double x, int from) const { return __shfl_sync(everyone, x, from); }

  // The block's barrier makes its writes the first thread's, whose fence publishes them; the other way round on leaving.
  __device__ void sync_team() const {
    __syncthreads();
    if (block_.parts == 1) return;
    if (threadIdx.x == 0) {
      const unsigned awaited = block_.awaited += static_cast<unsigned>(block_.parts);
      __threadfence();
      atomicAdd(block_.arrivals, 1u);
      // Signed difference: the counter may wrap.
      while (static_cast<int>(*static_cast<volatile unsigned*>(block_.arrivals) - awaited) < 0) {
      }
      __threadfence();
    }
    __syncthreads();
  }

  // Butterflies within warps, then over the warps in order: the same bits every time.
  __device__ double sum(double x) const {
    x = warp_sum(x);
    if (lane() == 0) block_.warp[warp()] = x;
    __syncthreads();
    double total = block_.warp[0];
#pragma unroll
    for (int w = 1; w < n_warps; ++w) total += block_.warp[w];
    __syncthreads();
    return total;
  }
  __device__ double max(double x) const {
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) x = larger_of(x, __shfl_xor_sync(everyone, x, step));
    if (lane() == 0) block_.warp[warp()] = x;
    __syncthreads();
    double best = block_.warp[0];
#pragma unroll
    for (int w = 1; w < n_warps; ++w) best = larger_of(best, block_.warp[w]);
    __syncthreads();
    return best;
  }

  __device__ double warp_sum(double x) const {
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(everyone, x, step);
    return x;
  }

  // Recursive halving: at every step a lane keeps half of its sums and hands the other half to its partner, 31 exchanges in place
  // of 5 N.
  template <typename S, int N>
  __device__ S warp_sums(const S (&values)[N]) const {
    static_assert(N <= lanes);
    S sums[lanes];
#pragma unroll
    for (int e = 0; e < lanes; ++e) sums[e] = e < N ? values[e] : S(0);
    halve<16>(sums);
    halve<8>(sums);
    halve<4>(sums);
    halve<2>(sums);
    halve<1>(sums);
    return sums[0];
  }

 private:
  static constexpr unsigned everyone = 0xffffffffu;
  static __device__ double larger_of(double a, double b) { return a > b ? a : b; }

  template <int half, typename S>
  __device__ __forceinline__ static void halve(S (&sums)[lanes]) {
    const bool upper = (threadIdx.x & static_cast<unsigned>(half)) != 0;
#pragma unroll
    for (int e = 0; e < half; ++e) {
      const S kept = upper ? sums[e + half] : sums[e], given = upper ? sums[e] : sums[e + half];
      sums[e] = kept + __shfl_xor_sync(everyone, given, half);
    }
  }

  Block& block_;
};

}  // namespace gpu
SPARSESVM_END
