// Ascending numbers in Elias-Fano code (P. Elias 1974, R. Fano 1971): the low bits of each as they
// are, the high ones in unary, which makes about 2 + log2(range / n) bits a number. Any of them is
// found by its place: where every 64th one is in the unary part is noted.
//
// But for the head it is one array of bytes, as it lies in a file too: notes, unary words, low
// bits, and 8 zeros, so that any low bits can be loaded as a word. Nothing outside of it is read,
// whatever it holds.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "core/bytes.hpp"
#include "core/types.hpp"

namespace fq {

class SortedIds {
 public:
  struct Head {
    idx_t least = 0;
    std::uint32_t n = 0, n_made = 0;  // what it was made for: some may have gone since
    std::uint32_t n_words = 0, low_bits = 0;
  };

  SortedIds() = default;
  // Of no more than that are positions in 32 bits.
  static bool fits(idx_t n) { return n < (idx_t{1} << 30); }

  // What n ascending ids from `least` to `most` have.
  static Head head_for(idx_t least, idx_t most, idx_t n) {
    Head head;
    if (n == 0) return head;
    head.least = least;
    head.n = head.n_made = static_cast<std::uint32_t>(n);
    // Modulo 2^64, here and below: a range may be that wide.
    const std::uint64_t range =
        static_cast<std::uint64_t>(most) - static_cast<std::uint64_t>(least);
    const std::uint64_t share = range / static_cast<std::uint64_t>(n);
    head.low_bits = share > 1 ? static_cast<std::uint32_t>(std::bit_width(share)) - 1 : 0;
    head.n_words =
        static_cast<std::uint32_t>((range >> head.low_bits) + static_cast<std::uint64_t>(n)) / 64 +
        1;
    return head;
  }

  // ids: (n), ascending, duplicates allowed.
  SortedIds(const idx_t* ids, idx_t n) {
    if (n == 0) return;
    head_ = head_for(ids[0], ids[n - 1], n);
    bytes_.reserve(nbytes(head_));
    bytes_.resize(nbytes(head_));
    for (idx_t i = 0; i < n; ++i) put(i, above_least(ids[i]));
  }
  // As `head` and `bytes` of another were.
  SortedIds(const Head& head, Bytes bytes) : head_(head), bytes_(std::move(bytes)) {}

  idx_t size() const { return head_.n; }
  const Head& head() const { return head_; }
  const Bytes& bytes() const { return bytes_; }
  std::size_t allocated() const { return bytes_.allocated(); }

  // Whether a head is one, and the bytes that belong to it.
  static bool is_valid(const Head& h) {
    return h.n <= h.n_made && (h.n > 0 || h.n_made == 0) && fits(h.n_made) && h.low_bits < 64 &&
           (h.n_made == 0) == (h.n_words == 0) && h.n_words <= h.n_made / 16 + 2;
  }
  static std::size_t nbytes(const Head& h) {
    if (h.n_made == 0) return 0;
    return notes(h) + std::size_t{h.n_words} * 8 + (std::size_t{h.n_made} * h.low_bits + 7) / 8 + 8;
  }
  // Whether the unary part and its notes are what they should be, and the ids are in idx_t.
  bool is_valid() const {
    idx_t n = 0, last = 0;
    for (idx_t w = 0; w < head_.n_words; ++w)
      for (std::uint64_t left = word(w); left != 0; left &= left - 1, ++n) {
        if (n == size()) return false;
        last = 64 * w + std::countr_zero(left);
        if (n % 64 == 0 && note(n / 64) != last) return false;
      }
    if (n != size()) return false;
    if (n == 0) return true;
    const auto high = static_cast<std::uint64_t>(last - (n - 1));
    if (high << head_.low_bits >> head_.low_bits != high) return false;
    idx_t before = head_.least, some[kScanBlock];
    for (idx_t begin = 0; begin < n; begin += kScanBlock) {
      const idx_t m = std::min<idx_t>(kScanBlock, n - begin);
      read(begin, m, some);
      for (idx_t i = 0; i < m; before = some[i++])
        if (some[i] < before) return false;
    }
    return true;
  }

  idx_t operator[](idx_t i) const { return id_of(i, position(i)); }

  void read(idx_t begin, idx_t n, idx_t* out) const {
    idx_t at = position(begin);
    std::uint64_t word = this->word(at / 64) & (~std::uint64_t{0} << (at & 63));
    for (idx_t w = at / 64, i = begin; i < begin + n; ++i) {
      while (word == 0 && w < head_.n_words) word = this->word(++w);
      *out++ = id_of(i, 64 * w + std::countr_zero(word));
      word &= word - 1;
    }
  }

  // Adds to all of them.
  void shift(idx_t by) noexcept { head_.least += by; }

  void own() { bytes_.reserve(bytes_.size()); }

