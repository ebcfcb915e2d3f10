// Hands out pieces of one caller-owned block, so that the core never allocates. With a null base it only measures.
#pragma once

#include "core/basics.h"
#include "core/macros.h"

#ifdef SPARSESVM_GUARDED_ARENA  // address sanitizer sees steps over the end of a piece
#include <sanitizer/asan_interface.h>
#endif

SPARSESVM_BEGIN

class Arena {
 public:
  SPARSESVM_HD Arena(void* base, index bytes) : base_(static_cast<char*>(base)), capacity_(bytes) {
#ifdef SPARSESVM_GUARDED_ARENA
    if (base_ != nullptr) __asan_unpoison_memory_region(base_, bytes);  // the last task was laid out otherwise
#endif
  }

  template <typename T>
  SPARSESVM_HD T* take(index count) {
    const index start = (used_ + alignment - 1) / alignment * alignment;
    used_ = start + count * static_cast<index>(sizeof(T));
#ifdef SPARSESVM_GUARDED_ARENA
    used_ += alignment;
    if (base_ != nullptr && used_ <= capacity_) __asan_poison_memory_region(base_ + used_ - alignment, alignment);
#endif
    return base_ != nullptr && used_ <= capacity_ ? reinterpret_cast<T*>(base_ + start) : nullptr;
  }

#ifdef SPARSESVM_GUARDED_ARENA
  // No memory shared, as each user would step on what the other guards.
  Arena(const Arena& other) : base_(other.base_), capacity_(other.capacity_), used_(other.used_ + (index{1} << 22)) {}
#endif

  SPARSESVM_HD index used() const { return used_; }

  // Goes on after what a copy has handed out: the same memory then serves two users in turn.
  void reach(const Arena& copy) { used_ = copy.used_ > used_ ? copy.used_ : used_; }

 private:
  static constexpr index alignment = 64;
  char* base_;
  index capacity_;
  index used_ = 0;
};

SPARSESVM_END
