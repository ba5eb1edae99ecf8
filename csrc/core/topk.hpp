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

// A number that at least n of the scores do not exceed, and no more than `more` others, if halving
// low..high finds one soon; all scores are in that range. Passes without branches cost less than
// to select exactly.
inline float bound_of_nth(const float* score, idx_t n_scores, idx_t n, idx_t more, float low,
                          float high) {
  for (int i = 0; i < 24; ++i) {
    const float middle = low + (high - low) / 2;
    int count = 0;
    for (idx_t j = 0; j < n_scores; ++j) count += score[j] <= middle;
    if (count < n) {
      low = middle;
    } else {
      high = middle;
      if (count <= n + more) break;
    }
  }
  return high;
}

// Collects up to 2k candidates, then drops the worse half: cheaper than a heap for large k, and
// `threshold` gives the scan one float to compare with.
class TopK {
 public:
  explicit TopK(idx_t k = 1) { reset(k); }

  void reset(idx_t k) {
    k_ = k;
    buffer_.clear();
    low_ = threshold_ = std::numeric_limits<float>::infinity();
    high_ = -threshold_;
  }

  // Scores above this cannot enter; equal ones may, by their id.
  float threshold() const { return threshold_; }

  void push(const Candidate& c) {
    if (!(c.score <= threshold_)) return;  // false for NaN too
    low_ = std::min(low_, c.score);
    high_ = std::max(high_, c.score);
    buffer_.push_back(c);
    if (size() >= 2 * k_ + kScanBlock) shrink();
  }

  // Best first. The selection stays usable.
  const std::vector<Candidate>& sorted() {
    if (size() > k_) shrink();
    std::sort(buffer_.begin(), buffer_.end());
    if (size() > k_) buffer_.resize(static_cast<std::size_t>(k_));
    return buffer_;
  }

 private:
  idx_t size() const { return static_cast<idx_t>(buffer_.size()); }

  // Drops most of what cannot be among the k best, or, where many scores are equal, all of it.
  void shrink() {
    const idx_t more = k_ / 8 + 4;
    scores_.clear();
    for (const Candidate& c : buffer_) scores_.push_back(c.score);
    threshold_ = high_ = bound_of_nth(scores_.data(), size(), k_, more, low_, high_);
    std::size_t n = 0;
    for (std::size_t i = 0; i < buffer_.size(); ++i) {  // no branch: it could not be predicted
      buffer_[n] = buffer_[i];
      n += scores_[i] <= threshold_;
    }
    buffer_.resize(n);
    if (size() <= k_ + more) return;
    const auto kth = buffer_.begin() + static_cast<std::ptrdiff_t>(k_) - 1;
    std::nth_element(buffer_.begin(), kth, buffer_.end());
    threshold_ = high_ = kth->score;
    buffer_.resize(static_cast<std::size_t>(k_));
  }

  idx_t k_ = 1;
  float threshold_, low_, high_;  // low_ and high_: the range of the scores held
  std::vector<Candidate> buffer_;
  std::vector<float> scores_;  // scratch
};

}  // namespace fq
