// The k smallest candidates under a TOTAL order, so that a result never depends on the number of
// threads, the split into batches, or the order in which the lists are visited.
#pragma once

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "core/types.hpp"

namespace fq {

struct Candidate {
  float score;
  idx_t id;
  idx_t list_no;
  idx_t offset;

  bool operator<(const Candidate& o) const {
    if (score != o.score) return score < o.score;  // nearly always decides
    return std::tie(id, list_no, offset) < std::tie(o.id, o.list_no, o.offset);
  }
};

// Collects up to 2k candidates, then drops the worse half: cheaper than a heap for large k, and
// `threshold` gives the scan one float to compare with.
class TopK {
 public:
  explicit TopK(idx_t k = 1) { reset(k); }

  void reset(idx_t k) {
    k_ = static_cast<std::size_t>(k);
    buffer_.clear();
    threshold_ = std::numeric_limits<float>::infinity();
  }

  // Scores above this cannot enter; equal ones may, by their id.
  float threshold() const { return threshold_; }

  void push(const Candidate& c) {
    if (!(c.score <= threshold_)) return;  // false for NaN too
    buffer_.push_back(c);
    if (buffer_.size() >= 2 * k_ + kScanBlock) shrink();
  }

  // Best first. The selection stays usable.
  const std::vector<Candidate>& sorted() {
    if (buffer_.size() > k_) shrink();
    std::sort(buffer_.begin(), buffer_.end());
    return buffer_;
  }

 private:
  void shrink() {
    const auto kth = buffer_.begin() + static_cast<std::ptrdiff_t>(k_) - 1;
    std::nth_element(buffer_.begin(), kth, buffer_.end());
    threshold_ = kth->score;
    buffer_.resize(k_);
  }

  std::size_t k_ = 1;
  float threshold_ = std::numeric_limits<float>::infinity();
  std::vector<Candidate> buffer_;
};

}  // namespace fq
