// What an index is: lists, centroids, tables and networks, which fit together; what is asked of
// it; and how what changes it keeps clear of what reads it.
//
// Searches and other readings run together, a change alone (core/shared_lock). Vectors are encoded
// before the change that stores them, which is all or nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "core/direct_map.hpp"
#include "core/extra.hpp"
#include "core/rate.hpp"
#include "core/search.hpp"
#include "core/shared_lock.hpp"

namespace fq {

class Engine {
 public:
  struct Parts {
    idx_t nlist;
    int M, nbits;
    Metric metric;
    const float* centroids;  // (nlist, d), copied
    std::shared_ptr<const AdditiveTables> tables;
    std::shared_ptr<const QincoWeights> weights = {};  // null: only nshort 0, and no encoding
    std::shared_ptr<const EarlyExit> early_exit = {};  // null: none
    std::shared_ptr<const QincoWeights> student = {};  // null: none
    const float* bases = nullptr;  // (nlist, d), what residuals are to, copied; null: the centroids
    bool has_extra = false;        // core/extra
  };
  explicit Engine(const Parts& parts);  // CheckError where they do not fit together

  idx_t d() const { return tables_->d(); }
  idx_t nlist() const { return lists_.nlist(); }
  int M() const { return lists_.M(); }
  int nbits() const { return lists_.nbits(); }
  int code_size() const { return lists_.code_size(); }
  Metric metric() const { return metric_; }
  bool has_extra() const { return has_extra_; }
  bool corrects_length() const { return has_extra_ && metric_ == Metric::InnerProduct; }
  const float* centroids() const { return centroid_rows_.data(); }  // (nlist, d)
  // (nlist, d), what residuals are to: the same, or not.
  const float* bases() const { return own_bases_.empty() ? centroids() : own_bases_.data(); }
  // What is stored, and numbers given to vectors that could not be: the next id.
  idx_t ntotal() const { return ntotal_; }

  // For what follows up to the next heading, all under one reading where it has to agree.
  SharedLock& lock() const { return lock_; }
  const InvertedLists& lists() const { return lists_; }
  bool has_direct_map() const { return map_.has_value(); }
  std::size_t direct_map_nbytes() const { return map_ ? map_->allocated() : 0; }
  idx_t table_nbytes() const { return table_ ? table_->nbytes() : 0; }
  // How many vectors the rate of so many codes is fitted to; -1: there is none.
  idx_t rate_fitted(int n_codes) const;
  std::size_t rates_nbytes() const;

  // -- reading --------------------------------------------------------------------------------

  int n_codes(const SearchArgs& args) const;  // that count; CheckError where there are fewer

  // As the functions of core/search. The result does not depend on threads and batches. StateError
  // without the rate that is asked for.
  void search(const SearchArgs& args, idx_t k, float* D, idx_t* I, const Execution& run,
              const ResultEntries& found = {}) const;
  std::vector<RangeHits> range_search(const SearchArgs& args, float radius,
                                      const Execution& run) const;

  // x: (n, d) -> list_no (n), codes (n, M). chosen: (n) lists to go to, null: the best centroids by
  // the metric. list_no -1 and codes 0 for what has no list: chosen so, or not usable
  // (core/distance). additive_weight: what the error of the tables counts (core/qinco_encode).
  void encode(idx_t n, const float* x, const idx_t* chosen, int A, int B, float additive_weight,
              idx_t* list_no, std::uint8_t* codes, const Execution& run) const;

  // What stands beside codes (n, M) in list_no (n), out (n), for vectors of these extras (n): a
  // bias or a ratio (core/extra); 0 with inner product without extras, and where list_no is -1.
  void bias(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* extra,
            float* out, const Execution& run) const;
  // From these back to the extras, out (n); 0 where list_no is -1. StateError where vectors have
  // none.
  void extras(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* beside,
              float* out, const Execution& run) const;

  // The decoded vector (d) of an id. StateError without a direct map, or if nothing has the id.
  void reconstruct(idx_t id, float* x, const Execution& run) const;
  // Those of id0 .. id0 + n - 1, (n, d); rows of NaN where nothing has the id. Without a direct map
  // all ids are read.
  void reconstruct_n(idx_t id0, idx_t n, float* x, const Execution& run) const;

  // Where ids (n) are stored, list_no and offset (n), -1 for those that are not; of duplicates the
  // last in list order. Without a direct map all ids are read.
  void locate(idx_t n, const idx_t* ids, idx_t* list_no, idx_t* offset, const Execution& run) const;
  // Of entries (n): codes (n, M), 255 where list_no is -1; decoded vectors (n, d), there rows of
  // NaN. CheckError for one that does not exist.
  void codes_at(idx_t n, const idx_t* list_no, const idx_t* offset, std::uint8_t* codes,
                const Execution& run) const;
  void reconstruct_at(idx_t n, const idx_t* list_no, const idx_t* offset, float* x,
                      const Execution& run) const;

  // -- changes: StateError inside a reading of the same thread ----------------------------------

  // Stores, all or nothing, what encode() gave. list_no: (n), -1 for what takes a number only;
  // codes: (n, M); extra: (n), of the vectors, where they have one, else not used; ids: (n), null:
  // from ntotal on as it is then.
  void add(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* extra,
           const idx_t* ids, const Execution& run);
  // A direct map stays one, and rates stay, with n_fitted 0.
  void reset(const Execution& run);
  // Replaces what is stored, as InvertedLists::import_from; rates are gone. ntotal: at least n.
  void import_from(const idx_t* sizes, idx_t n, const InvertedLists::Rows& rows, idx_t ntotal,
                   const Execution& run);
  // The same as it lay in memory, see InvertedLists::restore. checked: biases have to be sensible
  // numbers as well.
  void restore(const std::vector<InvertedLists::Head>& heads, const InvertedLists::Take& blocks,
               const InvertedLists::Take& ids, std::shared_ptr<const void> file, bool checked,
               idx_t ntotal, const Execution& run);

