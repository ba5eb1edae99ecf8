// The ids of one list: no bytes at all while each is its offset (a flat index without ids of its
// own); else those that are sorted, in some 12 bits each where a million are dealt to a thousand
// lists, 32 where they are random and of 40 bits (core/sorted_ids), and behind them the ones that
// have come since, 4, 5 or 8 bytes each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "core/bytes.hpp"
#include "core/removal.hpp"
#include "core/sorted_ids.hpp"
#include "core/types.hpp"

namespace fq {

class ListIds {
 public:
  ListIds() = default;
  // 0 .. n - 1.
  static ListIds sequence(idx_t n) {
    ListIds ids;
    ids.n_recent_ = n;
    return ids;
  }

  // As they lie in a file: the bytes of the sorted ones and then those of the others, n in all.
  struct Head {
    SortedIds::Head sorted;
    int width = 0;
  };
  Head head() const { return {sorted_.head(), width_}; }
  const Bytes& sorted_bytes() const { return sorted_.bytes(); }
  const Bytes& recent_bytes() const { return recent_; }
  static bool is_valid(const Head& head, idx_t n) {
    const idx_t n_recent = n - head.sorted.n;
    const bool known = head.width == 0 || head.width == 4 || head.width == 5 || head.width == 8;
    return SortedIds::is_valid(head.sorted) && known && n_recent >= 0 &&
           (head.width > 0 || head.sorted.n == 0 || n_recent == 0);
  }
  static std::size_t recent_nbytes(const Head& head, idx_t n) {
    return static_cast<std::size_t>((n - head.sorted.n) * head.width);
  }
  ListIds(const Head& head, idx_t n, Bytes sorted, Bytes recent)
      : sorted_(head.sorted, std::move(sorted)),
        width_(head.width),
        n_recent_(n - head.sorted.n),
        recent_(std::move(recent)) {}
  bool is_valid() const { return sorted_.is_valid(); }

  idx_t size() const { return sorted_.size() + n_recent_; }
  idx_t n_sorted() const { return sorted_.size(); }
  int width() const { return width_; }  // bytes of a recent one; 0: there is none, or
  bool are_offsets() const { return n_sorted() == 0 && width_ == 0; }
  std::size_t allocated() const { return sorted_.allocated() + recent_.allocated(); }

  idx_t operator[](idx_t i) const { return i < n_sorted() ? sorted_[i] : recent(i - n_sorted()); }
  // n of them from `begin` on, several times as fast.
  void read(idx_t begin, idx_t n, idx_t* out) const {
    const idx_t m = std::clamp<idx_t>(n_sorted() - begin, 0, n);
    if (m > 0) sorted_.read(begin, m, out);
    for (idx_t i = m; i < n; ++i) out[i] = recent(begin + i - n_sorted());
  }
  // Calls f(offset, id) of all.
  template <class F>
  void for_each(F f) const {
    idx_t some[kScanBlock];
    for (idx_t begin = 0; begin < size(); begin += kScanBlock) {
      const idx_t n = std::min<idx_t>(kScanBlock, size() - begin);
      read(begin, n, some);
      for (idx_t i = 0; i < n; ++i) f(begin + i, some[i]);
    }
  }

  // The bytes that `id` needs at `offset`.
  static int width_for(idx_t id, idx_t offset) {
    if (id == offset) return 0;
    if (id >> 32 == 0) return 4;  // a negative id keeps its sign when shifted
    return id >> 40 == 0 ? 5 : 8;
  }

  // Room for n ids in all, the new ones of `width` bytes or those held, whichever is wider. May
  // throw, and then changes nothing; push_back cannot fail for what was reserved.
  void reserve(idx_t n, int width) {
    width = std::max({width, width_, n_sorted() > 0 ? 4 : 0});
    const auto needed = static_cast<std::size_t>((n - n_sorted()) * width);
    if (width == width_) return recent_.reserve(needed);
    ListIds wider;
    wider.width_ = width;
    wider.recent_.reserve(needed);
    for (idx_t i = 0; i < n_recent_; ++i) wider.push_back(recent(i));
    recent_.swap(wider.recent_);
    width_ = width;
  }

