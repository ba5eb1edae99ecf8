// What is taken out of one list. It is found first, which may fail and changes nothing; what stays
// then moves together within its arrays, in its order, which cannot fail.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "core/types.hpp"

namespace fq {

class Removal {
 public:
  // words: (ceil(size / 64)), bit i % 64 of words[i / 64] says whether entry i goes; those beyond
  // the size are zero.
  Removal(idx_t list_no, idx_t size, std::vector<std::uint64_t> words)
      : list_no_(list_no), size_(size), words_(std::move(words)) {
    for (const std::uint64_t word : words_) n_removed_ += std::popcount(word);
  }

  idx_t list_no() const { return list_no_; }
  idx_t size() const { return size_; }  // of the list before
  idx_t n_removed() const { return n_removed_; }
  idx_t n_kept() const { return size_ - n_removed_; }
  idx_t first() const { return next(0, true); }
  bool removes(idx_t i) const { return (words_[static_cast<std::size_t>(i / 64)] >> (i & 63)) & 1; }

  // Calls f(from, to, n), ascending, for entries from .. from + n - 1 that move to `to` and after.
  template <class F>
  void visit_moves(F f) const {
    idx_t to = first(), from = to;
    while ((from = next(from, false)) < size_) {
      const idx_t end = next(from, true);
      f(from, to, end - from);
      to += end - from;
      from = end;
    }
  }

 private:
  // The first entry from i on that goes, or stays; size where there is none.
  idx_t next(idx_t i, bool removed) const {
    const std::uint64_t flip = removed ? 0 : ~std::uint64_t{0};
    for (; i < size_; i = (i / 64 + 1) * 64) {
      const std::uint64_t word = (words_[static_cast<std::size_t>(i / 64)] ^ flip) >> (i & 63);
      if (word != 0) return std::min<idx_t>(i + std::countr_zero(word), size_);
    }
    return size_;
  }

  idx_t list_no_, size_, n_removed_ = 0;
  std::vector<std::uint64_t> words_;
};

// Gives back what no growth to come justifies, unless there is no memory to copy to.
template <class T>
void release_unused(std::vector<T>& v) noexcept {
  if (v.size() >= v.capacity() / 2) return;
  try {
    std::vector<T>(v).swap(v);
  } catch (const std::bad_alloc&) {
  }
}

}  // namespace fq