  // Take out what `filter` (null: any) accepts, or what has one of the ids (n), all or nothing; how
  // much that was. ntotal is less by as much: numbers may come back. By ids and a direct map
  // without duplicates, only the lists where they are are looked at.
  idx_t remove(const IdFilter* filter, const Execution& run);
  idx_t remove(idx_t n, const idx_t* ids, const Execution& run);
  // The same for an index that numbers by itself: what follows moves up. Numbers count as well that
  // were given to vectors which could not be stored. StateError with a direct map.
  idx_t remove_numbers(const IdFilter* filter, const Execution& run);
  // Other vectors for ids (n) that are stored, no two of them the same, all or nothing: what
  // encode() gave, as in add(), and no list_no of -1. StateError without a direct map, or where it
  // has not all of the ids.
  void update(idx_t n, const idx_t* ids, const idx_t* list_no, const std::uint8_t* codes,
              const float* extra, const Execution& run);
  // Takes all that `other`, an engine of the same parts (of which sizes and metric are checked),
  // stores, with ids larger by add_id, and its numbers; that one is as after reset. All or nothing.
  // CheckError where an id would leave what idx_t holds, or become negative.
  void merge_from(Engine& other, idx_t add_id, const Execution& run);

  void set_ranking(std::shared_ptr<const EarlyExit> early_exit,
                   std::shared_ptr<const QincoWeights> student, const Execution& run);
  // Makes, or replaces, the rate of tables->M() codes, fewer than M, its tables being fitted to
  // n_fitted stored vectors. What is stored gets its biases before the change.
  void set_rate(std::shared_ptr<const AdditiveTables> tables, idx_t n_fitted, const Execution& run);
  void precompute_table(const Execution& run);  // a FirstStepTable, unless there is one
  void drop_table(const Execution& run);
  void make_direct_map(const Execution& run);
  void clear_direct_map(const Execution& run);

 private:
  SearchParts parts(int n_codes) const;
  struct Entries {
    std::vector<std::uint8_t> codes;  // (n, M)
    std::vector<float> length;        // (n), where they are corrected
  };
  Entries read(idx_t n, const idx_t* list_no, const idx_t* offset) const;  // inside a reading
  void decode_entries(idx_t n, const idx_t* list_no, const Entries& entries, float* x,
                      const Execution& run) const;
  void bias_by(const AdditiveTables& tables, idx_t n, const idx_t* list_no,
               const std::uint8_t* codes, const float* extra, float* out,
               const Execution& run) const;
  using BiasOfRates = std::map<std::shared_ptr<const AdditiveTables>, std::vector<float>>;
  // Calls change(of_rates) alone, with the biases of codes (n, M) that the rates have there.
  template <class Change>
  void with_rates(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* extra,
                  const Execution& run, Change change);
  void store(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* bias,
             const idx_t* ids, const BiasOfRates& of_rates);
  void check_bias(const InvertedLists& lists) const;
  void put(InvertedLists& lists, idx_t ntotal, const Execution& run);
  // Sorts the ids of a list if that is worth it and there is memory.
  void sort_ids(idx_t list_no) noexcept;
  template <class Select, class Remove>
  idx_t remove_selected(Select select, Remove remove, const Execution& run);
  idx_t remove_now(const std::vector<Removal>& removals, const Execution& run);
  void remove_from_rates(const std::vector<Removal>& removals) noexcept;
  // What would stand beside what `other` stores, by n_codes and list; with room for it.
  std::map<int, std::vector<std::vector<float>>> bias_of_rates(const Engine& other,
                                                               const Execution& run);
  void check_ranking(const EarlyExit* early_exit, const QincoWeights* student) const;

  static constexpr idx_t kMostNumbers = std::numeric_limits<idx_t>::max() / 2;

  const Metric metric_;
  const bool has_extra_;
  const std::shared_ptr<const AdditiveTables> tables_;
  const std::shared_ptr<const QincoWeights> weights_;
  std::vector<float> centroid_rows_;
  std::optional<Centroids> centroids_;  // these
  std::vector<float> own_bases_;        // empty: the centroids

  mutable SharedLock lock_;  // of the rest
  InvertedLists lists_;
  std::atomic<idx_t> ntotal_{0};
  std::optional<DirectMap> map_;
  idx_t n_changes_ = 0;  // of what is stored
  std::shared_ptr<const EarlyExit> early_exit_;
  std::shared_ptr<const QincoWeights> student_;
  std::shared_ptr<const FirstStepTable> table_;
  std::map<int, Rate> rates_;  // by n_codes
  int n_replaced_ = 0;         // times that what was stored has been forgotten
};

template <class Change>
void Engine::with_rates(idx_t n, const idx_t* list_no, const std::uint8_t* codes,
                        const float* extra, const Execution& run, Change change) {
  BiasOfRates of_rates;
  for (;;) {
    std::shared_ptr<const AdditiveTables> missing;  // of a rate that has been made meanwhile
    {
      const SharedLock::Writing writing(lock_, run.interrupted);
      for (const auto& [_, rate] : rates_)
        if (!rate.bias.empty() && !of_rates.contains(rate.tables)) missing = rate.tables;
      if (!missing) return change(of_rates);
    }
    const std::vector<std::uint8_t> cut = first_codes(n, codes, M(), missing->M());
    std::vector<float>& out = of_rates[missing];
    out.resize(static_cast<std::size_t>(n));
    bias_by(*missing, n, list_no, cut.data(), extra, out.data(), run);
  }
}

}  // namespace fq
