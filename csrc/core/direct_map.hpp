// Where each id is stored. By ids that are dense, as `add` numbers them, in an array of 8 bytes an
// id, and three times as long as there are vectors at most; else in a hash table (core/id_table):
// never more than what is stored justifies, whatever its ids. Of duplicates the last in list order,
// so that a map made anew is the same.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/id_table.hpp"
#include "core/inverted_lists.hpp"
#include "core/removal.hpp"
#include "core/types.hpp"

namespace fq {

struct Position {
  idx_t list_no, offset;
};

class DirectMap {
 public:
  explicit DirectMap(const InvertedLists& lists);  // of all that is stored

  // Room for n ids more, within least .. most. May throw, and then changes nothing; put cannot fail
  // for what was reserved.
  void reserve(idx_t n, idx_t least, idx_t most);
  void put(idx_t id, const Position& position);

  // list_no, ids: (n), ids null for first_id and what follows. A list_no of -1 has no entry.
  void reserve(idx_t n, const idx_t* list_no, const idx_t* ids, idx_t first_id);
  void append(idx_t n, const idx_t* list_no, const idx_t* offset, const idx_t* ids, idx_t first_id);

  // While the lists are as before the removal.
  void remove(const InvertedLists& lists, const Removal& removal);
  void release_unused() noexcept;  // after removals
  // The entries of a list have been put in another order.
  void reorder(const InvertedLists& lists, idx_t list_no) noexcept;

  std::optional<Position> find(idx_t id) const;
  idx_t size() const { return n_; }  // ids: fewer than what is stored where there are duplicates

  std::size_t allocated() const {
    return array_.capacity() * sizeof(std::uint64_t) + table_.allocated();
  }

 private:
  static constexpr std::uint64_t kNone = IdTable::kNone;
  std::uint64_t packed(const Position& p) const {
    return static_cast<std::uint64_t>(p.offset * nlist_ + p.list_no);
  }
  Position unpacked(std::uint64_t number) const {
    const auto p = static_cast<idx_t>(number);
    return {p % nlist_, p / nlist_};
  }
  std::uint64_t* find_number(idx_t id);
  void erase(idx_t id);
  void move_to_table(std::size_t n);

  idx_t nlist_, n_ = 0;
  bool is_array_ = true;
  std::vector<std::uint64_t> array_;  // by id; kNone: no entry. Empty beside a table
  IdTable table_;
};

}  // namespace fq