  // Keeps those whose place keep(i) accepts, as f(id); f: ascending, and brings no two further
  // apart. In place: nothing becomes longer.
  template <class Keep, class F>
  void rewrite(Keep keep, F f) noexcept {
    if (size() == 0) return;
    const idx_t least = f(head_.least);
    idx_t i = 0, to = 0;
    for (idx_t w = 0; i < size() && w < head_.n_words; ++w) {
      std::uint64_t left = word(w);
      set_word(w, 0);
      for (; left != 0 && i < size(); left &= left - 1, ++i) {
        if (!keep(i)) continue;
        const idx_t id = f(id_of(i, 64 * w + std::countr_zero(left)));
        put(to++, static_cast<std::uint64_t>(id) - static_cast<std::uint64_t>(least));
      }
    }
    for (; i < size(); ++i) to += keep(i);  // of a damaged file
    if (to == 0) *this = {};
    head_.n = static_cast<std::uint32_t>(to);
    head_.least = least;
  }

  // Made anew for those that are left, where that saves enough and there is memory.
  void release_unused() noexcept {
    if (size() >= head_.n_made - head_.n_made / 8) return;
    try {
      std::vector<idx_t> ids(static_cast<std::size_t>(size()));
      if (size() > 0) read(0, size(), ids.data());
      if (std::is_sorted(ids.begin(), ids.end()))  // as in any file that is whole
        *this = SortedIds(ids.data(), size());
    } catch (const std::bad_alloc&) {
    }
  }

 private:
  static std::size_t notes(const Head& h) { return (std::size_t{h.n_made} + 63) / 64 * 4; }
  std::size_t low_begin() const { return notes(head_) + std::size_t{head_.n_words} * 8; }

  std::uint64_t above_least(idx_t id) const {
    return static_cast<std::uint64_t>(id) - static_cast<std::uint64_t>(head_.least);
  }
  std::uint64_t word(idx_t w) const {  // 0 behind the last
    std::uint64_t word = 0;
    if (w < head_.n_words) std::memcpy(&word, bytes_.data() + notes(head_) + 8 * w, 8);
    return word;
  }
  void set_word(idx_t w, std::uint64_t word) {
    std::memcpy(bytes_.mutable_data() + notes(head_) + 8 * w, &word, 8);
  }
  std::uint32_t note(idx_t i) const {
    std::uint32_t note;
    std::memcpy(&note, bytes_.data() + i * 4, 4);
    return note;
  }

  // Of the i-th one in the unary part.
  idx_t position(idx_t i) const {
    const std::uint32_t note = this->note(i / 64);
    idx_t w = note / 64;
    std::uint64_t word = this->word(w) & (~std::uint64_t{0} << (note & 63));
    int left = static_cast<int>(i & 63);
    for (int n; left >= (n = std::popcount(word)) && w < head_.n_words; left -= n)
      word = this->word(++w);
    for (; left > 0; --left) word &= word - 1;
    return 64 * w + std::countr_zero(word);
  }

  idx_t id_of(idx_t i, idx_t position) const {
    const auto high = static_cast<std::uint64_t>(position - i) << head_.low_bits;
    return static_cast<idx_t>(static_cast<std::uint64_t>(head_.least) + (high | low(i)));
  }

  std::uint64_t low(idx_t i) const {
    const idx_t bit = i * head_.low_bits, shift = bit & 7;
    const std::uint8_t* p = bytes_.data() + low_begin() + bit / 8;
    std::uint64_t value;
    std::memcpy(&value, p, 8);
    value >>= shift;
    if (shift + head_.low_bits > 64) value |= std::uint64_t{p[8]} << (64 - shift);
    return value & ~(~std::uint64_t{0} << head_.low_bits);
  }

  // The i-th becomes this much above the least; its place in the unary part is still free.
  void put(idx_t i, std::uint64_t above) {
    const idx_t at = static_cast<idx_t>(above >> head_.low_bits) + i;
    if (static_cast<std::uint64_t>(at) / 64 >= head_.n_words) return;  // of a damaged file
    set_word(at / 64, word(at / 64) | std::uint64_t{1} << (at & 63));
    if (i % 64 == 0) {
      const auto note = static_cast<std::uint32_t>(at);
      std::memcpy(bytes_.mutable_data() + i / 64 * 4, &note, 4);
    }
    std::uint8_t* low = bytes_.mutable_data() + low_begin();
    for (idx_t bit = i * head_.low_bits, left = head_.low_bits; left > 0;) {
      const idx_t shift = bit & 7, n = std::min<idx_t>(8 - shift, left);
      const auto mask = static_cast<std::uint8_t>(((1 << n) - 1) << shift);
      std::uint8_t& byte = low[bit / 8];
      byte = static_cast<std::uint8_t>((byte & ~mask) | (above << shift & mask));
      above >>= n;
      bit += n;
      left -= n;
    }
  }

  Head head_;
  Bytes bytes_;
};

}  // namespace fq
