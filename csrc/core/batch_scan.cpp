#include "core/batch_scan.hpp"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

constexpr int kMostCodes = 32;
constexpr idx_t kMostCandidates = 2048;

// The first lists of each query that it scans alone, and for how many queries together a list is.
constexpr idx_t kFirst = 2;
constexpr int kFew = 4;

// Blocks between two looks at the thresholds.
constexpr idx_t kRun = 4;

constexpr std::size_t kAlignment = 64;

// A query without a bound: every sum is below.
constexpr std::int16_t kAll = 32767;

template <class F>
void for_each_bit(std::uint32_t bits, F f) {
  for (; bits; bits &= bits - 1) f(std::countr_zero(bits));
}

class BatchScan {
 public:
  BatchScan(const Probes& probes, std::uint32_t usable, const float* lut, BatchScratch& s,
            TopK* found)
      : probes_(probes), usable_(usable), lut_(lut), s_(s), found_(found) {}

  Scanned scan() {
    s_.place.resize(static_cast<std::size_t>(probes_.lists.nlist()), -1);
    quantize();
    find_shared();
    for_each_bit(usable_, [&](int j) { scan_alone(j); });
    bool ready = false;
    for (const BatchScratch::Shared& list : s_.lists) {
      place(list.list_no) = -1;
      if (list.n_members < kFew) continue;
      if (!std::exchange(ready, true)) interleave();
      probes_.ratios ? scan_shared<true>(list) : scan_shared<false>(list);
    }
    return scanned_;
  }

 private:
  const float* lut(int j) const { return lut_ + j * idx_t{M_} * 256; }
  idx_t list_no(int j, idx_t p) const { return probes_.list_no[j * probes_.n + p]; }
  std::int32_t& place(idx_t list_no) { return s_.place[static_cast<std::size_t>(list_no)]; }
  BatchScratch::Shared& shared(idx_t list_no) {
    return s_.lists[static_cast<std::size_t>(place(list_no))];
  }
  bool is_sharing(int j) const { return sharing_ >> j & 1; }

  // 8-bit tables of all queries, of one scale where they are of similar sizes: the largest would
  // leave nothing of tables much smaller than it.
  void quantize() {
    float most = 0;
    for_each_bit(usable_, [&](int j) {
      LutU8& bounds = s_.lut_u8[j];
      if (!bounds.measure(M_, lut(j))) return;
      if (most == 0) most = 2 * bounds.range();
      if (bounds.range() > most || bounds.range() < most / 4 || !probes_once(j)) return;
      sharing_ |= std::uint32_t{1} << j;
      range_ = std::max(range_, bounds.range());
      low_[j] = bounds.low();
      magnitude_[j] = bounds.magnitude();
    });
    for_each_bit(usable_, [&](int j) {
      if (is_sharing(j))
        s_.lut_u8[j].quantize(lut(j), range_);
      else
        s_.lut_u8[j].quantize(M_, lut(j));
    });
  }

  // Lists that a caller has chosen may come twice, and are scanned twice then.
  bool probes_once(int j) {
    bool once = true;
    for (idx_t p = kFirst; p < probes_.n; ++p)
      if (list_no(j, p) != -1) once &= std::exchange(place(list_no(j, p)), 0) == -1;
    for (idx_t p = kFirst; p < probes_.n; ++p)
      if (list_no(j, p) != -1) place(list_no(j, p)) = -1;
    return once;
  }

  void find_shared() {
    s_.lists.clear();
    for (idx_t p = kFirst; p < probes_.n; ++p)  // the nearest first: thresholds fall sooner
      for_each_bit(sharing_, [&](int j) {
        if (list_no(j, p) == -1) return;
        std::int32_t& at = place(list_no(j, p));
        if (at == -1) {
          at = static_cast<std::int32_t>(s_.lists.size());
          s_.lists.push_back({list_no(j, p)});
        }
        BatchScratch::Shared& list = shared(list_no(j, p));
        list.members |= std::uint32_t{1} << j;
        ++list.n_members;
        list.coarse_score[j] = probes_.coarse_score[j * probes_.n + p];
      });
  }

  void scan_alone(int j) {
    s_.list_no.clear();
    s_.coarse_score.clear();
    for (idx_t p = 0; p < probes_.n; ++p) {
      if (list_no(j, p) == -1) continue;
      const bool may_share = p >= kFirst && is_sharing(j);
      if (may_share && shared(list_no(j, p)).n_members >= kFew) continue;
      s_.list_no.push_back(list_no(j, p));
      s_.coarse_score.push_back(probes_.coarse_score[j * probes_.n + p]);
    }
    Probes alone = probes_;
    alone.n = static_cast<idx_t>(s_.list_no.size());
    alone.list_no = s_.list_no.data();
    alone.coarse_score = s_.coarse_score.data();
    const Scanned one = scan_lists(alone, lut(j), s_.lut_u8[j], found_[j]);
    scanned_.n_lists += one.n_lists;
    scanned_.n_codes += one.n_codes;
    threshold_[j] = found_[j].threshold();
  }

