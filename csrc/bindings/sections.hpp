// What is stored as it lies in memory, for the file format.
#pragma once

#include <algorithm>
#include <vector>

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

inline std::vector<const fq::Bytes*> section_parts(const InvertedLists& lists, bool ids,
                                                   idx_t list_no) {
  const InvertedLists::List& list = lists.list(list_no);
  if (ids) return {&list.ids.sorted_bytes(), &list.ids.recent_bytes()};
  return {&list.blocks};
}

// The bytes of a section from a list and one of its parts on: up to kChunk copied, or one array
// that is longer as it is, a part of `owner`. And where to go on.
inline py::tuple export_section_of(const InvertedLists& lists, const py::object& owner, bool ids,
                                   idx_t list_no, std::size_t part) {
  constexpr std::size_t kChunk = 1 << 20;
  std::vector<const fq::Bytes*> chunk;
  std::size_t n = 0;
  for (; list_no < lists.nlist(); ++list_no, part = 0) {
    const auto parts = section_parts(lists, ids, list_no);
    for (; part < parts.size() && (chunk.empty() || n + parts[part]->size() <= kChunk); ++part) {
      chunk.push_back(parts[part]);
      n += parts[part]->size();
    }
    if (part < parts.size()) break;
  }
  if (chunk.size() == 1 && n > kChunk)
    return py::make_tuple(Bytes(static_cast<idx_t>(n), chunk[0]->data(), owner), list_no, part);
  Bytes out(static_cast<idx_t>(n));
  std::uint8_t* to = out.mutable_data();
  for (const fq::Bytes* from : chunk) to = std::copy_n(from->data(), from->size(), to);
  return py::make_tuple(out, list_no, part);
}

}  // namespace fq::bind
