// Inverted lists as they lie in a file (InvertedLists::Head and its two sections), of rows that
// come twice: to be counted, and then, some lists at a time, to be stored. So that their sections
// can be written one range of lists after the other, of which only one is in memory.
//
// Each list is in the order of its ids, equal ones as they came, all in Elias-Fano code; or it has
// none where they came as 0, 1, 2 …, as in an InvertedLists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/inverted_lists.hpp"
#include "core/types.hpp"

namespace fq {

class ListBuilder {
 public:
  // Of a list. Lists of rows whose numbers are not stored have none.
  struct Count {
    idx_t n = 0, least = 0, most = 0;
    bool are_offsets = true;  // ids came as 0, 1, 2 …
  };

  // has_beside: whether two bytes stand beside a code (core/bias).
  ListBuilder(idx_t nlist, int code_size, bool has_beside);

  idx_t nlist() const { return static_cast<idx_t>(counts_.size()); }
  int code_size() const { return code_size_; }
  bool has_beside() const { return has_beside_; }

  // list_no: (n), kNotStored for rows that take a number only. ids: (n), or null for first_id and
  // what follows. Checked before the first change.
  static constexpr std::uint32_t kNotStored = 0xFFFFFFFF;
  void count(idx_t n, const std::uint32_t* list_no, const idx_t* ids, idx_t first_id);
  const std::vector<Count>& counts() const { return counts_; }
  // As they were (nlist); checked.
  void set_counts(std::vector<Count> counts);

  InvertedLists::Head head(idx_t list_no) const;
  std::size_t block_nbytes(idx_t list_no) const;
  std::size_t ids_nbytes(idx_t list_no) const;
  // What a vector takes between begin() and the next one.
  std::size_t record_nbytes() const { return static_cast<std::size_t>(record_); }

  // Makes room for the lists first .. end - 1, and forgets those before.
  void begin(idx_t first, idx_t end);
  // Stores those of the rows that are in these lists. codes: (n, code_size), packed; beside: (n),
  // or null. Rows must be those that were counted, in the same order.
  void add(idx_t n, const std::uint32_t* list_no, const std::uint8_t* codes,
           const std::uint16_t* beside, const idx_t* ids, idx_t first_id, const Execution& run);
  // The sections of the lists first .. end - 1, all of which must have begun; CheckError unless all
  // that was counted has been added.
  void write(idx_t first, idx_t end, std::uint8_t* blocks, std::uint8_t* ids,
             const Execution& run) const;

 private:
  void write_list(idx_t list_no, std::uint8_t* blocks, std::uint8_t* ids) const;
  const std::uint8_t* record(idx_t i) const { return records_.get() + i * record_; }

  int code_size_;
  bool has_beside_;
  idx_t record_;  // an id, what stands beside the code, the code
  std::vector<Count> counts_;
  idx_t first_ = 0, end_ = 0;
  std::vector<idx_t> begin_, next_;  // of these lists, in the records
  std::unique_ptr<std::uint8_t[]> records_;
};

}  // namespace fq