  void interleave() {
    const std::size_t size = static_cast<std::size_t>(M_) * 256 * kBatch;
    s_.lut.resize(size + kAlignment);
    void* aligned = s_.lut.data();
    std::size_t space = s_.lut.size();
    u8_ = static_cast<std::uint8_t*>(std::align(kAlignment, size, aligned, space));
    const std::uint8_t* luts[kBatch];  // that of some other query where there is none
    for (int j = 0; j < kBatch; ++j)
      luts[j] = s_.lut_u8[is_sharing(j) ? j : std::countr_zero(sharing_)].values();
    interleave_luts(M_, luts, u8_);
    inverse_ = 255 / range_;  // inf for constant tables, whose values are zero
  }

  // What the sums of all queries are compared with in a list, and what they add to them. Branches
  // would keep the compiler from vectorising; queries that are not in the list get some number.
  template <bool kRatios>
  void put_limits(const BatchScratch::Shared& list) {
    // Half a unit for a bias, or for each of three numbers, all below 1, of a ratio's product.
    constexpr float kRounding = kRatios ? 1.5f : 0.5f;
    // Above a bias too small for its 16 bits, which all survive.
    const float least = kRatios ? -32768.0f : 255.0f * static_cast<float>(M_) - 32767;
    for (int j = 0; j < kBatch; ++j) {
      const float coarse = list.coarse_score[j], threshold = threshold_[j];
      const float constant = kRatios
                                 ? LutU8::constant_of_ratios(M_, low_[j], magnitude_[j], coarse)
                                 : LutU8::constant(M_, low_[j], magnitude_[j], coarse, threshold);
      float x = (threshold - constant) * inverse_ + kRounding;
      x = x < kAll ? x : kAll;  // NaN: the second
      x = x > least ? x : least;
      // To the integer below, but one more where a float of this size is rounded to it.
      limit_[j] = static_cast<std::int16_t>(static_cast<int>(x + 32768.0f) - 32768);
      if constexpr (kRatios) {
        // A ratio beyond 2 counts as 2, which lets more through only where scores are negative.
        const float slope = -threshold * inverse_;
        const bool fits = slope >= 0 && slope <= 32767.0f;
        slope_[j] = static_cast<std::int16_t>(fits ? slope + 0.5f : 0.0f);
        if (!fits) limit_[j] = kAll;
      } else {
        slope_[j] = -32768;
      }
    }
  }

  template <bool kRatios>
  void scan_shared(const BatchScratch::Shared& probed) {
    const InvertedLists& lists = probes_.lists;
    const InvertedLists::List& list = lists.list(probed.list_no);
    const idx_t size = list.size(), block_bytes = lists.block_bytes();
    BiasRows bias = bias_of(lists, probes_.rate, probed.list_no);
    scanned_.n_codes += size * probed.n_members;
    scanned_.n_lists += size > 0 ? probed.n_members : 0;
    std::uint32_t survivors[kRun * kScanBlock];
    bool fallen = true;  // thresholds, since they were looked at
    for (idx_t begin = 0; begin < size; begin += kRun * kScanBlock) {
      if (std::exchange(fallen, false)) put_limits<kRatios>(probed);
      const idx_t n = std::min<idx_t>(size - begin, kRun * kScanBlock);
      const std::uint8_t* blocks = list.blocks.data() + begin / kScanBlock * block_bytes;
      scan_(blocks, block_bytes, n, M_, u8_, bias, kRatios ? 32768.0f : -inverse_, slope_, limit_,
            survivors);
      for (idx_t i = 0; i < n; ++i) {
        const std::uint32_t bits = survivors[i] & probed.members;
        if (bits == 0) continue;
        const std::uint8_t* code = blocks + i / kScanBlock * block_bytes + i % kScanBlock;
        const float beside = bias_at(bias, i);
        for_each_bit(bits, [&](int j) {
          const float sum = probed.coarse_score[j] + sum_of(code, M_, lut(j));
          const float score = kRatios ? sum / beside : sum + beside;
          if (!(score <= threshold_[j])) return;
          found_[j].push({score, list.ids[begin + i], probed.list_no, begin + i});
          fallen |= found_[j].threshold() < threshold_[j];
          threshold_[j] = found_[j].threshold();
        });
      }
      bias.rows += kRun * bias.block_bytes;
    }
  }

  const Probes& probes_;
  const std::uint32_t usable_;
  const float* lut_;
  BatchScratch& s_;
  TopK* found_;
  const LutScanBatch scan_ = lut_scan_batch_kernel();
  const int M_ = n_codes(probes_.lists, probes_.rate);
  Scanned scanned_;
  std::uint32_t sharing_ = 0;      // queries with tables of the scale range_ / 255
  float range_ = 0, inverse_ = 0;  // inverse_: of the scale
  std::uint8_t* u8_ = nullptr;     // (M, 256, kBatch)
  float low_[kBatch] = {}, magnitude_[kBatch] = {};  // of LutU8
  float threshold_[kBatch] = {};
  std::int16_t slope_[kBatch], limit_[kBatch];
};

}  // namespace

bool can_scan_batch(const Probes& probes, idx_t n_short) {
  const ScanLimits& limits = probes.limits;
  return probes.lists.nbits() == 8 && n_codes(probes.lists, probes.rate) <= kMostCodes &&
         n_short <= kMostCandidates && !limits.count() && limits.max_lists == 0 &&
         probes.selection.is_all();
}

Scanned scan_batch(const Probes& probes, std::uint32_t usable, const float* lut,
                   BatchScratch& scratch, TopK* found) {
  return BatchScan(probes, usable, lut, scratch, found).scan();
}

}  // namespace fq
