// The ids of one list, in the narrowest width that holds them all: no bytes at all while each id
// is its offset in the list (a flat index without ids of its own), else 4, 5 or 8.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/removal.hpp"
#include "core/types.hpp"

namespace fq {

class ListIds {
 public:
  ListIds() = default;
  // 0 .. n - 1.
  static ListIds sequence(idx_t n) {
    ListIds ids;
    ids.size_ = n;
    return ids;
  }

  idx_t size() const { return size_; }
  int width() const { return width_; }  // bytes per id
  std::size_t allocated() const { return bytes_.capacity(); }

  idx_t operator[](idx_t i) const {
    switch (width_) {
      case 0: return i;
      case 4: return low_bytes<4>(i);
      case 5: return low_bytes<5>(i);
      default: return low_bytes<8>(i);
    }
  }

  // Calls f with a function from i to the i-th id that does not look at the width.
  template <class F>
  void visit(F f) const {
    switch (width_) {
      case 0: return f([](idx_t i) { return i; });
      case 4: return f([this](idx_t i) { return low_bytes<4>(i); });
      case 5: return f([this](idx_t i) { return low_bytes<5>(i); });
      default: return f([this](idx_t i) { return low_bytes<8>(i); });
    }
  }

  // The bytes that `id` needs at `offset`.
  static int width_for(idx_t id, idx_t offset) {
    if (id == offset) return 0;
    if (id >> 32 == 0) return 4;  // a negative id keeps its sign when shifted
    return id >> 40 == 0 ? 5 : 8;
  }

  // Room for n ids of `width` bytes or those held, whichever is wider. May throw, and then changes
  // nothing; push_back cannot fail for what was reserved.
  void reserve(idx_t n, int width) {
    width = std::max(width, width_);
    const auto needed = static_cast<std::size_t>(n) * static_cast<std::size_t>(width);
    if (width == width_ && needed <= bytes_.capacity()) return;
    ListIds wider;
    wider.width_ = width;
    wider.bytes_.reserve(width == width_ ? std::max(needed, needed_growth()) : needed);
    for (idx_t i = 0; i < size_; ++i) wider.push_back((*this)[i]);
    *this = std::move(wider);
  }

  void push_back(idx_t id) {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(&id);  // low ones first
    bytes_.insert(bytes_.end(), bytes, bytes + width_);
    ++size_;
  }

  // Of the same width, but 0: there ids are their offsets.
  void replace(idx_t i, idx_t id) { std::memcpy(bytes_.data() + i * width_, &id, bytes_per_id()); }

  // Those that stay keep their width: with 0 they are their new offsets.
  void remove(const Removal& removal) noexcept {
    removal.visit_moves([this](idx_t from, idx_t to, idx_t n) {
      std::copy_n(bytes_.begin() + from * width_, n * width_, bytes_.begin() + to * width_);
    });
    size_ = removal.n_kept();
    bytes_.resize(static_cast<std::size_t>(size_) * bytes_per_id());
    release_unused(bytes_);
  }

 private:
  template <int kWidth>
  idx_t low_bytes(idx_t i) const {
    idx_t id = 0;
    std::memcpy(&id, bytes_.data() + i * kWidth, kWidth);
    return id;
  }
  std::size_t bytes_per_id() const { return static_cast<std::size_t>(width_); }
  std::size_t needed_growth() const { return bytes_.capacity() + bytes_.capacity() / 2; }

  int width_ = 0;
  idx_t size_ = 0;
  std::vector<std::uint8_t> bytes_;
};

}  // namespace fq
