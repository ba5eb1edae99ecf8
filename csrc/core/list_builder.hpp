// The lists of an index for its file, from rows in any order that are gone through several times:
// once to count, from which it is known where everything will be; then for some of the lists at a
// time, to fill these. What an add of all rows to an empty index makes, byte for byte.
//
// Not for several threads at once.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/inverted_lists.hpp"

namespace fq {

class ListBuilder {
 public:
  static constexpr std::uint32_t kNotStored = 0xFFFFFFFF;  // in place of a list's number

  struct Rows {
    idx_t n = 0;
    const std::uint32_t* list_no = nullptr;  // (n)
    const std::uint8_t* codes = nullptr;     // (n, code_size), packed
    const std::uint16_t* beside = nullptr;   // (n) bfloat16; not used where nothing is beside codes
    const idx_t* ids = nullptr;              // (n), null: from first_id on
    idx_t first_id = 0;
  };

  ListBuilder(idx_t nlist, int M, int nbits, Beside beside);

  idx_t nlist() const { return static_cast<idx_t>(counts_.size()); }
  int code_size() const { return lists_.code_size(); }
  Beside beside() const { return lists_.beside(); }

  // list_no and ids are looked at. CheckError for a list_no beyond nlist; then nothing has changed.
  void count(const Rows& rows);
  // What has been counted.
  InvertedLists::Head head(idx_t list_no) const;
  std::size_t blocks_nbytes(idx_t list_no) const;
  std::size_t ids_nbytes(idx_t list_no) const;

  // To fill the lists first .. last - 1: with the same rows, in the same order. Others are passed
  // over. CheckError for more rows than were counted, or fewer at the end.
  void begin(idx_t first, idx_t last);
  void fill(const Rows& rows, const Execution& run);
  void finish(const Execution& run);
  // Those lists, numbered from 0 on; after finish().
  const InvertedLists& lists() const { return lists_; }

 private:
  struct Count {
    idx_t n = 0, least = 0, greatest = 0;
    int width = 0;  // of an id that is not sorted
  };
  static bool is_sorted(const Count& count);
  idx_t id_of(std::size_t at) const {
    return wide_.empty() ? static_cast<idx_t>(narrow_[at]) : wide_[at];
  }

  std::vector<Count> counts_;
  bool any_wide_ = false;  // an id that is not in 32 bits

  idx_t first_ = 0;
  InvertedLists lists_;                // those that are being filled
  std::vector<idx_t> filled_, begin_;  // of each, and where its ids are in
  std::vector<std::uint32_t> narrow_;  // or
  std::vector<idx_t> wide_;
};

}  // namespace fq
