// How the fuzz targets make a problem of arbitrary bytes, and the memory that they hand out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/basics.h"

#ifdef SPARSESVM_GUARDED_ARENA
#include <sanitizer/asan_interface.h>
#endif
#ifdef SPARSESVM_WATCHED_MEMORY
#include <valgrind/memcheck.h>
#endif

namespace sparsesvm::testing {

// Reads bytes; after the last one, those of a generator that the bytes seed, so that short inputs make whole problems too.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {
    for (std::size_t i = 0; i < size; ++i) state_ = (state_ ^ data[i]) * 16777619u;
  }

  unsigned byte() {
    if (at_ < end_) return *at_++;
    state_ = state_ * 1664525u + 1013904223u;
    return state_ >> 24;
  }

  // low <= result <= high
  index between(index low, index high) { return low + static_cast<index>(byte()) % (high - low + 1); }

  bool one_in(unsigned n) { return byte() % n == 0; }

  // Mostly few, from one on, so that a run is short; now and then up to `most`.
  index size(index few, index some, index most) { return between(1, one_in(16) ? most : (one_in(4) ? some : few)); }

  // A feature or cotangent: mostly of moderate size and often equal to another, now and then what floating point has besides.
  double value() {
    static constexpr double odd[] = {__builtin_nan(""), __builtin_inf(), -__builtin_inf(), 1e300, -1e300, 1e-300, 1e30, -1e-30};
    const unsigned b = byte();
    if (b >= 248) return tame_ ? 0.0 : odd[b - 248];
    return (static_cast<double>(b) - 124) / 16;
  }

  // A weight or penalty, 0 <= result < infinity.
  double amount() {
    static constexpr double odd[] = {0.0, 0.0, 1e-300, 1e-12, 1e-6, 1e12, 1e300, 1.7e308};
    const unsigned b = byte();
    return b < 32 ? odd[b % (tame_ ? 2 : 8)] : static_cast<double>(b - 31) / 32;
  }

  // From now on without infinities, NaN and extreme scales, which end most solves early.
  void tame() { tame_ = true; }

 private:
  const std::uint8_t *at_, *end_;
  std::uint32_t state_ = 2166136261u;
  bool tame_ = false;
};

// Tells valgrind that nothing has been written there.
inline void forget(void* memory, std::size_t bytes) {
#ifdef SPARSESVM_WATCHED_MEMORY
  VALGRIND_MAKE_MEM_UNDEFINED(memory, bytes);
#endif
  (void)memory, (void)bytes;
}

// Memory of exactly this size, so that a step over its end is seen.
template <typename T>
class Exact {
 public:
  explicit Exact(index count) : count_(count), data_(new T[static_cast<std::size_t>(count)]()) {
    forget(get(), static_cast<std::size_t>(count) * sizeof(T));
  }
  T* get() const { return data_.get(); }
  T& operator[](index i) const { return data_[static_cast<std::size_t>(i)]; }
  index count() const { return count_; }

  template <class Make>
  void fill(const Make& make) const {
    for (index i = 0; i < count_; ++i) (*this)[i] = static_cast<T>(make());
  }

 private:
  index count_;
  std::unique_ptr<T[]> data_;
};

// Scratch memory, the same for all uses; the arena marks what lies between its arrays.
class Scratch {
 public:
  explicit Scratch(index bytes) : bytes_(bytes) {
    static std::vector<char> memory;
    if (memory.size() < static_cast<std::size_t>(bytes) + 64) {
#ifdef SPARSESVM_GUARDED_ARENA
      __asan_unpoison_memory_region(memory.data(), memory.size());
#endif
      memory.resize(2 * static_cast<std::size_t>(bytes) + 64);
    }
    start_ = memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
    forget(memory.data(), memory.size());
  }
  void* get() const { return start_; }
  index bytes() const { return bytes_; }

 private:
  char* start_;
  index bytes_;
};

// What must hold whatever the input.
inline void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace sparsesvm::testing
