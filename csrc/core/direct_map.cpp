#include "core/direct_map.hpp"

#include <algorithm>
#include <utility>

#include "core/check.hpp"
#include "core/growth.hpp"

namespace fq {

DirectMap::DirectMap(const InvertedLists& lists, idx_t ntotal) : nlist_(lists.nlist()) {
  std::vector<std::pair<idx_t, Position>> found;
  found.reserve(static_cast<std::size_t>(lists.ntotal()));
  for (idx_t l = 0; l < nlist_; ++l)
    for (idx_t o = 0; o < lists.list(l).size(); ++o)
      found.push_back({lists.list(l).ids[o], {l, o}});
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  idx_t last = -1;
  for (const auto& [id, position] : found) {
    check<StateError>(id > last && id < ntotal,
                      "a direct map needs the sequential ids that `add` gives");
    push(last = id, position);
  }
}

void DirectMap::push(idx_t id, const Position& position) {
  const auto size = static_cast<idx_t>(positions_.size());
  if (!ids_.empty() || id != size) {
    if (ids_.empty())
      for (idx_t i = 0; i < size; ++i) ids_.push_back(i);
    ids_.push_back(id);
  }
  positions_.push_back(static_cast<std::uint64_t>(position.offset * nlist_ + position.list_no));
}

void DirectMap::reserve(idx_t n, const idx_t* list_no, idx_t first_id) {
  const auto n_stored = n - std::count(list_no, list_no + n, -1);
  const std::size_t size = positions_.size() + static_cast<std::size_t>(n_stored);
  reserve_for(positions_, size);
  if (!ids_.empty() || first_id + n != static_cast<idx_t>(size)) reserve_for(ids_, size);
}

void DirectMap::append(idx_t n, const idx_t* list_no, const idx_t* offset, idx_t first_id) {
  for (idx_t i = 0; i < n; ++i)
    if (list_no[i] != -1) push(first_id + i, {list_no[i], offset[i]});
}

std::optional<Position> DirectMap::find(idx_t id) const {
  auto i = static_cast<std::size_t>(id);
  if (!ids_.empty()) {
    const auto at = std::lower_bound(ids_.begin(), ids_.end(), id);
    if (at == ids_.end() || *at != id) return std::nullopt;
    i = static_cast<std::size_t>(at - ids_.begin());
  }
  if (i >= positions_.size()) return std::nullopt;  // a negative id is beyond any size
  const auto position = static_cast<idx_t>(positions_[i]);
  return Position{position % nlist_, position / nlist_};
}

}  // namespace fq
