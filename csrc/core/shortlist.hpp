// Probed lists x tables -> the best candidates of one query.
#pragma once

#include <cstdint>

#include "core/inverted_lists.hpp"
#include "core/lut.hpp"
#include "core/topk.hpp"

namespace fq {

// Which entries take part: one byte per stored entry, list after list, and where each list starts
// in it ((nlist) prefix sums). A null `selected` takes all.
struct Selection {
  const std::uint8_t* selected = nullptr;
  const idx_t* list_begin = nullptr;
};

// Pushes the entries of the lists (n_probed; -1 is skipped, the others must exist) into
// `shortlist`, scored (coarse score + sum of tables) + bias. lut: (M, K) of this query.
//
// With nbits 8, the 8-bit form of the tables (`lut_u8` is scratch) tells at once which codes of a
// run of blocks may enter; only those get a score, so the shortlist is what float tables give.
void scan_lists(const InvertedLists& lists, idx_t n_probed, const idx_t* list_no,
                const float* coarse_score, const float* lut, Selection selection, LutU8& lut_u8,
                TopK& shortlist);

}  // namespace fq
