#include "core/shortlist.hpp"

#include <algorithm>

#include "dispatch/dispatch.hpp"

namespace fq {

void scan_lists(const InvertedLists& lists, idx_t n_probed, const idx_t* list_no,
                const float* coarse_score, const float* lut, Selection selection, TopK& shortlist) {
  const LutScan kernel = lut_scan_kernel();
  const idx_t block_bytes = idx_t{lists.code_size()} * kScanBlock;
  float score[kScanBlock];
  for (idx_t p = 0; p < n_probed; ++p) {
    if (list_no[p] == -1) continue;
    const InvertedLists::List& list = lists.list(list_no[p]);
    const std::uint8_t* selected = nullptr;
    if (selection.selected) selected = selection.selected + selection.list_begin[list_no[p]];
    const std::uint8_t* block = list.codes.data();
    for (idx_t begin = 0; begin < list.size(); begin += kScanBlock, block += block_bytes) {
      const int n = static_cast<int>(std::min<idx_t>(kScanBlock, list.size() - begin));
      const std::uint8_t* mask = selected ? selected + begin : nullptr;
      if (mask && std::all_of(mask, mask + n, [](std::uint8_t s) { return s == 0; })) continue;
      kernel(block, lists.M(), lists.nbits(), lut, score);
      const float* bias = list.bias.data() + begin;
      const float threshold = shortlist.threshold();
      int n_below = 0;  // counted without a branch: most blocks have none
      for (int i = 0; i < n; ++i) {
        score[i] = (coarse_score[p] + score[i]) + bias[i];
        n_below += score[i] <= threshold;
      }
      if (n_below == 0) continue;
      for (int i = 0; i < n; ++i)
        if (score[i] <= threshold && (!mask || mask[i]))
          shortlist.push({score[i], list.ids[begin + i], list_no[p], begin + i});
    }
  }
}

}  // namespace fq
