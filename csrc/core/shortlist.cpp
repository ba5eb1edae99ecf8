#include "core/shortlist.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

// Blocks between two looks at the threshold: few while it falls quickly, then enough for the
// kernel to run freely. Their codes stay in the first cache until the survivors are scored.
constexpr idx_t kFirstRun = 4, kLongestRun = 32;

// From so many survivors on, scoring a whole block at once is cheaper than one by one.
constexpr int kDense = 16;

std::uint64_t first_bits(idx_t n) {
  return n < kScanBlock ? (std::uint64_t{1} << n) - 1 : ~std::uint64_t{0};
}

// `bits` without those whose byte is zero.
std::uint64_t selected_of(std::uint64_t bits, const std::uint8_t* selected) {
  std::uint64_t result = 0;
  for (std::uint64_t rest = bits; rest;) {
    const int i = std::countr_zero(rest);
    if ((rest >> i & 255) == 255) {  // eight at once: a selection is often sparse
      std::uint64_t eight;
      std::memcpy(&eight, selected + i, 8);
      if (eight == 0) {
        rest &= ~(std::uint64_t{255} << i);
        continue;
      }
    }
    result |= std::uint64_t{selected[i] != 0} << i;
    rest &= rest - 1;
  }
  return result;
}

// One code's sum as lut_scan adds it.
float sum_of(const std::uint8_t* code, int M, const float* lut) {
  float sum = 0;
  for (int m = 0; m < M; ++m) sum += lut[m * 256 + code[m * kScanBlock]];
  return sum;
}

}  // namespace

void scan_lists(const InvertedLists& lists, idx_t n_probed, const idx_t* list_no,
                const float* coarse_score, const float* lut, Selection selection, LutU8& lut_u8,
                TopK& shortlist) {
  const LutScan scan = lut_scan_kernel();
  const LutScanU8 scan_u8 = lut_scan_u8_kernel();
  const int M = lists.M();
  const idx_t block_bytes = idx_t{lists.code_size()} * kScanBlock;
  const bool has_bounds = lists.nbits() == 8 && lut_u8.quantize(M, lut);
  idx_t run = kFirstRun;
  std::uint64_t survivors[kLongestRun];

  for (idx_t p = 0; p < n_probed; ++p) {
    if (list_no[p] == -1) continue;
    const InvertedLists::List& list = lists.list(list_no[p]);
    const std::uint8_t* selected = nullptr;
    if (selection.selected) selected = selection.selected + selection.list_begin[list_no[p]];

    // Scores those codes of a block that are in `bits`; the block starts at offset `begin`.
    auto enter = [&](const std::uint8_t* block, idx_t begin, std::uint64_t bits) {
      if (selected) bits = selected_of(bits, selected + begin);
      if (!bits) return;
      const float* bias = list.bias.data() + begin;
      float score[kScanBlock];
      const bool dense = !has_bounds || std::popcount(bits) >= kDense;
      if (dense) {
        scan(block, M, lists.nbits(), lut, score);
        const idx_t n = std::min<idx_t>(kScanBlock, list.size() - begin);
        const float threshold = shortlist.threshold();
        int n_below = 0;  // counted without a branch: most blocks have none
        for (idx_t i = 0; i < n; ++i) {
          score[i] = (coarse_score[p] + score[i]) + bias[i];
          n_below += score[i] <= threshold;
        }
        if (n_below == 0) return;
      }
      for (; bits; bits &= bits - 1) {
        const int i = std::countr_zero(bits);
        const float s = dense ? score[i] : (coarse_score[p] + sum_of(block + i, M, lut)) + bias[i];
        if (s <= shortlist.threshold())
          shortlist.push({s, list.ids[begin + i], list_no[p], begin + i});
      }
    };

    idx_t n = 0;
    for (idx_t begin = 0; begin < list.size(); begin += n) {
      n = std::min(list.size() - begin, run * kScanBlock);
      const std::uint8_t* block = list.codes.data() + begin / kScanBlock * block_bytes;
      const float threshold = shortlist.threshold();
      const float constant = has_bounds ? lut_u8.constant(coarse_score[p], threshold) : NAN;
      if (std::isfinite(constant)) {
        scan_u8(block, n, M, lut_u8.values(), list.bias.data() + begin, lut_u8.scale(), constant,
                threshold, survivors);
        run = std::min(2 * run, kLongestRun);
      } else {
        for (idx_t i = 0; i < n; i += kScanBlock) survivors[i / kScanBlock] = first_bits(n - i);
      }
      for (idx_t i = 0; i < n; i += kScanBlock, block += block_bytes)
        if (survivors[i / kScanBlock]) enter(block, begin + i, survivors[i / kScanBlock]);
    }
  }
}

}  // namespace fq
