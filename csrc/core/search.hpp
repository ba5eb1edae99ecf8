// The inside of Engine, whose searches these are. The order of the rooms:
// coarse -> lut -> shortlist -> rerank, in parallel over small blocks of queries.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/coarse.hpp"
#include "core/early_exit.hpp"
#include "core/first_step_table.hpp"
#include "core/inverted_lists.hpp"
#include "core/lut.hpp"
#include "core/qinco_weights.hpp"
#include "core/rate.hpp"
#include "core/selection.hpp"
#include "core/shortlist.hpp"
#include "core/types.hpp"

namespace fq {

// What is searched. Not checked: Engine has done so.
struct SearchParts {
  const InvertedLists& lists;
  const Centroids& centroids;    // by which lists are chosen
  const float* bases;            // (nlist, d), what the residuals are to; may be the centroids
  const AdditiveTables& tables;  // of as many codes as count
  Metric metric;
  const QincoWeights* weights;  // null: only with nshort 0
  const EarlyExit* early_exit;  // null: the whole shortlist is decoded to the end
  const QincoWeights* student;  // decodes up to its checkpoints; null: `weights`
  const FirstStepTable* table;  // of `weights`; null: none
  bool has_extra;               // core/extra
  const Rate* rate;             // null: whole codes; else neither student nor early exit
};

struct SearchArgs {
  idx_t n;
  const float* q;  // (n, d)
  idx_t nprobe = 1;
  idx_t nshort = 0;       // are re-ranked; the rest of k follows as the tables rank it, by the
                          // additive distance or, if that is less, the last of those re-ranked
  float exit_margin = 1;  // times the margins of early exit; inf: none
  int n_codes = 0;        // that count, the first of each, with Engine's rate of so many; 0: all
  const IdFilter* filter = nullptr;  // null: all ids
  ScanLimits limits = {};
  // Lists already chosen, (n, nprobe) with -1 for none; null: the nearest of the centroids. Their
  // scores are FAISS distances (similarities for inner product), of use only where these are the
  // bases; null: computed. In either case limits.min_codes goes on by the centroids.
  const idx_t* coarse_list_no = nullptr;
  const float* coarse_score = nullptr;
};

// What all searches of this process have done since the start, or since it was set to zero.
struct SearchStats {
  std::atomic<idx_t> nq{0};               // queries
  std::atomic<idx_t> nlist{0};            // lists visited for them, but for empty ones
  std::atomic<idx_t> ndis{0};             // codes scanned there; see Scanned
  std::atomic<idx_t> n_reranked{0};       // entries of their shortlists, candidates of a range
  std::atomic<idx_t> n_steps{0};          // networks run for them
  std::atomic<idx_t> n_steps_saved{0};    // and not run: early exit, or looked up in a table
  std::atomic<idx_t> n_student_steps{0};  // networks of students run for them

  // Three numbers of another library's that the first three are added to as well; null: none.
  std::atomic<std::size_t*> also{nullptr};
};
extern SearchStats search_stats;

// Where `search` also puts what is behind its results; null: nowhere.
struct ResultEntries {
  idx_t* list_no = nullptr;       // (n, k), -1 where a result is missing
  idx_t* offset = nullptr;        // (n, k), the same
  std::uint8_t* codes = nullptr;  // (n, k, n_codes), a byte per step, 0 where a result is missing
  float* extra = nullptr;         // (n, k), of the vectors, where they have one; 0 as above
};

// D: (n, k) squared L2 or similarities, best first; I: (n, k) ids. Missing results, and every
// result of a query that is not usable: id -1 and D = FLT_MAX (L2) or -FLT_MAX.
void search(const SearchParts& parts, const SearchArgs& args, idx_t k, float* D, idx_t* I,
            const Execution& run, const ResultEntries& found = {});

struct RangeHits {  // of one query, in no particular order
  std::vector<float> D;
  std::vector<idx_t> I;
};

// For each query what is nearer than the radius (a squared L2 distance), or more similar than it.
// With nshort 0 the additive distance decides, else the exact one of all scanned codes but those
// that early exit gives up.
std::vector<RangeHits> range_search(const SearchParts& parts, const SearchArgs& args, float radius,
                                    const Execution& run);

}  // namespace fq
