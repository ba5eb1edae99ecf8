#include "core/shortlist.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

// Blocks between two looks at the threshold: few while it falls quickly, then enough for the
// kernel to run freely. Their codes stay in the first cache until the survivors are scored.
constexpr idx_t kFirstRun = 4, kLongestRun = 32;

// From so many survivors on, scoring a whole block at once is cheaper than one by one; up to so
// many selected codes, the kernel costs more than their scores.
constexpr int kDense = 16, kSparse = 3;

constexpr idx_t kNoLimit = std::numeric_limits<idx_t>::max();

std::uint64_t first_bits(idx_t n) {
  return n < kScanBlock ? (std::uint64_t{1} << n) - 1 : ~std::uint64_t{0};
}

bool is_sparse(std::uint64_t bits) {
  for (int i = 0; i < kSparse; ++i) bits &= bits - 1;
  return bits == 0;
}

// The offset at which a list's scan ends so that no more than `n` selected entries are before it;
// takes from n those that are.
idx_t end_of_scan(const std::uint64_t* words, idx_t size, idx_t& n) {
  if (!words) {
    const idx_t end = std::min(size, n);
    n -= end;
    return end;
  }
  for (idx_t begin = 0; begin < size; begin += kScanBlock) {
    std::uint64_t bits = words[begin / kScanBlock];
    const idx_t count = std::popcount(bits);
    if (count > n) {
      for (; n > 0; --n) bits &= bits - 1;
      return begin + std::countr_zero(bits);
    }
    n -= count;
  }
  return size;
}

// Found: TopK or RangeCollector.
template <bool kRatios, class Found>
Scanned scan(const Probes& probes, const float* lut, const LutU8& lut_u8, Found& found) {
  const InvertedLists& lists = probes.lists;
  const LutScan scan_block = lut_scan_kernel();
  const LutScanU8 scan_u8 = lut_scan_u8_kernel();
  const int M = n_codes(lists, probes.rate);
  const idx_t block_bytes = lists.block_bytes();
  const bool has_bounds = lists.nbits() == 8 && lut_u8.is_usable();
  const ScanLimits& limits = probes.limits;
  const idx_t max_codes = limits.max_codes > 0 ? limits.max_codes : kNoLimit;
  const idx_t max_lists = limits.max_lists > 0 ? limits.max_lists : kNoLimit;
  Scanned scanned;
  idx_t run = kFirstRun;
  [[maybe_unused]] idx_t n_found = 0, n_empty = 0;
  std::uint64_t survivors[kLongestRun];

  for (idx_t p = 0; scanned.n_codes < max_codes && scanned.n_lists < max_lists; ++p) {
    std::optional<Probe> probe;
    if (p < probes.n)
      probe = {probes.list_no[p], probes.coarse_score[p]};
    else if (scanned.n_codes < limits.min_codes && probes.further)
      probe = probes.further();
    if (!probe) break;
    const idx_t list_no = probe->list_no;
    const float coarse_score = probe->coarse_score;
    if (list_no == -1) continue;
    const InvertedLists::List& list = lists.list(list_no);
    const BiasRows beside = bias_of(lists, probes.rate, list_no);
    const std::uint64_t* words = probes.selection.words(list_no, list.ids);
    const idx_t room = limits.whole_lists ? kNoLimit : max_codes - scanned.n_codes;
    idx_t unused = room;
    const idx_t size = end_of_scan(words, list.size(), unused);
    scanned.n_codes += room - unused;
    scanned.n_lists += list.size() > 0;

    auto scored = [&](float sum, float bias) {
      return kRatios ? (coarse_score + sum) / bias : (coarse_score + sum) + bias;
    };
    // Scores those codes of a block that are in `bits`; the block starts at offset `begin`.
    auto enter = [&](const std::uint8_t* block, idx_t begin, std::uint64_t bits) {
      float score[kScanBlock];
      const bool dense = !has_bounds || std::popcount(bits) >= kDense;
      if (dense) {
        scan_block(block, M, lists.nbits(), lut, score);
        const idx_t n = std::min<idx_t>(kScanBlock, size - begin);
        const float threshold = found.threshold();
        int n_below = 0;  // counted without a branch: most blocks have none
        for (idx_t i = 0; i < n; ++i) {
          score[i] = scored(score[i], bias_at(beside, begin + i));
          n_below += score[i] <= threshold;
        }
        if (n_below == 0) return;
      }
      for (; bits; bits &= bits - 1) {
        const int i = std::countr_zero(bits);
        const float s =
            dense ? score[i] : scored(sum_of(block + i, M, lut), bias_at(beside, begin + i));
        if (!(s <= found.threshold())) continue;
        const idx_t id = list.ids[begin + i];
        if (words || probes.selection.accepts(id)) found.push({s, id, list_no, begin + i});
      }
    };

    // The entries of the block at offset `begin` that take part.
    auto wanted = [&](idx_t begin) {
      const std::uint64_t all = first_bits(size - begin);
      return words ? words[begin / kScanBlock] & all : all;
    };

    idx_t n = 0;
    for (idx_t begin = 0; begin < size; begin += n) {
      const std::uint8_t* block = list.blocks.data() + begin / kScanBlock * block_bytes;
      n = std::min(size - begin, run * kScanBlock);
      if (words) {  // blocks with nothing to scan, or little, stay out of the run
        if (const std::uint64_t bits = wanted(begin); is_sparse(bits)) {
          if (bits) enter(block, begin, bits);
          n = kScanBlock;
          continue;
        }
        idx_t end = begin + kScanBlock;
        while (end < begin + n && !is_sparse(wanted(end))) end += kScanBlock;
        n = std::min(end, size) - begin;
      }
      const float threshold = found.threshold();
      float constant = NAN;
      if (has_bounds && std::isfinite(threshold))
        constant = kRatios ? lut_u8.constant_of_ratios(coarse_score)
                           : lut_u8.constant(coarse_score, threshold);
      const bool bounded = std::isfinite(constant);
      if (bounded) {
        BiasRows bias = beside;
        bias.rows += begin / kScanBlock * bias.block_bytes;
        scan_u8(block, block_bytes, n, M, lut_u8.values(), bias, lut_u8.scale(),
                kRatios ? -threshold : 1.0f, constant, kRatios ? 0.0f : threshold, survivors);
        run = std::min(2 * run, kLongestRun);
      }
      for (idx_t i = 0; i < n; i += kScanBlock, block += block_bytes) {
        std::uint64_t bits = bounded ? survivors[i / kScanBlock] : first_bits(n - i);
        if (words) bits &= words[(begin + i) / kScanBlock];
        if (bits) enter(block, begin + i, bits);
      }
    }

    if constexpr (std::is_same_v<Found, RangeCollector>) {
      n_empty = found.n_inside() == n_found ? n_empty + 1 : 0;
      n_found = found.n_inside();
      if (limits.max_empty_lists > 0 && n_empty >= limits.max_empty_lists) break;
    }
  }
  return scanned;
}

template <class Found>
Scanned scan(const Probes& probes, const float* lut, const LutU8& lut_u8, Found& found) {
  return probes.ratios ? scan<true>(probes, lut, lut_u8, found)
                       : scan<false>(probes, lut, lut_u8, found);
}

}  // namespace

Scanned scan_lists(const Probes& probes, const float* lut, const LutU8& lut_u8, TopK& found) {
  return scan(probes, lut, lut_u8, found);
}

Scanned scan_lists(const Probes& probes, const float* lut, const LutU8& lut_u8,
                   RangeCollector& found) {
  return scan(probes, lut, lut_u8, found);
}

}  // namespace fq
