#include "core/inverted_lists.hpp"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>

#include "core/bitpack.hpp"
#include "core/check.hpp"
#include "core/growth.hpp"
#include "core/parallel.hpp"
#include "core/selection.hpp"

namespace fq {
namespace {

constexpr idx_t kFewIds = 1 << 15;  // that one thread asks a filter about sooner than others start
constexpr idx_t kListsAtOnce = 16;  // by one thread

std::size_t blocks_for(idx_t n) {
  return static_cast<std::size_t>((n + kScanBlock - 1) / kScanBlock);
}

void check_step(std::uint8_t code, int nbits, idx_t row, int m) {
  if (code >> nbits)
    check(false, "codes[", row, ", ", m, "]: expected below ", 1 << nbits, ", got ", int{code});
}

}  // namespace

void check_code_shape(int M, int nbits) {
  check(M >= 1 && M <= 256, "M: expected 1 to 256, got ", M);
  check(nbits >= 4 && nbits <= 8, "nbits: expected 4 to 8, got ", nbits);
}

InvertedLists::InvertedLists(idx_t nlist, int M, int nbits) : M_(M), nbits_(nbits) {
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

std::size_t InvertedLists::code_begin(idx_t offset) const {
  return static_cast<std::size_t>(offset / kScanBlock) * block_bytes() +
         static_cast<std::size_t>(offset % kScanBlock);
}

// Checks what add() takes, and makes room for it. The growth of the lists is kept in them: an add
// of few vectors to many lists costs little.
void InvertedLists::reserve(idx_t n, const idx_t* list_no, const std::uint8_t* codes,
                            const idx_t* ids, idx_t first_id) {
  for (idx_t i = 0; i < n; ++i) {
    if (list_no[i] == -1) continue;
    if (list_no[i] < 0 || list_no[i] >= nlist())
      check(false, "list_no[", i, "]: expected -1 to ", nlist() - 1, ", got ", list_no[i]);
    for (int m = 0; m < M_; ++m) check_step(codes[i * M_ + m], nbits_, i, m);
    List& list = lists_[static_cast<std::size_t>(list_no[i])];
    const idx_t offset = list.size() + list.growth.n++;
    list.growth.id_width =
        std::max(list.growth.id_width, ListIds::width_for(ids ? ids[i] : first_id + i, offset));
  }
  for (idx_t i = 0; i < n; ++i) {
    if (list_no[i] == -1) continue;
    List& list = lists_[static_cast<std::size_t>(list_no[i])];
    if (list.growth.n == 0) continue;
    const idx_t size = list.size() + list.growth.n;
    reserve_for(list.codes, blocks_for(size) * block_bytes());
    reserve_for(list.bias, static_cast<std::size_t>(size));
    list.ids.reserve(size, list.growth.id_width);
    list.growth = {};
  }
}

void InvertedLists::add(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* bias,
                        const idx_t* ids, idx_t first_id, idx_t* offsets) {
  try {
    reserve(n, list_no, codes, ids, first_id);
  } catch (...) {
    for (idx_t i = 0; i < n; ++i)
      if (list_no[i] >= 0 && list_no[i] < nlist())
        lists_[static_cast<std::size_t>(list_no[i])].growth = {};
    throw;
  }
  for (idx_t i = 0; i < n; ++i) {  // nothing below can fail
    if (offsets) offsets[i] = -1;
    if (list_no[i] == -1) continue;
    List& list = lists_[static_cast<std::size_t>(list_no[i])];
    const idx_t offset = list.size();
    if (offsets) offsets[i] = offset;
    list.codes.resize(blocks_for(offset + 1) * block_bytes());
    std::uint8_t* code = list.codes.data() + code_begin(offset);
    for (int m = 0; m < M_; ++m) write_step(code, kScanBlock, m, nbits_, codes[i * M_ + m]);
    list.bias.push_back(bias[i]);
    list.ids.push_back(ids ? ids[i] : first_id + i);
    ++ntotal_;
  }
}

void InvertedLists::read_code(idx_t list_no, idx_t offset, int n_codes, std::uint8_t* code) const {
  const List& list = lists_[static_cast<std::size_t>(list_no)];
  const std::uint8_t* packed = list.codes.data() + code_begin(offset);
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
    for (idx_t o = 0; o < list.size(); ++o) {
      const idx_t id = list.ids[o];
      // Unsigned, because id - id0 may leave the range of idx_t for extreme ids.
      const auto i = static_cast<std::uint64_t>(id) - static_cast<std::uint64_t>(id0);
      if (id < id0 || i >= static_cast<std::uint64_t>(n)) continue;
      list_no[i] = l;
      offset[i] = o;
    }
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
    if (ids.width() == 0 && removal.first() < removal.n_kept())
      ids.reserve(ids.size(), ListIds::width_for(ids.size() - 1, -1));
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
    move_codes(list.codes.data(), from, list.codes.data(), to, count);
  });
  list.codes.resize(blocks_for(n) * block_bytes());
  for (idx_t o = n; o % kScanBlock != 0; ++o)
    for (int b = 0; b < code_size_; ++b) list.codes[code_begin(o) + b * kScanBlock] = 0;
  release_unused(list.codes);
  remove_from(list.bias, removal);
  list.ids.remove(removal);
}

