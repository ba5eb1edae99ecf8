// Where each id is stored, for ids that were numbered in the order of storing. It takes 8 bytes per
// stored vector, twice that once a number has been passed over: never more than what is stored
// justifies, whatever its ids.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/inverted_lists.hpp"
#include "core/types.hpp"

namespace fq {

struct Position {
  idx_t list_no, offset;
};

class DirectMap {
 public:
  // Of all that is stored. StateError unless the ids are distinct and within 0..ntotal-1.
  DirectMap(const InvertedLists& lists, idx_t ntotal);

  // For n vectors from first_id, which is above all ids so far. What reserve() has made room for
  // cannot fail. A list_no of -1 has no entry.
  void reserve(idx_t n, const idx_t* list_no, idx_t first_id);
  void append(idx_t n, const idx_t* list_no, const idx_t* offset, idx_t first_id);

  std::optional<Position> find(idx_t id) const;

  std::size_t allocated() const {
    return ids_.capacity() * sizeof(idx_t) + positions_.capacity() * sizeof(std::uint64_t);
  }

 private:
  void push(idx_t id, const Position& position);

  idx_t nlist_;
  std::vector<std::uint64_t> positions_;  // offset * nlist + list_no, in the order of the ids
  std::vector<idx_t> ids_;                // of these; empty while they are 0, 1, 2 …
};

}  // namespace fq
