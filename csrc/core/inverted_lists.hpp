// Codes, bias and ids of the stored vectors, list by list.
//
// A list keeps its codes in scan blocks of 64 vectors. A block has code_size rows of 64 bytes:
// byte row b holds byte b of the 64 packed codes, so that a kernel loads one step of many vectors
// at once and a vector costs code_size bytes for every nbits. Behind them stands a row of the 64
// biases (core/bias), unless there are none. Searches may run concurrently; a change (add, remove,
// merge …) must not overlap with anything: Engine sees to that.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/bias.hpp"
#include "core/bytes.hpp"
#include "core/list_ids.hpp"
#include "core/removal.hpp"
#include "core/types.hpp"

namespace fq {

class IdFilter;

class InvertedLists {
 public:
  struct List {
    Bytes blocks;  // the last one padded with zeros
    ListIds ids;
    idx_t size() const { return ids.size(); }
  };

  InvertedLists(idx_t nlist, int M, int nbits, Beside beside = Beside::Bias);

  idx_t nlist() const { return static_cast<idx_t>(lists_.size()); }
  int M() const { return M_; }
  int nbits() const { return nbits_; }
  int K() const { return 1 << nbits_; }
  int code_size() const { return code_size_; }
  Beside beside() const { return beside_; }
  idx_t block_bytes() const {
    return idx_t{code_size_} * kScanBlock + (beside_ == Beside::Nothing ? 0 : kBiasRow);
  }
  idx_t ntotal() const { return ntotal_; }
  const List& list(idx_t list_no) const;  // checked
  BiasRows bias(idx_t list_no) const;     // 0 where there are none
  void read_bias(idx_t list_no, idx_t begin, idx_t n, float* out) const;

  // list_no, bias: (n); codes: (n, M), one byte per step; ids: (n), or null for first_id and what
  // follows. A list_no of -1 is skipped. offsets: (n), -1 where skipped; or null. Everything is
  // checked and allocated before the first change.
  void add(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* bias,
           const idx_t* ids, idx_t first_id, idx_t* offsets);

  // So that changes of what is in a list, and fewer of it, cannot fail.
  void own(idx_t list_no);
  // Another code (M) and bias in the place of some of a list that is its own. Not checked.
  void replace_code(idx_t list_no, idx_t offset, const std::uint8_t* code, float bias) noexcept;

  // The first n_codes steps of a stored code, a byte each. Not checked.
  void read_code(idx_t list_no, idx_t offset, int n_codes, std::uint8_t* code) const;

  // codes: (n, M); a row of 255 where list_no is -1, as FAISS marks a missing code.
  void gather(idx_t n, const idx_t* list_no, const idx_t* offset, std::uint8_t* codes) const;

  // Where the ids id0 .. id0 + n - 1 are stored, -1 where they are not; of duplicates, the last.
  void locate(idx_t id0, idx_t n, idx_t* list_no, idx_t* offset) const;

  // The entries that `filter` (null: any) accepts, of the lists that have some.
  std::vector<Removal> select(const IdFilter* filter, const Execution& run) const;
  // Takes them out, once prepare_removal() has done what can fail. What stays keeps its order, and
  // its ids.
  void prepare_removal(const std::vector<Removal>& removals);
  void remove(const std::vector<Removal>& removals, int n_threads) noexcept;
  // As an index without ids of its own does it: unprepared, and then id i becomes new_number(i),
  // which is less where an id before it has gone.
  template <class F>
  void renumber(F new_number) noexcept {
    for (List& list : lists_)
      if (!list.ids.are_offsets()) list.ids.renumber(new_number);
  }

  // Moves all of `other`, of the same sizes, behind what is here, add_id being added to its ids.
  // What can fail does so in prepare_merge().
  void prepare_merge(const InvertedLists& other, idx_t add_id);
  void merge(InvertedLists& other, idx_t add_id) noexcept;