void InvertedLists::move_codes(const std::uint8_t* codes, idx_t from, std::uint8_t* to_codes,
                               idx_t to, idx_t n) const {
  while (n > 0) {
    const idx_t m = std::min({n, kScanBlock - from % kScanBlock, kScanBlock - to % kScanBlock});
    for (int b = 0; b < code_size_; ++b)
      std::memmove(to_codes + code_begin(to) + b * kScanBlock,
                   codes + code_begin(from) + b * kScanBlock, static_cast<std::size_t>(m));
    from += m, to += m, n -= m;
  }
}

void InvertedLists::prepare_merge(const InvertedLists& other, idx_t add_id) {
  for (std::size_t l = 0; l < lists_.size(); ++l) {
    List& list = lists_[l];
    const List& more = other.lists_[l];
    if (more.size() == 0) continue;
    const idx_t size = list.size() + more.size();
    int width = 0;
    more.ids.visit([&](auto id_at) {
      for (idx_t o = 0; o < more.size(); ++o)
        width = std::max(width, ListIds::width_for(id_at(o) + add_id, list.size() + o));
    });
    list.ids.reserve(size, width);
    if (list.size() == 0) continue;  // it takes the other's arrays
    reserve_for(list.codes, blocks_for(size) * block_bytes());
    reserve_for(list.bias, static_cast<std::size_t>(size));
  }
}

void InvertedLists::merge(InvertedLists& other, idx_t add_id) noexcept {
  for (std::size_t l = 0; l < lists_.size(); ++l) {
    List& list = lists_[l];
    List& more = other.lists_[l];
    const idx_t n = list.size();
    if (n == 0) {
      list.codes.swap(more.codes);
      list.bias.swap(more.bias);
    } else {
      list.codes.resize(blocks_for(n + more.size()) * block_bytes());
      move_codes(more.codes.data(), 0, list.codes.data(), n, more.size());
      list.bias.insert(list.bias.end(), more.bias.begin(), more.bias.end());
    }
    for (idx_t o = 0; o < more.size(); ++o) list.ids.push_back(more.ids[o] + add_id);
    more = {};
  }
  ntotal_ += std::exchange(other.ntotal_, 0);
}

void InvertedLists::reset() {
  for (List& list : lists_) list = {};
  ntotal_ = 0;
}

void InvertedLists::exchange(InvertedLists& other) {
  std::swap_ranges(lists_.begin(), lists_.end(), other.lists_.begin());
  std::swap(ntotal_, other.ntotal_);
}

InvertedLists::Memory InvertedLists::memory() const {
  Memory memory;
  for (const List& list : lists_) {
    memory.codes += list.codes.capacity();
    memory.bias += list.bias.capacity() * sizeof(float);
    memory.ids += list.ids.allocated();
  }
  return memory;
}

template <class F>
void InvertedLists::visit(idx_t first, idx_t n, F f) const {
  check(first >= 0 && n >= 0 && n <= ntotal_ - first, "first, n: expected entries of ", ntotal_,
        ", got ", first, ", ", n);
  for (auto list = lists_.begin(); n > 0; ++list) {
    const idx_t m = std::min(n, list->size() - first);
    if (m > 0) {
      f(*list, first, first + m);
      n -= m;
    }
    first = std::max<idx_t>(first - list->size(), 0);
  }
}

void InvertedLists::export_codes(idx_t first, idx_t n, std::uint8_t* codes) const {
  visit(first, n, [&](const List& list, idx_t begin, idx_t end) {
    for (idx_t o = begin; o < end; ++o) {
      const std::uint8_t* packed = list.codes.data() + code_begin(o);
      for (int b = 0; b < code_size_; ++b) *codes++ = packed[b * kScanBlock];
    }
  });
}

void InvertedLists::export_bias(idx_t first, idx_t n, float* bias) const {
  visit(first, n, [&](const List& list, idx_t begin, idx_t end) {
    bias = std::copy(&list.bias[static_cast<std::size_t>(begin)], list.bias.data() + end, bias);
  });
}

void InvertedLists::export_ids(idx_t first, idx_t n, idx_t* ids) const {
  visit(first, n, [&](const List& list, idx_t begin, idx_t end) {
    for (idx_t o = begin; o < end; ++o) *ids++ = list.ids[o];
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
    list.codes.resize(blocks_for(sizes[l]) * block_bytes());
    list.bias.reserve(static_cast<std::size_t>(sizes[l]));
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
        std::uint8_t* packed = list.codes.data() + code_begin(begin + i);
        const std::uint8_t* code = codes.data() + (next + i) * code_size_;
        for (int b = 0; b < code_size_; ++b) packed[b * kScanBlock] = code[b];
        list.ids.push_back(ids[next + i]);
      }
      list.bias.insert(list.bias.end(), bias.begin() + next, bias.begin() + next + m);
      next += m;
    }
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
