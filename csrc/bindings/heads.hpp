// What says where things are in the sections of the file format.
#pragma once

#include "bindings/arrays.hpp"
#include "core/inverted_lists.hpp"

namespace fq::bind {

// head_of(list_no) of nlist lists: sizes and least ids (nlist) int64; (nlist, 3) uint32 and
// (nlist, 2) uint8 of the ids.
template <class HeadOf>
py::tuple heads_of(idx_t nlist, HeadOf head_of) {
  Ids sizes(nlist), least(nlist);
  Array<std::uint32_t> made({nlist, idx_t{3}});
  Bytes bits({nlist, idx_t{2}});
  for (idx_t l = 0; l < nlist; ++l) {
    const InvertedLists::Head head = head_of(l);
    const SortedIds::Head& sorted = head.ids.sorted;
    sizes.mutable_at(l) = head.n;
    least.mutable_at(l) = sorted.least;
    made.mutable_at(l, 0) = sorted.n;
    made.mutable_at(l, 1) = sorted.n_made;
    made.mutable_at(l, 2) = sorted.n_words;
    bits.mutable_at(l, 0) = static_cast<std::uint8_t>(sorted.low_bits);
    bits.mutable_at(l, 1) = static_cast<std::uint8_t>(head.ids.width);
  }
  return py::make_tuple(sizes, least, made, bits);
}

}  // namespace fq::bind
