// Which stored vectors a call may return: a filter of ids, asked once per probed list for all
// queries of the call, kept as bits beside the scan blocks.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/list_ids.hpp"
#include "core/types.hpp"

namespace fq {

class IdFilter {
 public:
  virtual ~IdFilter() = default;
  // words: (ceil(ids.size() / 64)), overwritten. Bit i % 64 of words[i / 64] says whether ids[i] is
  // accepted; the bits of the last word beyond the ids are zero. Several threads may ask at once.
  virtual void accept(const ListIds& ids, std::uint64_t* words) const = 0;
};

// What accept() of a filter does, from one question per id.
template <class Accepts>
void accept_each(const ListIds& ids, std::uint64_t* words, Accepts accepts) {
  ids.visit([&](auto id_at) {
    for (idx_t i = 0; i < ids.size(); ++words) {
      std::uint64_t word = 0;
      for (idx_t end = std::min(i + kScanBlock, ids.size()), bit = 0; i < end; ++i, ++bit)
        word |= std::uint64_t{accepts(id_at(i))} << bit;
      *words = word;
    }
  });
}

// begin <= id < end.
class RangeFilter : public IdFilter {
 public:
  RangeFilter(idx_t begin, idx_t end) : begin_(begin), end_(end) {}
  void accept(const ListIds& ids, std::uint64_t* words) const override {
    accept_each(ids, words, [this](idx_t id) { return id >= begin_ && id < end_; });
  }

 private:
  idx_t begin_, end_;
};

// As faiss::IDSelectorBitmap: bit id % 8 of byte id / 8 of n bytes, which must outlive the filter.
class BitmapFilter : public IdFilter {
 public:
  BitmapFilter(std::uint64_t n, const std::uint8_t* bitmap) : n_(n), bitmap_(bitmap) {}
  void accept(const ListIds& ids, std::uint64_t* words) const override {
    accept_each(ids, words, [this](idx_t id) {
      const auto byte = static_cast<std::uint64_t>(id) >> 3;  // a negative id is beyond any n
      return byte < n_ && (bitmap_[byte] >> (id & 7) & 1) != 0;
    });
  }

 private:
  std::uint64_t n_;
  const std::uint8_t* bitmap_;
};

class Selection {
 public:
  // All entries where `filter` is null.
  Selection(const IdFilter* filter, idx_t nlist);
  ~Selection();
  Selection(const Selection&) = delete;
  Selection& operator=(const Selection&) = delete;

  // The words of a list as IdFilter gives them, or null where all entries are selected. Several
  // threads may ask: each may evaluate the filter, one result is kept.
  const std::uint64_t* words(idx_t list_no, const ListIds& ids) const;

 private:
  const IdFilter* filter_;
  mutable std::vector<std::atomic<const std::uint64_t*>> words_;  // (nlist), null: not yet asked
};

}  // namespace fq
