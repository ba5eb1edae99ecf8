// The one call: coarse -> lut -> shortlist -> rerank, in parallel over small blocks of queries.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/early_exit.hpp"
#include "core/first_step_table.hpp"
#include "core/inverted_lists.hpp"
#include "core/lut.hpp"
#include "core/qinco_weights.hpp"
#include "core/selection.hpp"
#include "core/shortlist.hpp"
#include "core/types.hpp"

namespace fq {

struct SearchArgs {
  const InvertedLists& lists;
  const AdditiveTables& tables;
  const QincoWeights* weights;  // null: only with nshort == 0

  // Where to look: `centroids` (nlist, d), or lists already chosen, (n, nprobe) with -1 for none.
  // Their scores are FAISS distances (similarities for inner product); null: from the centroids.
  const float* centroids;
  const idx_t* coarse_list_no;
  const float* coarse_score;

  idx_t n;
  const float* q;  // (n, d)
  idx_t k, nprobe;
  idx_t nshort;  // 0: tables only, and D is the additive distance; else at least k are re-ranked
  Metric metric;
  const IdFilter* filter;  // null: all ids
  ScanLimits limits = {};
  const EarlyExit* early_exit = nullptr;  // null: the whole shortlist is decoded to the end
  float exit_margin = 1;                  // times the margins of its checkpoints
  const QincoWeights* student = nullptr;  // decodes up to them; null: `weights`
  const FirstStepTable* table = nullptr;  // of `weights`, which `search` uses; null: none
};

// What all searches of this process have done since the start, or since it was set to zero.
struct SearchStats {
  std::atomic<idx_t> nq{0};               // queries
  std::atomic<idx_t> n_reranked{0};       // entries of their shortlists
  std::atomic<idx_t> n_steps{0};          // networks run for them
  std::atomic<idx_t> n_steps_saved{0};    // and not run: early exit, or looked up in a table
  std::atomic<idx_t> n_student_steps{0};  // networks of students run for them
};
extern SearchStats search_stats;

// Where `search` also puts the codes behind its results; null: nowhere.
struct ResultCodes {
  idx_t* list_no = nullptr;       // (n, k), -1 where a result is missing
  std::uint8_t* codes = nullptr;  // (n, k, M), one byte per step, 0 where a result is missing
};

// D: (n, k) squared L2 or similarities, best first; I: (n, k) ids. Missing results, and every
// result of a query with a NaN or an inf: id -1 and D = FLT_MAX (L2) or -FLT_MAX.
void search(const SearchArgs& args, float* D, idx_t* I, const Execution& run,
            const ResultCodes& found = {});

struct RangeHits {  // of one query, in no particular order
  std::vector<float> D;
  std::vector<idx_t> I;
};

// For each query what is nearer than the radius (a squared L2 distance), or more similar than it;
// args.k is not used. With nshort, decoded are all codes whose additive distance is inside and,
// where these are fewer than nshort, the next best up to that number; the exact distance decides.
std::vector<RangeHits> range_search(const SearchArgs& args, float radius, const Execution& run);

}  // namespace fq
