// Flat assignment to the IVF centroids. Any faiss index can take its place from Python.
#pragma once

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "core/topk.hpp"
#include "core/types.hpp"

namespace fq {

struct CoarseScratch {
  std::vector<TopK> best;
  std::vector<float> columns, products, norms, origin, scores;
  bool is_scored = false;  // the block of queries, if it is worth a product
  float size = 0;          // which the scores exceed by roundings only; inf: there are none
};

// The nprobe best centroids of each query, by (score, list_no); -1 with score 0 beyond nlist and
// for a query that is not usable. centroids: (nlist, d), q: (nq, d), list_no and score:
// (nq, nprobe). Scores are minimised, and exact_score's bit for bit: where queries come together, a
// matrix product only tells which centroids need one. At most 16 queries.
void assign_block(idx_t nlist, const float* centroids, idx_t d, idx_t nq, const float* q,
                  idx_t nprobe, Metric metric, CoarseScratch& scratch, idx_t* list_no,
                  float* score);

// The same over all n vectors in parallel, with scores as FAISS gives them (similarities for
// inner product) and padding of FLT_MAX (L2) or -FLT_MAX.
void assign(idx_t nlist, const float* centroids, idx_t d, idx_t n, const float* x, idx_t nprobe,
            Metric metric, idx_t* list_no, float* distance, const Execution& run);

// The lists of one query one after the other, in the order of assign_block: for a search that does
// not know how many it will visit. Those near the next one alone get an exact score, where there is
// a product for the whole block of queries.
class ListOrder {
 public:
  // Of the i-th of nq queries, which assign_block has had last with this scratch, or else
  // scratch.is_scored is false. Leaves out the n lists in `without`, where -1 is none.
  void reset(idx_t nlist, const float* centroids, idx_t d, idx_t nq, const float* q, idx_t i,
             Metric metric, CoarseScratch& scratch, const idx_t* without, idx_t n);

  // Score and number of the next one.
  std::optional<std::pair<float, idx_t>> next();

 private:
  // A bound from below of a list's score, or the score itself, which of two equal ones comes later.
  using Entry = std::tuple<float, bool, idx_t>;
  std::vector<Entry> heap_;  // its first is the smallest
  const float *centroids_ = nullptr, *q_ = nullptr;
  idx_t d_ = 0;
  Metric metric_ = Metric::L2;
};

}  // namespace fq
