// Flat assignment to the IVF centroids. Any faiss index can take its place from Python.
#pragma once

#include <vector>

#include "core/topk.hpp"
#include "core/types.hpp"

namespace fq {

struct CoarseScratch {
  std::vector<TopK> best;
  std::vector<float> columns, products, norms, scores;
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

}  // namespace fq
