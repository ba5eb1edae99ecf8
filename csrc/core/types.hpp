// The words every room shares.
#pragma once

#include <cstdint>
#include <functional>

namespace fq {

using idx_t = std::int64_t;

// FAISS's values, so that an index attribute can be passed on unchanged.
enum class Metric : int { InnerProduct = 0, L2 = 1 };

// Inside core every score is minimised: squared L2, or the NEGATED inner product.
// Only the arrays that leave core (D, coarse scores) hold similarities again.

constexpr int kScanBlock = 64;  // vectors in one scan block

// The columns of a row of n numbers that products and sums take: the next multiple of 16.
constexpr idx_t padded(idx_t n) { return (n + 15) / 16 * 16; }

// How a call may run: `interrupted` is asked now and then by the calling thread only.
struct Execution {
  int n_threads = 1;
  std::function<bool()> interrupted = {};
  double min_work = 200;  // µs of estimated work below which a search starts no thread
};

}  // namespace fq
