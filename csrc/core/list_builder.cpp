#include "core/list_builder.hpp"

#include <algorithm>
#include <atomic>

#include "core/check.hpp"
#include "core/parallel.hpp"

namespace fq {
namespace {

constexpr idx_t kListsAtOnce = 16;  // by one thread

}  // namespace

ListBuilder::ListBuilder(idx_t nlist, int M, int nbits, Beside beside)
    : counts_(static_cast<std::size_t>(nlist)), lists_(1, M, nbits, beside) {
  check(nlist >= 1 && nlist < idx_t{kNotStored}, "nlist: expected 1 to ", kNotStored - 1, ", got ",
        nlist);
}

void ListBuilder::count(const Rows& rows) {
  for (idx_t i = 0; i < rows.n; ++i)
    if (rows.list_no[i] >= counts_.size() && rows.list_no[i] != kNotStored)
      check(false, "list_no[", i, "]: expected below ", nlist(), ", got ", rows.list_no[i]);
  for (idx_t i = 0; i < rows.n; ++i) {
    if (rows.list_no[i] == kNotStored) continue;
    Count& count = counts_[rows.list_no[i]];
    const idx_t id = rows.ids ? rows.ids[i] : rows.first_id + i;
    any_wide_ = any_wide_ || id >> 32 != 0;
    count.width = std::max(count.width, ListIds::width_for(id, count.n));
    count.least = count.n == 0 ? id : std::min(count.least, id);
    count.greatest = count.n == 0 ? id : std::max(count.greatest, id);
    ++count.n;
  }
}

bool ListBuilder::is_sorted(const Count& count) {
  return ListIds::wants_sorting(count.n, 0, count.width);
}

InvertedLists::Head ListBuilder::head(idx_t list_no) const {
  const Count& count = counts_[static_cast<std::size_t>(list_no)];
  if (!is_sorted(count)) return {count.n, {{}, count.width}};
  return {count.n, {SortedIds::head_of(count.n, count.least, count.greatest), 0}};
}

std::size_t ListBuilder::blocks_nbytes(idx_t list_no) const {
  return lists_.bytes_for(counts_[static_cast<std::size_t>(list_no)].n);
}

std::size_t ListBuilder::ids_nbytes(idx_t list_no) const {
  const InvertedLists::Head head = this->head(list_no);
  return SortedIds::nbytes(head.ids.sorted) + ListIds::recent_nbytes(head.ids, head.n);
}

void ListBuilder::begin(idx_t first, idx_t last) {
  check(first >= 0 && first < last && last <= nlist(), "lists: expected some of ", nlist(),
        ", got ", first, " to ", last);
  const auto n = static_cast<std::size_t>(last - first);
  first_ = first;
  lists_ = InvertedLists(last - first, lists_.M(), lists_.nbits(), lists_.beside());
  filled_.assign(n, 0);
  begin_.assign(n, 0);
  idx_t total = 0;
  for (std::size_t l = 0; l < n; ++l) {
    const idx_t size = counts_[static_cast<std::size_t>(first) + l].n;
    begin_[l] = total;
    total += size;
    lists_.make_blocks(static_cast<idx_t>(l), size);
  }
  narrow_ = {};
  wide_ = {};
  if (any_wide_)
    wide_.resize(static_cast<std::size_t>(total));
  else
    narrow_.resize(static_cast<std::size_t>(total));
}

void ListBuilder::fill(const Rows& rows, const Execution& run) {
  const std::size_t n_lists = filled_.size();
  std::atomic<bool> too_many{false};
  const auto n_parts = static_cast<std::size_t>(run.n_threads);
  parallel_for(run.n_threads, run, [&](idx_t part, int) {
    const std::size_t from = n_lists * static_cast<std::size_t>(part) / n_parts;
    const std::size_t to = n_lists * (static_cast<std::size_t>(part) + 1) / n_parts;
    for (idx_t i = 0; i < rows.n; ++i) {
      const std::size_t l = std::size_t{rows.list_no[i]} - static_cast<std::size_t>(first_);
      if (l < from || l >= to || rows.list_no[i] == kNotStored) continue;
      const idx_t offset = filled_[l];
      if (offset >= counts_[static_cast<std::size_t>(first_) + l].n) {
        too_many = true;
        return;
      }
      ++filled_[l];
      const auto at = static_cast<std::size_t>(begin_[l] + offset);
      const idx_t id = rows.ids ? rows.ids[i] : rows.first_id + i;
      if (wide_.empty())
        narrow_[at] = static_cast<std::uint32_t>(id);
      else
        wide_[at] = id;
      lists_.put_packed(static_cast<idx_t>(l), offset, rows.codes + i * code_size(),
                        rows.beside ? rows.beside[i] : std::uint16_t{0});
    }
  });
  check(!too_many, "rows: more for a list than were counted");
}

void ListBuilder::finish(const Execution& run) {
  const auto n_lists = static_cast<idx_t>(filled_.size());
  for (std::size_t l = 0; l < filled_.size(); ++l)
    check(filled_[l] == counts_[static_cast<std::size_t>(first_) + l].n,
          "rows: fewer for a list than were counted");
  parallel_for((n_lists + kListsAtOnce - 1) / kListsAtOnce, run, [&](idx_t block, int) {
    std::vector<idx_t> ids;
    const idx_t end = std::min(n_lists, (block + 1) * kListsAtOnce);
    for (idx_t l = block * kListsAtOnce; l < end; ++l) {
      const Count& count = counts_[static_cast<std::size_t>(first_ + l)];
      ids.resize(static_cast<std::size_t>(count.n));
      for (std::size_t i = 0; i < ids.size(); ++i)
        ids[i] = id_of(static_cast<std::size_t>(begin_[static_cast<std::size_t>(l)]) + i);
      lists_.give_ids(l, ids.data(), count.n, count.width);
      if (is_sorted(count)) lists_.replace(l, lists_.sorting(l));
    }
  });
  narrow_ = {};
  wide_ = {};
}

}  // namespace fq
