#include "core/list_builder.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/bias.hpp"
#include "core/check.hpp"
#include "core/parallel.hpp"
#include "core/sorted_ids.hpp"

namespace fq {
namespace {

constexpr int kIdBytes = sizeof(idx_t);

idx_t load_id(const std::uint8_t* record) {
  idx_t id;
  std::memcpy(&id, record, kIdBytes);
  return id;
}

}  // namespace

ListBuilder::ListBuilder(idx_t nlist, int code_size, bool has_beside)
    : code_size_(code_size),
      has_beside_(has_beside),
      record_(kIdBytes + (has_beside ? kBiasBytes : 0) + code_size) {
  check(nlist >= 1 && nlist < kNotStored, "nlist: expected 1 to ", kNotStored - 1, ", got ", nlist);
  check(code_size >= 1 && code_size <= 256, "code_size: expected 1 to 256, got ", code_size);
  counts_.resize(static_cast<std::size_t>(nlist));
}

void ListBuilder::count(idx_t n, const std::uint32_t* list_no, const idx_t* ids, idx_t first_id) {
  for (idx_t i = 0; i < n; ++i)
    if (list_no[i] >= counts_.size() && list_no[i] != kNotStored)
      check(false, "list_no[", i, "]: expected below ", nlist(), ", got ", list_no[i]);
  for (idx_t i = 0; i < n; ++i) {
    if (list_no[i] == kNotStored) continue;
    Count& count = counts_[list_no[i]];
    const idx_t id = ids ? ids[i] : first_id + i;
    count.are_offsets &= id == count.n;
    count.least = count.n == 0 ? id : std::min(count.least, id);
    count.most = count.n == 0 ? id : std::max(count.most, id);
    ++count.n;
  }
}

void ListBuilder::set_counts(std::vector<Count> counts) {
  check(static_cast<idx_t>(counts.size()) == nlist(), "counts: expected ", nlist(), ", got ",
        counts.size());
  for (const Count& c : counts)
    check(c.n >= 0 && c.n <= idx_t{1} << 40 && c.least <= c.most, "counts: not those of lists");
  counts_ = std::move(counts);
  begin(0, 0);
}

InvertedLists::Head ListBuilder::head(idx_t list_no) const {
  const Count& count = counts_[static_cast<std::size_t>(list_no)];
  if (count.are_offsets) return {count.n, {}};
  check(SortedIds::fits(count.n), "list ", list_no, ": expected below 2^30 vectors, got ", count.n);
  return {count.n, {SortedIds::head_for(count.least, count.most, count.n), 0}};
}

std::size_t ListBuilder::block_nbytes(idx_t list_no) const {
  const idx_t n = (counts_[static_cast<std::size_t>(list_no)].n + kScanBlock - 1) / kScanBlock;
  return static_cast<std::size_t>(n * (kScanBlock * code_size_ + (has_beside_ ? kBiasRow : 0)));
}

std::size_t ListBuilder::ids_nbytes(idx_t list_no) const {
  return SortedIds::nbytes(head(list_no).ids.sorted);
}

void ListBuilder::begin(idx_t first, idx_t end) {
  check(first >= 0 && first <= end && end <= nlist(), "first, end: expected lists of ", nlist(),
        ", got ", first, ", ", end);
  records_.reset();  // before there are others
  first_ = end_ = 0;
  std::vector<idx_t> begins{0};
  for (idx_t l = first; l < end; ++l)
    begins.push_back(begins.back() + counts_[static_cast<std::size_t>(l)].n);
  next_.assign(begins.begin(), begins.end() - 1);
  begin_ = std::move(begins);
  records_.reset(new std::uint8_t[static_cast<std::size_t>(begin_.back() * record_)]);
  first_ = first, end_ = end;
}

void ListBuilder::add(idx_t n, const std::uint32_t* list_no, const std::uint8_t* codes,
                      const std::uint16_t* beside, const idx_t* ids, idx_t first_id,
                      const Execution& run) {
  check((beside != nullptr) == has_beside_, "beside: expected ", has_beside_ ? "some" : "none");
  // Each thread has lists of its own, about as many vectors, and looks at all rows for them.
  const idx_t total = begin_.back();
  const int n_threads = n_workers(std::max(run.n_threads, 1), run);
  parallel_for(n_threads, run, [&](idx_t part, int) {
    const auto bound = [&](idx_t p) {
      return std::lower_bound(begin_.begin(), begin_.end(), total * p / n_threads) - begin_.begin();
    };
    const idx_t low = bound(part), high = part + 1 == n_threads ? end_ - first_ : bound(part + 1);
    const auto from = static_cast<std::uint64_t>(first_ + low);
    const auto width = static_cast<std::uint64_t>(high - low);
    for (idx_t i = 0; i < n; ++i) {
      const std::uint64_t mine = list_no[i] - from;
      if (mine >= width) continue;
      const auto l = static_cast<std::size_t>(low) + mine;
      if (next_[l] == begin_[l + 1])
        check(false, "list ", list_no[i], ": gets more than the ", begin_[l + 1] - begin_[l],
              " vectors that were counted");
      std::uint8_t* to = records_.get() + next_[l]++ * record_;
      const idx_t id = ids ? ids[i] : first_id + i;
      std::memcpy(to, &id, kIdBytes);
      to += kIdBytes;
      if (beside) {
        if ((beside[i] & 0x7F80) == 0x7F80)
          check(false, "beside[", i, "]: expected a finite number");
        std::memcpy(to, beside + i, kBiasBytes);
        to += kBiasBytes;
      }
      std::memcpy(to, codes + i * code_size_, static_cast<std::size_t>(code_size_));
    }
  });
}

void ListBuilder::write(idx_t first, idx_t end, std::uint8_t* blocks, std::uint8_t* ids,
                        const Execution& run) const {
  check(first >= first_ && first <= end && end <= end_, "first, end: expected lists in ", first_,
        " .. ", end_, ", got ", first, ", ", end);
  struct Place {
    std::uint8_t *blocks, *ids;
  };
  std::vector<Place> places;
  for (idx_t l = first; l < end; ++l) {
    places.push_back({blocks, ids});
    blocks += block_nbytes(l);
    ids += ids_nbytes(l);
  }
  parallel_for(end - first, run, [&](idx_t i, int) {
    const Place& place = places[static_cast<std::size_t>(i)];
    write_list(first + i, place.blocks, place.ids);
  });
}

void ListBuilder::write_list(idx_t list_no, std::uint8_t* blocks, std::uint8_t* ids) const {
  const auto at = static_cast<std::size_t>(list_no - first_);
  const Count& count = counts_[static_cast<std::size_t>(list_no)];
  const idx_t begin = begin_[at], n = count.n;
  check(next_[at] - begin == n, "list ", list_no, ": expected the ", n,
        " vectors that were counted, got ", next_[at] - begin);
  if (n == 0) return;
  std::vector<std::pair<idx_t, idx_t>> order;  // id, and its record
  order.reserve(static_cast<std::size_t>(n));
  for (idx_t i = 0; i < n; ++i) order.emplace_back(load_id(record(begin + i)), begin + i);
  if (!std::is_sorted(order.begin(), order.end())) std::sort(order.begin(), order.end());

  std::memset(blocks, 0, block_nbytes(list_no));
  const idx_t block_bytes = code_size_ * kScanBlock + (has_beside_ ? kBiasRow : 0);
  for (idx_t i = 0; i < n; ++i) {
    const std::uint8_t* from = record(order[static_cast<std::size_t>(i)].second) + kIdBytes;
    std::uint8_t* block = blocks + i / kScanBlock * block_bytes;
    const idx_t column = i % kScanBlock;
    if (has_beside_) {
      std::memcpy(block + code_size_ * kScanBlock + kBiasBytes * column, from, kBiasBytes);
      from += kBiasBytes;
    }
    for (idx_t b = 0; b < code_size_; ++b) block[b * kScanBlock + column] = from[b];
  }

  bool counted = order.front().first == count.least && order.back().first == count.most;
  if (count.are_offsets) {
    for (idx_t i = 0; i < n; ++i) counted &= order[static_cast<std::size_t>(i)].first == i;
  } else if (counted) {
    std::vector<idx_t> sorted(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < sorted.size(); ++i) sorted[i] = order[i].first;
    const SortedIds made(sorted.data(), n);
    std::copy_n(made.bytes().data(), made.bytes().size(), ids);
  }
  check(counted, "list ", list_no, ": its ids are not those that were counted");
}

}  // namespace fq