  void push_back(idx_t id) noexcept {
    ++n_recent_;
    if (width_ == 0) return;
    const std::size_t end = recent_.size();
    recent_.resize(end + bytes_per_id());
    std::memcpy(recent_.mutable_data() + end, &id, bytes_per_id());  // low bytes first
  }

  // Whether so many are recent that they are to be sorted.
  bool wants_sorting() const {
    return width_ > 0 && n_recent_ >= 16 + n_sorted() / 8 && SortedIds::fits(size());
  }

  struct Sorting {
    SortedIds sorted;
    std::vector<idx_t> order;  // where each was; none if all stay where they are
  };
  Sorting sorting() const {
    std::vector<idx_t> ids(static_cast<std::size_t>(size()));
    read(0, size(), ids.data());
    Sorting made;
    if (!std::is_sorted(ids.begin(), ids.end())) {
      made.order.resize(ids.size());
      std::iota(made.order.begin(), made.order.end(), idx_t{0});
      const auto less = [&](idx_t a, idx_t b) {
        const idx_t one = ids[static_cast<std::size_t>(a)], two = ids[static_cast<std::size_t>(b)];
        return one != two ? one < two : a < b;
      };
      std::sort(made.order.begin() + n_sorted(), made.order.end(), less);
      std::inplace_merge(made.order.begin(), made.order.begin() + n_sorted(), made.order.end(),
                         less);
      std::sort(ids.begin(), ids.end());
    }
    made.sorted = SortedIds(ids.data(), size());
    return made;
  }
  void replace(SortedIds sorted) noexcept {
    *this = {};
    sorted_ = std::move(sorted);
  }

  // So that a change of it cannot fail.
  void own() {
    sorted_.own();
    recent_.reserve(recent_.size());
  }

  // Those that stay keep their width: with 0 they are their new offsets.
  void remove(const Removal& removal) noexcept {
    const idx_t n = n_sorted();
    if (removal.first() < n)
      sorted_.rewrite([&](idx_t i) { return !removal.removes(i); }, std::identity());
    const idx_t left = n_sorted();
    std::uint8_t* p = recent_.mutable_data();
    removal.visit_moves([&](idx_t from, idx_t to, idx_t count) {
      const idx_t skipped = std::clamp<idx_t>(n - from, 0, count);  // sorted ones
      if (skipped == count || width_ == 0) return;
      std::memmove(p + (to + skipped - left) * width_, p + (from + skipped - n) * width_,
                   static_cast<std::size_t>((count - skipped) * width_));
    });
    n_recent_ = removal.n_kept() - left;
    recent_.resize(static_cast<std::size_t>(n_recent_) * bytes_per_id());
    recent_.release_unused();
    sorted_.release_unused();
  }

  // Adds to all of them, which are sorted ones.
  void shift(idx_t by) noexcept { sorted_.shift(by); }
  bool are_sorted() const { return n_recent_ == 0; }

  // f: ascending, and brings no two further apart. Not for ids that are their offsets.
  template <class F>
  void renumber(F f) noexcept {
    if (n_sorted() > 0) sorted_.rewrite([](idx_t) { return true; }, f);
    for (idx_t i = 0; i < n_recent_; ++i) {
      const idx_t id = f(recent(i));
      std::memcpy(recent_.mutable_data() + i * width_, &id, bytes_per_id());
    }
  }

 private:
  idx_t recent(idx_t i) const {
    switch (width_) {
      case 0: return i;
      case 4: return low_bytes<4>(i);
      case 5: return low_bytes<5>(i);
      default: return low_bytes<8>(i);
    }
  }
  template <int kWidth>
  idx_t low_bytes(idx_t i) const {
    idx_t id = 0;
    std::memcpy(&id, recent_.data() + i * kWidth, kWidth);
    return id;
  }
  std::size_t bytes_per_id() const { return static_cast<std::size_t>(width_); }

  SortedIds sorted_;
  int width_ = 0;
  idx_t n_recent_ = 0;
  Bytes recent_;
};

}  // namespace fq
