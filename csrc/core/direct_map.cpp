#include "core/direct_map.hpp"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "core/growth.hpp"

namespace fq {
namespace {

// The longest array for n ids.
std::size_t longest(idx_t n) { return 3 * static_cast<std::size_t>(n) + 64; }

}  // namespace

DirectMap::DirectMap(const InvertedLists& lists) : nlist_(lists.nlist()) {
  idx_t least = std::numeric_limits<idx_t>::max(), most = std::numeric_limits<idx_t>::min();
  for (idx_t l = 0; l < nlist_; ++l)
    lists.list(l).ids.for_each([&](idx_t, idx_t id) {
      least = std::min(least, id);
      most = std::max(most, id);
    });
  reserve(lists.ntotal(), least, most);
  for (idx_t l = 0; l < nlist_; ++l)
    lists.list(l).ids.for_each([&](idx_t o, idx_t id) { put(id, {l, o}); });
}

void DirectMap::reserve(idx_t n, idx_t least, idx_t most) {
  if (n == 0) return;
  if (!is_array_) {
    table_.reserve(static_cast<std::size_t>(n_ + n));
  } else if (least < 0 || static_cast<std::size_t>(most) >= longest(n_ + n)) {
    move_to_table(static_cast<std::size_t>(n_ + n));
  } else {
    reserve_for(array_, static_cast<std::size_t>(most) + 1);
  }
}

void DirectMap::move_to_table(std::size_t n) {
  IdTable table;
  table.reserve(n);
  for (std::size_t id = 0; id < array_.size(); ++id)
    if (array_[id] != kNone) table.put(static_cast<idx_t>(id), array_[id]);
  table_ = std::move(table);
  std::vector<std::uint64_t>().swap(array_);
  is_array_ = false;
}

void DirectMap::put(idx_t id, const Position& position) {
  if (std::uint64_t* number = find_number(id)) {
    const Position other = unpacked(*number);
    if (position.list_no > other.list_no ||
        (position.list_no == other.list_no && position.offset > other.offset))
      *number = packed(position);
    return;
  }
  ++n_;
  if (!is_array_) return table_.put(id, packed(position));
  const auto i = static_cast<std::size_t>(id);
  if (i >= array_.size()) array_.resize(i + 1, kNone);
  array_[i] = packed(position);
}

void DirectMap::reserve(idx_t n, const idx_t* list_no, const idx_t* ids, idx_t first_id) {
  idx_t least = std::numeric_limits<idx_t>::max(), most = std::numeric_limits<idx_t>::min();
  idx_t n_stored = 0;
  for (idx_t i = 0; i < n; ++i) {
    if (list_no[i] == -1) continue;
    ++n_stored;
    least = std::min(least, ids ? ids[i] : first_id + i);
    most = std::max(most, ids ? ids[i] : first_id + i);
  }
  reserve(n_stored, least, most);
}

void DirectMap::append(idx_t n, const idx_t* list_no, const idx_t* offset, const idx_t* ids,
                       idx_t first_id) {
  for (idx_t i = 0; i < n; ++i)
    if (list_no[i] != -1) put(ids ? ids[i] : first_id + i, {list_no[i], offset[i]});
}

void DirectMap::remove(const InvertedLists& lists, const Removal& removal) {
  const idx_t l = removal.list_no();
  const idx_t first = removal.first();
  idx_t to = first;
  lists.list(l).ids.for_each([&](idx_t o, idx_t id) {
    if (o < first) return;
    const bool goes = removal.removes(o);
    std::uint64_t* number = find_number(id);
    if (number && *number == packed({l, o})) {  // not one of duplicates that is not in the map
      if (goes)
        erase(id);
      else
        *number = packed({l, to});
    }
    to += !goes;
  });
}

void DirectMap::reorder(const InvertedLists& lists, idx_t l) noexcept {
  lists.list(l).ids.for_each([&](idx_t o, idx_t id) {
    std::uint64_t* number = find_number(id);
    if (number && unpacked(*number).list_no == l) *number = packed({l, o});
  });
}

void DirectMap::erase(idx_t id) {
  --n_;
  if (is_array_)
    array_[static_cast<std::size_t>(id)] = kNone;
  else
    table_.erase(id);
}

void DirectMap::release_unused() noexcept {
  try {
    if (is_array_) {
      while (!array_.empty() && array_.back() == kNone) array_.pop_back();
      if (array_.size() > longest(n_)) return move_to_table(static_cast<std::size_t>(n_));
      fq::release_unused(array_);
    } else {
      table_.release_unused();
    }
  } catch (const std::bad_alloc&) {  // it stays as it is
  }
}

std::uint64_t* DirectMap::find_number(idx_t id) {
  if (!is_array_) return table_.find(id);
  const auto i = static_cast<std::size_t>(id);  // a negative id is beyond any size
  return i < array_.size() && array_[i] != kNone ? &array_[i] : nullptr;
}

std::optional<Position> DirectMap::find(idx_t id) const {
  const std::uint64_t* number = const_cast<DirectMap*>(this)->find_number(id);
  if (!number) return std::nullopt;
  return unpacked(*number);
}

}  // namespace fq
