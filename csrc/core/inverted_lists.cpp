#include "core/inverted_lists.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "core/bitpack.hpp"
#include "core/check.hpp"
#include "core/id_table.hpp"
#include "core/parallel.hpp"
#include "core/selection.hpp"

namespace fq {
namespace {

constexpr idx_t kFewIds = 1 << 15;  // that one thread asks a filter about sooner than others start
constexpr idx_t kListsAtOnce = 16;  // by one thread

idx_t blocks_for(idx_t n) { return (n + kScanBlock - 1) / kScanBlock; }

void check_step(std::uint8_t code, int nbits, idx_t row, int m) {
  if (code >> nbits)
    check(false, "codes[", row, ", ", m, "]: expected below ", 1 << nbits, ", got ", int{code});
}

}  // namespace

void check_code_shape(int M, int nbits) {
  check(M >= 1 && M <= 256, "M: expected 1 to 256, got ", M);
  check(nbits >= 4 && nbits <= 8, "nbits: expected 4 to 8, got ", nbits);
}

InvertedLists::InvertedLists(idx_t nlist, int M, int nbits, Beside beside)
    : M_(M), nbits_(nbits), beside_(beside) {
  check(nlist >= 1, "nlist: expected at least 1, got ", nlist);
  check_code_shape(M, nbits);
  code_size_ = packed_size(M, nbits);
  lists_.resize(static_cast<std::size_t>(nlist));
}

const InvertedLists::List& InvertedLists::list(idx_t list_no) const {
  check(list_no >= 0 && list_no < nlist(), "list_no: expected 0 to ", nlist() - 1, ", got ",
        list_no);
  return lists_[static_cast<std::size_t>(list_no)];
}

BiasRows InvertedLists::bias(idx_t list_no) const {
  static constexpr std::uint8_t kNone[kBiasRow] = {};
  const List& of = list(list_no);
  if (beside_ == Beside::Nothing || of.size() == 0) return {kNone, 0, 0.0f};
  return {of.blocks.data() + bias_row(0), block_bytes(), offset_of(beside_)};
}

void InvertedLists::read_bias(idx_t list_no, idx_t begin, idx_t n, float* out) const {
  const BiasRows rows = bias(list_no);
  for (idx_t i = 0; i < n; ++i) out[i] = bias_at(rows, begin + i);
}

std::size_t InvertedLists::bytes_for(idx_t n) const {
  return static_cast<std::size_t>(blocks_for(n) * block_bytes());
}

std::size_t InvertedLists::code_begin(idx_t offset) const {
  return static_cast<std::size_t>(offset / kScanBlock * block_bytes() + offset % kScanBlock);
}

std::size_t InvertedLists::bias_row(idx_t offset) const {
  return static_cast<std::size_t>(offset / kScanBlock * block_bytes() + code_size_ * kScanBlock);
}

void InvertedLists::put_bias(List& list, idx_t offset, float bias) const {
  if (beside_ != Beside::Nothing)
    fq::put_bias(list.blocks.mutable_data() + bias_row(offset), offset % kScanBlock, bias,
                 offset_of(beside_));
}

void InvertedLists::put(List& list, idx_t offset, const std::uint8_t* code, float bias) const {
  std::uint8_t* to = list.blocks.mutable_data() + code_begin(offset);
  for (int m = 0; m < M_; ++m) write_step(to, kScanBlock, m, nbits_, code[m]);
  put_bias(list, offset, bias);
}

// Checks what add() takes, and makes room for it. An add of few vectors to many lists costs little.
void InvertedLists::reserve(idx_t n, const idx_t* list_no, const std::uint8_t* codes,
                            const idx_t* ids, idx_t first_id) {
  constexpr std::uint64_t kVector = 16;
  IdTable growth;  // of a list: kVector for each new one, and below the width of their ids
  std::vector<idx_t> grown;
  for (idx_t i = 0; i < n; ++i) {
    if (list_no[i] == -1) continue;
    if (list_no[i] < 0 || list_no[i] >= nlist())
      check(false, "list_no[", i, "]: expected -1 to ", nlist() - 1, ", got ", list_no[i]);
    for (int m = 0; m < M_; ++m) check_step(codes[i * M_ + m], nbits_, i, m);
    std::uint64_t* found = growth.find(list_no[i]);
    const std::uint64_t before = found ? *found : 0;
    const idx_t offset = list(list_no[i]).size() + static_cast<idx_t>(before / kVector);
    const auto width =
        static_cast<std::uint64_t>(ListIds::width_for(ids ? ids[i] : first_id + i, offset));
    const std::uint64_t after =
        before / kVector * kVector + kVector + std::max(before % kVector, width);
    if (found) {
      *found = after;
    } else {
      growth.reserve(growth.size() + 1);
      growth.put(list_no[i], after);
      grown.push_back(list_no[i]);
    }
  }
  const auto size_of = [&](idx_t no) {
    return list(no).size() + static_cast<idx_t>(*growth.find(no) / kVector);
  };
  // Ids behind all blocks: once they are sorted, they leave a part of the heap that is free.
  for (const idx_t no : grown)
    lists_[static_cast<std::size_t>(no)].blocks.reserve(bytes_for(size_of(no)));
  for (const idx_t no : grown)
    lists_[static_cast<std::size_t>(no)].ids.reserve(size_of(no),
                                                     static_cast<int>(*growth.find(no) % kVector));
}

void InvertedLists::add(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* bias,
                        const idx_t* ids, idx_t first_id, idx_t* offsets) {
  reserve(n, list_no, codes, ids, first_id);
  for (idx_t i = 0; i < n; ++i) {  // nothing below can fail
    if (offsets) offsets[i] = -1;
    if (list_no[i] == -1) continue;
    List& list = lists_[static_cast<std::size_t>(list_no[i])];
    const idx_t offset = list.size();
    if (offsets) offsets[i] = offset;
    list.blocks.resize(bytes_for(offset + 1));
    put(list, offset, codes + i * M_, bias[i]);
    list.ids.push_back(ids ? ids[i] : first_id + i);
    ++ntotal_;
  }
}

void InvertedLists::own(idx_t list_no) {
  List& list = lists_[static_cast<std::size_t>(list_no)];
  list.blocks.reserve(list.blocks.size());
  list.ids.own();
}

void InvertedLists::clear_code(List& list, idx_t offset) const {
  for (int b = 0; b < code_size_; ++b)
    list.blocks.mutable_data()[code_begin(offset) + static_cast<std::size_t>(b * kScanBlock)] = 0;
}

void InvertedLists::replace_code(idx_t list_no, idx_t offset, const std::uint8_t* code,
                                 float bias) noexcept {
  List& list = lists_[static_cast<std::size_t>(list_no)];
  clear_code(list, offset);
  put(list, offset, code, bias);
}

void InvertedLists::read_code(idx_t list_no, idx_t offset, int n_codes, std::uint8_t* code) const {
  const List& list = lists_[static_cast<std::size_t>(list_no)];
  const std::uint8_t* packed = list.blocks.data() + code_begin(offset);
  for (int m = 0; m < n_codes; ++m) code[m] = read_step(packed, kScanBlock, m, nbits_);
}

void InvertedLists::gather(idx_t n, const idx_t* list_no, const idx_t* offset,
                           std::uint8_t* codes) const {
  for (idx_t i = 0; i < n; ++i, codes += M_) {
    if (list_no[i] == -1) {
      std::fill_n(codes, M_, std::uint8_t{255});
      continue;
    }
    const idx_t size = list(list_no[i]).size();
    if (offset[i] < 0 || offset[i] >= size)
      check(false, "offset[", i, "]: expected below ", size, ", the size of list ", list_no[i],
            ", got ", offset[i]);
    read_code(list_no[i], offset[i], M_, codes);
  }
}

void InvertedLists::locate(idx_t id0, idx_t n, idx_t* list_no, idx_t* offset) const {
  std::fill_n(list_no, n, idx_t{-1});
  std::fill_n(offset, n, idx_t{-1});
  for (idx_t l = 0; l < nlist(); ++l) {
    const List& list = lists_[static_cast<std::size_t>(l)];
    list.ids.for_each([&](idx_t o, idx_t id) {
      // Unsigned, because id - id0 may leave the range of idx_t for extreme ids.
      const auto i = static_cast<std::uint64_t>(id) - static_cast<std::uint64_t>(id0);
      if (id < id0 || i >= static_cast<std::uint64_t>(n)) return;
      list_no[i] = l;
      offset[i] = o;
    });
  }
}

std::vector<Removal> InvertedLists::select(const IdFilter* filter, const Execution& run) const {
  Execution asking = run;
  if (ntotal_ < kFewIds) asking.n_threads = 1;
  struct Worker {
    std::vector<std::uint64_t> words;
    std::vector<Removal> found;
  };
  const idx_t n_blocks = (nlist() + kListsAtOnce - 1) / kListsAtOnce;
  std::vector<Worker> workers(static_cast<std::size_t>(n_workers(n_blocks, asking)));
  parallel_for(n_blocks, asking, [&](idx_t block, int w) {
    Worker& worker = workers[static_cast<std::size_t>(w)];
    const idx_t end = std::min((block + 1) * kListsAtOnce, nlist());
    for (idx_t l = block * kListsAtOnce; l < end; ++l) {
      const ListIds& ids = lists_[static_cast<std::size_t>(l)].ids;
      if (ids.size() == 0) continue;
      worker.words.assign(static_cast<std::size_t>((ids.size() + 63) / 64), ~std::uint64_t{0});
      if (filter)
        filter->accept(ids, worker.words.data());
      else if (ids.size() % 64 != 0)
        worker.words.back() >>= 64 - ids.size() % 64;
      if (std::any_of(worker.words.begin(), worker.words.end(),
                      [](auto word) { return word != 0; }))
        worker.found.emplace_back(l, ids.size(), worker.words);
    }
  });
  std::vector<Removal> found = std::move(workers[0].found);
  for (std::size_t w = 1; w < workers.size(); ++w)
    std::move(workers[w].found.begin(), workers[w].found.end(), std::back_inserter(found));
  return found;
}

void InvertedLists::prepare_removal(const std::vector<Removal>& removals) {
  for (const Removal& removal : removals) {
    ListIds& ids = lists_[static_cast<std::size_t>(removal.list_no())].ids;
    // Those that are their offsets are so no more, unless the last ones go.
    if (ids.are_offsets() && removal.first() < removal.n_kept())
      ids.reserve(ids.size(), ListIds::width_for(ids.size() - 1, -1));
    own(removal.list_no());
  }
}

void InvertedLists::remove(const std::vector<Removal>& removals, int n_threads) noexcept {
  try {
    parallel_for(static_cast<idx_t>(removals.size()), {n_threads},
                 [&](idx_t i, int) { remove(removals[static_cast<std::size_t>(i)]); });
  } catch (...) {  // no memory for threads: none has started
    for (const Removal& removal : removals) remove(removal);
  }
  for (const Removal& removal : removals) ntotal_ -= removal.n_removed();
}

void InvertedLists::remove(const Removal& removal) noexcept {
  List& list = lists_[static_cast<std::size_t>(removal.list_no())];
  const idx_t n = removal.n_kept();
  if (n == 0) {
    list = {};
    return;
  }
  removal.visit_moves([&](idx_t from, idx_t to, idx_t count) {
    move_entries(list.blocks.data(), from, list.blocks.mutable_data(), to, count);
  });
  list.blocks.resize(bytes_for(n));
  for (idx_t o = n; o % kScanBlock != 0; ++o) {
    clear_code(list, o);
    put_bias(list, o, offset_of(beside_));
  }
  list.blocks.release_unused();
  list.ids.remove(removal);
}

void InvertedLists::move_entries(const std::uint8_t* blocks, idx_t from, std::uint8_t* to_blocks,
                                 idx_t to, idx_t n) const {
  while (n > 0) {
    const idx_t m = std::min({n, kScanBlock - from % kScanBlock, kScanBlock - to % kScanBlock});
    for (int b = 0; b < code_size_; ++b)
      std::memmove(to_blocks + code_begin(to) + b * kScanBlock,
                   blocks + code_begin(from) + b * kScanBlock, static_cast<std::size_t>(m));
    if (beside_ != Beside::Nothing)
      std::memmove(to_blocks + bias_row(to) + kBiasBytes * (to % kScanBlock),
                   blocks + bias_row(from) + kBiasBytes * (from % kScanBlock),
                   static_cast<std::size_t>(kBiasBytes * m));
    from += m, to += m, n -= m;
  }
}

void InvertedLists::prepare_merge(const InvertedLists& other, idx_t add_id) {
  files_.reserve(files_.size() + other.files_.size());
  for (std::size_t l = 0; l < lists_.size(); ++l) {
    List& list = lists_[l];
    const List& more = other.lists_[l];
    if (more.size() == 0) continue;
    const idx_t size = list.size() + more.size();
    if (list.size() == 0 && more.ids.are_sorted()) continue;  // it takes the other's arrays
    int width = 0;
    more.ids.for_each([&](idx_t o, idx_t id) {
      width = std::max(width, ListIds::width_for(id + add_id, list.size() + o));
    });
    list.ids.reserve(size, width);
    if (list.size() == 0) continue;  // its blocks, at least
    list.blocks.reserve(bytes_for(size));
  }
}

void InvertedLists::merge(InvertedLists& other, idx_t add_id) noexcept {
  files_.insert(files_.end(), other.files_.begin(), other.files_.end());  // reserved
  for (std::size_t l = 0; l < lists_.size(); ++l) {
    List& list = lists_[l];
    List& more = other.lists_[l];
    const idx_t n = list.size();
    if (n == 0 && more.ids.are_sorted()) {
      list = std::move(more);
      list.ids.shift(add_id);
      more = {};
      continue;
    }
    if (n == 0) {
      list.blocks.swap(more.blocks);
    } else {
      list.blocks.resize(bytes_for(n + more.size()));
      move_entries(more.blocks.data(), 0, list.blocks.mutable_data(), n, more.size());
    }
    more.ids.for_each([&](idx_t, idx_t id) { list.ids.push_back(id + add_id); });
    more = {};
  }
  ntotal_ += std::exchange(other.ntotal_, 0);
  other.files_.clear();
}

InvertedLists::Sorting InvertedLists::sorting(const List& list) const {
  Sorting made{list.ids.sorting(), {}};
  const std::vector<idx_t>& order = made.ids.order;
  if (order.empty()) return made;
  made.blocks.reserve(list.blocks.size());
  made.blocks.resize(list.blocks.size());
  for (idx_t o = 0; o < list.size(); ++o)
    move_entries(list.blocks.data(), order[static_cast<std::size_t>(o)], made.blocks.mutable_data(),
                 o, 1);
  return made;
}

void InvertedLists::replace(List& list, Sorting sorting) noexcept {
  if (!sorting.ids.order.empty()) list.blocks = std::move(sorting.blocks);
  list.ids.replace(std::move(sorting.ids.sorted));
}

void InvertedLists::reset() {
  for (List& list : lists_) list = {};
  files_.clear();
  ntotal_ = 0;
}

void InvertedLists::exchange(InvertedLists& other) {
  std::swap_ranges(lists_.begin(), lists_.end(), other.lists_.begin());
  std::swap(ntotal_, other.ntotal_);
  files_.swap(other.files_);
}

void InvertedLists::restore(const std::vector<Head>& heads, const Take& blocks, const Take& ids,
                            std::shared_ptr<const void> file, bool checked) {
  constexpr idx_t kMost = idx_t{1} << 40;  // of one list, so that no size overflows
  check(static_cast<idx_t>(heads.size()) == nlist(), "heads: expected ", nlist(), ", got ",
        heads.size());
  std::vector<List> lists(lists_.size());
  idx_t total = 0;
  for (std::size_t l = 0; l < lists.size(); ++l) {
    const Head& head = heads[l];
    check(head.n >= 0 && head.n <= kMost && ListIds::is_valid(head.ids, head.n), "heads[", l,
          "]: not those of a list");
    List& list = lists[l];
    list.blocks = blocks(bytes_for(head.n));
    Bytes sorted = ids(SortedIds::nbytes(head.ids.sorted));
    Bytes recent = ids(ListIds::recent_nbytes(head.ids, head.n));
    list.ids = ListIds(head.ids, head.n, std::move(sorted), std::move(recent));
    check(!checked || list.ids.is_valid(), "ids: those of list ", l, " are not in order");
    total += head.n;
  }
  lists_ = std::move(lists);
  ntotal_ = total;
  files_.clear();
  if (file) files_.push_back(std::move(file));
}

InvertedLists::Memory InvertedLists::memory() const {
  Memory memory;
  memory.lists = lists_.capacity() * sizeof(List);
  for (const List& list : lists_) {
    const std::size_t n_blocks = list.blocks.allocated() / static_cast<std::size_t>(block_bytes());
    const std::size_t of_bias = beside_ == Beside::Nothing ? 0 : n_blocks * kBiasRow;
    memory.codes += list.blocks.allocated() - of_bias;
    memory.bias += of_bias;
    memory.ids += list.ids.allocated();
  }
  return memory;
}

template <class F>
void InvertedLists::visit(idx_t first, idx_t n, F f) const {
  check(first >= 0 && n >= 0 && n <= ntotal_ - first, "first, n: expected entries of ", ntotal_,
        ", got ", first, ", ", n);
  for (idx_t l = 0; n > 0; ++l) {
    const idx_t size = list(l).size(), m = std::min(n, size - first);
    if (m > 0) {
      f(l, first, first + m);
      n -= m;
    }
    first = std::max<idx_t>(first - size, 0);
  }
}

void InvertedLists::export_codes(idx_t first, idx_t n, std::uint8_t* codes) const {
  visit(first, n, [&](idx_t l, idx_t begin, idx_t end) {
    for (idx_t o = begin; o < end; ++o) {
      const std::uint8_t* packed = list(l).blocks.data() + code_begin(o);
      for (int b = 0; b < code_size_; ++b) *codes++ = packed[b * kScanBlock];
    }
  });
}

void InvertedLists::export_bias(idx_t first, idx_t n, float* bias) const {
  visit(first, n, [&](idx_t l, idx_t begin, idx_t end) {
    read_bias(l, begin, end - begin, bias);
    bias += end - begin;
  });
}

void InvertedLists::export_beside(idx_t first, idx_t n, std::uint16_t* beside) const {
  visit(first, n, [&](idx_t l, idx_t begin, idx_t end) {
    const BiasRows rows = bias(l);
    for (idx_t i = begin; i < end; ++i)
      std::memcpy(beside++,
                  rows.rows + i / kScanBlock * rows.block_bytes + kBiasBytes * (i % kScanBlock),
                  kBiasBytes);
  });
}

void InvertedLists::export_ids(idx_t first, idx_t n, idx_t* ids) const {
  visit(first, n, [&](idx_t l, idx_t begin, idx_t end) {
    list(l).ids.read(begin, end - begin, ids);
    ids += end - begin;
  });
}

void InvertedLists::import_from(const idx_t* sizes, idx_t n, const Rows& rows) {
  idx_t total = 0;
  for (idx_t l = 0; l < nlist(); ++l) {
    check(sizes[l] >= 0 && sizes[l] <= n - total, "sizes[", l, "]: expected 0 to ", n - total, " (",
          n, " entries in all), got ", sizes[l]);
    total += sizes[l];
  }
  check(total == n, "sizes: expected a sum of ", n, ", got ", total);

  std::vector<List> lists(lists_.size());
  const auto most = static_cast<std::size_t>(std::min(n, kImported));
  std::vector<std::uint8_t> codes(most * static_cast<std::size_t>(code_size_));
  std::vector<float> bias(most);
  std::vector<idx_t> ids(most);
  idx_t first = 0, next = 0, end = 0;  // of the entries in hand: that of their first, in them
  for (std::size_t l = 0; l < lists.size(); ++l) {
    List& list = lists[l];
    list.blocks.reserve(bytes_for(sizes[l]));
    list.blocks.resize(bytes_for(sizes[l]));
    while (list.size() < sizes[l]) {
      if (next == end) {
        first += end;
        next = 0;
        end = std::min(n - first, kImported);
        rows(first, end, codes.data(), bias.data(), ids.data());
      }
      const idx_t begin = list.size(), m = std::min(sizes[l] - begin, end - next);
      int id_width = 0;
      for (idx_t i = 0; i < m; ++i)
        id_width = std::max(id_width, ListIds::width_for(ids[next + i], begin + i));
      list.ids.reserve(sizes[l], id_width);
      for (idx_t i = 0; i < m; ++i) {
        std::uint8_t* packed = list.blocks.mutable_data() + code_begin(begin + i);
        const std::uint8_t* code = codes.data() + (next + i) * code_size_;
        for (int b = 0; b < code_size_; ++b) packed[b * kScanBlock] = code[b];
        put_bias(list, begin + i, bias[static_cast<std::size_t>(next + i)]);
        list.ids.push_back(ids[next + i]);
      }
      next += m;
    }
    if (list.ids.wants_sorting()) replace(list, sorting(list));
  }
  lists_ = std::move(lists);
  ntotal_ = n;
}

void pack_codes(idx_t n, int M, int nbits, const std::uint8_t* codes, std::uint8_t* packed) {
  const int size = packed_size(M, nbits);
  std::fill_n(packed, n * size, std::uint8_t{0});
  for (idx_t i = 0; i < n; ++i)
    for (int m = 0; m < M; ++m) {
      check_step(codes[i * M + m], nbits, i, m);
      write_step(packed + i * size, 1, m, nbits, codes[i * M + m]);
    }
}

void unpack_codes(idx_t n, int M, int nbits, const std::uint8_t* packed, std::uint8_t* codes) {
  const int size = packed_size(M, nbits);
  for (idx_t i = 0; i < n; ++i)
    for (int m = 0; m < M; ++m) codes[i * M + m] = read_step(packed + i * size, 1, m, nbits);
}

}  // namespace fq
