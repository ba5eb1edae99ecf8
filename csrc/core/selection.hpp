// Which stored vectors a call may return: a filter of ids, asked once per probed list and kept as
// bits beside the scan blocks where many queries share the lists or few entries are accepted; else
// only for what would enter a shortlist.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "core/id_table.hpp"
#include "core/list_ids.hpp"
#include "core/types.hpp"

namespace fq {

// Several threads may ask at once.
class IdFilter {
 public:
  virtual ~IdFilter() = default;
  virtual bool accepts(idx_t id) const = 0;
  // words: (ceil(ids.size() / 64)), overwritten. Bit i % 64 of words[i / 64] says whether ids[i] is
  // accepted; the bits of the last word beyond the ids are zero.
  virtual void accept(const ListIds& ids, std::uint64_t* words) const = 0;
  // Whether it answers in nanoseconds, which is what the scan of a code takes.
  virtual bool is_cheap() const { return false; }
};

// What accept() of a filter does, from one question per id.
template <class Accepts>
void accept_each(const ListIds& ids, std::uint64_t* words, Accepts accepts) {
  idx_t some[kScanBlock];
  for (idx_t begin = 0; begin < ids.size(); begin += kScanBlock, ++words) {
    std::uint8_t accepted[kScanBlock] = {};  // bytes first: they do not wait for one another
    const idx_t n = std::min<idx_t>(kScanBlock, ids.size() - begin);
    ids.read(begin, n, some);
    for (idx_t i = 0; i < n; ++i) accepted[i] = accepts(some[i]) ? 1 : 0;
    std::uint64_t word = 0;
    for (int i = 0; i < kScanBlock; i += 8) {
      std::uint64_t eight;
      std::memcpy(&eight, accepted + i, 8);
      // The product has the lowest bit of byte j at bit 56 + j, and carries nothing.
      word |= (eight * 0x0102040810204080u >> 56) << i;
    }
    *words = word;
  }
}

// begin <= id < end.
class RangeFilter final : public IdFilter {
 public:
  RangeFilter(idx_t begin, idx_t end) : begin_(begin), end_(end) {}
  bool accepts(idx_t id) const override { return id >= begin_ && id < end_; }
  void accept(const ListIds& ids, std::uint64_t* words) const override {
    accept_each(ids, words, [this](idx_t id) { return accepts(id); });
  }
  bool is_cheap() const override { return true; }

 private:
  idx_t begin_, end_;
};

// As faiss::IDSelectorBitmap: bit id % 8 of byte id / 8 of n bytes, which must outlive the filter.
class BitmapFilter final : public IdFilter {
 public:
  BitmapFilter(std::uint64_t n, const std::uint8_t* bitmap) : n_(n), bitmap_(bitmap) {}
  bool accepts(idx_t id) const override {
    const auto byte = static_cast<std::uint64_t>(id) >> 3;  // a negative id is beyond any n
    return byte < n_ && (bitmap_[byte] >> (id & 7) & 1) != 0;
  }
  void accept(const ListIds& ids, std::uint64_t* words) const override {
    accept_each(ids, words, [this](idx_t id) { return accepts(id); });
  }
  bool is_cheap() const override { return true; }

 private:
  std::uint64_t n_;
  const std::uint8_t* bitmap_;
};

// Those given, (n).
class IdsFilter final : public IdFilter {
 public:
  IdsFilter(idx_t n, const idx_t* ids)
      : low_bits_(std::bit_ceil(static_cast<std::size_t>(n) / 4 + kLeastWords)) {
    table_.reserve(static_cast<std::size_t>(n));
    for (idx_t i = 0; i < n; ++i) {
      table_.put(ids[i], 0);
      low_bits_[word_of(ids[i])] |= std::uint64_t{1} << (ids[i] & 63);
    }
  }
  bool accepts(idx_t id) const override {
    return (low_bits_[word_of(id)] >> (id & 63) & 1) != 0 && table_.find(id) != nullptr;
  }
  void accept(const ListIds& ids, std::uint64_t* words) const override {
    accept_each(ids, words, [this](idx_t id) { return accepts(id); });
  }

 private:
  static constexpr std::size_t kLeastWords = 64;
  std::size_t word_of(idx_t id) const {
    return (static_cast<std::size_t>(id) >> 6) & (low_bits_.size() - 1);
  }
  std::vector<std::uint64_t> low_bits_;  // which of them some id has: most others are told by that
  IdTable table_;
};

class Selection {
 public:
  // All entries where `filter` is null. visits: how often the call probes a list, on average.
  // counted: the scan counts the entries that are selected.
  Selection(const IdFilter* filter, idx_t nlist, double visits, bool counted);
  ~Selection();
  Selection(const Selection&) = delete;
  Selection& operator=(const Selection&) = delete;

  // The words of a list as IdFilter gives them, for many visits one result for all; or null, where
  // each entry has to be asked for. Several threads may ask: each may evaluate the filter, one
  // result is kept.
  const std::uint64_t* words(idx_t list_no, const ListIds& ids) const;
  bool is_all() const { return !filter_; }
  bool accepts(idx_t id) const { return !filter_ || filter_->accepts(id); }

 private:
  const IdFilter* filter_;
  bool by_list_;  // the words of every list
  mutable std::atomic<idx_t> n_asked_{0}, n_accepted_{0};
  mutable std::vector<std::atomic<const std::uint64_t*>> words_;  // (nlist), null: not yet asked
};

}  // namespace fq
