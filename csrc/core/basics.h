// What every part of the core counts with and answers with.
#pragma once

#include <cstdint>

namespace sparsesvm {

using index = std::int64_t;

// Codes of `Solution.status`.
enum class Status : std::int8_t { converged = 0, max_iter = 1, stalled = 2, non_finite = 3, not_identified = 4, not_unique = 5 };

}  // namespace sparsesvm
