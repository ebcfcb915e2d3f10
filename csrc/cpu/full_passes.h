// What time goes by at large sizes, for benchmarks: how often the proximal method has read all features of a task in this process.
#pragma once

#include <atomic>
#include <cstdint>

namespace sparsesvm {

inline std::atomic<std::int64_t> full_passes{0};

}  // namespace sparsesvm
