// Probed lists x tables -> the best candidates of one query, or those within a radius.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "core/inverted_lists.hpp"
#include "core/lut.hpp"
#include "core/rate.hpp"
#include "core/selection.hpp"
#include "core/topk.hpp"

namespace fq {

// When the scan of a query ends before its last list, or goes on after it; 0: does not apply.
struct ScanLimits {
  idx_t max_codes = 0;        // it ends after so many selected codes,
  bool whole_lists = false;   // or with the list where their number is reached
  idx_t max_empty_lists = 0;  // RangeCollector: after so many lists in a row without a code inside
  idx_t max_lists = 0;        // after so many lists that are not empty
  idx_t min_codes = 0;        // it goes on until so many codes were selected

  bool count() const { return max_codes > 0 || min_codes > 0; }  // whether codes are counted
};

struct Probe {
  idx_t list_no;
  float coarse_score;
};

struct Probes {
  const InvertedLists& lists;
  const Selection& selection;
  ScanLimits limits;
  idx_t n;                     // lists to visit, in this order
  const idx_t* list_no;        // (n); -1 is skipped, the others must exist
  const float* coarse_score;   // (n)
  bool ratios = false;         // stored in place of biases
  const Rate* rate = nullptr;  // null: whole codes

  // The next list after these, while min_codes asks for more; null: none.
  std::function<std::optional<Probe>()> further = {};
};

struct Scanned {
  idx_t n_lists = 0;  // that are not empty
  idx_t n_codes = 0;  // in them and selected; where ids are asked for one by one, all
};

// Pushes the selected entries of the lists into `found`, scored
// (coarse score + sum of tables) + bias, or / ratio. lut: (n_codes, K) of this query.
//
// With nbits 8, the 8-bit form of the tables (lut_u8, where it is usable) tells at once which codes
// of a run of blocks may enter; only those get a score, so the shortlist is what float tables give.
Scanned scan_lists(const Probes& probes, const float* lut, const LutU8& lut_u8, TopK& found);

// One code's sum as lut_scan adds it, nbits 8. code: its first byte in a scan block.
inline float sum_of(const std::uint8_t* code, int M, const float* lut) {
  float sum = 0;
  for (int m = 0; m < M; ++m) sum += lut[m * 256 + code[m * kScanBlock]];
  return sum;
}

// Takes the place of TopK in a range search: hands on the candidates whose score is at most `bound`
// one by one, so that memory does not grow with their number, and counts those below `radius`.
class RangeCollector {
 public:
  RangeCollector(float radius, float bound, std::function<void(const Candidate&)> take)
      : radius_(radius), bound_(bound), take_(std::move(take)) {}

  float threshold() const { return bound_; }
  idx_t n_inside() const { return n_inside_; }

  void push(const Candidate& c) {
    if (!(c.score <= bound_)) return;
    n_inside_ += c.score < radius_;
    take_(c);
  }

 private:
  float radius_, bound_;
  idx_t n_inside_ = 0;
  std::function<void(const Candidate&)> take_;
};

Scanned scan_lists(const Probes& probes, const float* lut, const LutU8& lut_u8,
                   RangeCollector& found);

}  // namespace fq