  // The entries of a list by their ids. May throw, and then changes nothing.
  struct Sorting {
    ListIds::Sorting ids;
    Bytes blocks;  // where order is not empty
  };
  Sorting sorting(idx_t list_no) const { return sorting(list(list_no)); }
  void replace(idx_t list_no, Sorting sorting) noexcept {
    replace(lists_[static_cast<std::size_t>(list_no)], std::move(sorting));
  }

  // Sizes (nlist, M, nbits) may be read beside these two.
  void reset();
  void exchange(InvertedLists& other);  // what is stored, with lists of the same sizes

  // Bytes allocated, room to grow included.
  struct Memory {
    std::size_t codes = 0, bias = 0, ids = 0, lists = 0;  // lists: what says where they are
  };
  Memory memory() const;

  // All that is stored as it lies in memory: heads, and two sections that have the blocks and the
  // ids of one list after the other.
  struct Head {
    idx_t n = 0;
    ListIds::Head ids = {};
  };
  Head head(idx_t list_no) const { return {list(list_no).size(), list(list_no).ids.head()}; }
  // The next n bytes of a section, a view or a copy.
  using Take = std::function<Bytes(std::size_t n)>;
  // Replaces the contents by these. heads: (nlist). file: what views are of, null without any.
  // checked: all of it is read, and refused unless ids are as they should be; else only the heads.
  void restore(const std::vector<Head>& heads, const Take& blocks, const Take& ids,
               std::shared_ptr<const void> file, bool checked);

  // Entries first .. first + n - 1, list after list: codes (n, code_size) packed row by row, bias
  // and ids (n).
  void export_codes(idx_t first, idx_t n, std::uint8_t* codes) const;
  void export_bias(idx_t first, idx_t n, float* bias) const;
  void export_beside(idx_t first, idx_t n, std::uint16_t* beside) const;  // as it is stored
  void export_ids(idx_t first, idx_t n, idx_t* ids) const;
  // Writes the entries first .. first + n - 1 of an import, n being kImported at most; called in
  // order, so that what is imported is never in memory a second time.
  using Rows =
      std::function<void(idx_t first, idx_t n, std::uint8_t* codes, float* bias, idx_t* ids)>;
  static constexpr idx_t kImported = 1 << 15;
  // Replaces the contents by n entries. sizes: (nlist), their sum must be n.
  void import_from(const idx_t* sizes, idx_t n, const Rows& rows);

 private:
  // Calls f(list_no, begin, end) for those entries, of each list that has some of them.
  template <class F>
  void visit(idx_t first, idx_t n, F f) const;
  void reserve(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const idx_t* ids,
               idx_t first_id);
  std::size_t bytes_for(idx_t n) const;  // of the blocks of n entries
  Sorting sorting(const List& list) const;
  static void replace(List& list, Sorting sorting) noexcept;
  void remove(const Removal& removal) noexcept;
  // n entries of scan blocks to others; the ranges may overlap where `to` is below `from`.
  void move_entries(const std::uint8_t* blocks, idx_t from, std::uint8_t* to_blocks, idx_t to,
                    idx_t n) const;
  // Where in the blocks the first byte of a code is, the others after it at stride kScanBlock, and
  // where the row of its bias.
  std::size_t code_begin(idx_t offset) const;
  std::size_t bias_row(idx_t offset) const;
  void put_bias(List& list, idx_t offset, float bias) const;
  // To bytes that are zero.
  void put(List& list, idx_t offset, const std::uint8_t* code, float bias) const;
  void clear_code(List& list, idx_t offset) const;

  int M_, nbits_, code_size_;
  Beside beside_;
  idx_t ntotal_ = 0;
  std::vector<std::shared_ptr<const void>> files_;  // that lists are views of
  std::vector<List> lists_;
};

// (n, M) bytes <-> (n, packed_size(M, nbits)) packed rows.
void pack_codes(idx_t n, int M, int nbits, const std::uint8_t* codes, std::uint8_t* packed);
void unpack_codes(idx_t n, int M, int nbits, const std::uint8_t* packed, std::uint8_t* codes);

// M in 1..256, nbits in 4..8, or CheckError.
void check_code_shape(int M, int nbits);

}  // namespace fq
