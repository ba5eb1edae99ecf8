// Probed lists x tables -> the best candidates of one query, or those within a radius.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "core/inverted_lists.hpp"
#include "core/lut.hpp"
#include "core/selection.hpp"
#include "core/topk.hpp"

namespace fq {

// When the scan of a query ends before its last list; 0: does not apply.
struct ScanLimits {
  idx_t max_codes = 0;        // after so many selected codes,
  bool whole_lists = false;   // or at the end of the list where their number is reached
  idx_t max_empty_lists = 0;  // RangeCollector: after so many lists in a row without a candidate
};

struct Probes {
  const InvertedLists& lists;
  const Selection& selection;
  ScanLimits limits;
  idx_t n;                    // lists to visit, in this order
  const idx_t* list_no;       // (n); -1 is skipped, the others must exist
  const float* coarse_score;  // (n)
};

// Pushes the selected entries of the lists into `found`, scored
// (coarse score + sum of tables) + bias. lut: (M, K) of this query.
//
// With nbits 8, the 8-bit form of the tables (`lut_u8` is scratch) tells at once which codes of a
// run of blocks may enter; only those get a score, so the shortlist is what float tables give.
void scan_lists(const Probes& probes, const float* lut, LutU8& lut_u8, TopK& found);

// Takes the place of TopK in a range search: the candidates whose score is below the radius, handed
// on in batches, so that memory does not grow with their number; and where they are fewer than
// n_short, the best of the others up to this number.
class RangeCollector {
 public:
  using Batch = std::vector<Candidate>;
  RangeCollector(float radius, idx_t n_short, std::function<void(const Batch&)> take_batch)
      : radius_(radius), n_short_(n_short), outside_(n_short), take_batch_(std::move(take_batch)) {}

  float threshold() const {
    return n_inside_ < n_short_ ? std::max(radius_, outside_.threshold()) : radius_;
  }
  idx_t n_inside() const { return n_inside_; }

  void push(const Candidate& c) {
    if (c.score < radius_) {
      ++n_inside_;
      take(c);
    } else if (n_inside_ < n_short_) {
      outside_.push(c);
    }
  }

  void finish() {
    if (n_inside_ < n_short_)
      for (const Candidate& c : outside_.sorted())
        if (n_inside_++ < n_short_) take(c);
    flush();
  }

 private:
  static constexpr std::size_t kBatch = 1024;
  void take(const Candidate& c) {
    inside_.push_back(c);
    if (inside_.size() == kBatch) flush();
  }
  void flush() {
    if (!inside_.empty()) take_batch_(inside_);
    inside_.clear();
  }

  float radius_;
  idx_t n_short_, n_inside_ = 0;
  Batch inside_;
  TopK outside_;
  std::function<void(const Batch&)> take_batch_;
};

void scan_lists(const Probes& probes, const float* lut, LutU8& lut_u8, RangeCollector& found);

}  // namespace fq
