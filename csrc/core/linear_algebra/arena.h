// Hands out pieces of one caller-owned block, so that the core never allocates. With a null base it only measures.
#pragma once

#include "core/basics.h"
#include "core/macros.h"

SPARSESVM_BEGIN

class Arena {
 public:
  SPARSESVM_HD Arena(void* base, index bytes) : base_(static_cast<char*>(base)), capacity_(bytes) {}

  template <typename T>
  SPARSESVM_HD T* take(index count) {
    const index start = (used_ + alignment - 1) / alignment * alignment;
    used_ = start + count * static_cast<index>(sizeof(T));
    return base_ != nullptr && used_ <= capacity_ ? reinterpret_cast<T*>(base_ + start) : nullptr;
  }

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
