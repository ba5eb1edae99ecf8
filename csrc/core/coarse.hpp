// Flat assignment to the IVF centroids. Any faiss index can take its place from Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "core/topk.hpp"
#include "core/types.hpp"

namespace fq {

// Queries that are worth a matrix product with all centroids; for which these are read once, fewer
// where much is kept for each.
constexpr idx_t kFewestForProduct = 4, kAssignedTogether = 64;
inline idx_t assigned_together(idx_t nprobe) {
  return std::clamp<idx_t>((1 << 18) / nprobe, 16, kAssignedTogether);
}

// Those of the lists, and what is known of them once for all queries.
class Centroids {
 public:
  // rows: (n, d), which must stay. Not for_products: norms are not computed, nor products used.
  Centroids(idx_t n, idx_t d, const float* rows, bool for_products = true);

  idx_t n() const { return n_; }
  idx_t d() const { return d_; }
  const float* row(idx_t i) const { return rows_ + i * d_; }
  float squared_norm(idx_t i) const { return norms_[i]; }
  float largest_squared_norm() const { return largest_norm_; }  // NaN: not for products

 private:
  idx_t n_, d_;
  const float* rows_;
  std::vector<float> norms_;
  float largest_norm_ = NAN;
};

// The centroids that may be among the nearest of a query, of which only approximate scores are
// known.
class NearCentroids {
 public:
  // The n best are asked for; scores are within -size..size and may be wrong by `error`. `score`:
  // the first n_scores of them, `stride` apart, which will be pushed too.
  void reset(idx_t n, float size, float error, idx_t n_scores, const float* score, idx_t stride);

  float limit() const { return limit_; }  // scores above it need not be pushed
  void push(float score, idx_t centroid);

  template <class F>
  void for_each(F f) {  // of few more than the n best by exact scores
    shrink();
    for (const auto& [score, centroid] : near_) f(centroid);
  }

 private:
  void lower_limit();  // by scores_
  void shrink();

  idx_t n_ = 0;
  float size_ = 0, error_ = 0, limit_ = 0;
  std::size_t enough_ = 0;  // to lower the limit
  std::vector<std::pair<float, idx_t>> near_;
  std::vector<float> scores_;
};

struct CoarseScratch {
  std::vector<TopK> best;
  std::vector<NearCentroids> near;
  std::vector<float> columns, scores;
  float size = 0;          // that the last block's scores exceed by roundings only; inf: no product
  std::vector<float> all;  // (nq, n): ListOrder's of a block; to be cleared for another
};

// The nprobe best centroids of each query, by (score, list_no); -1 with score 0 beyond their number
// and for a query that is not usable. q: (nq, d), list_no and score: (nq, nprobe). Scores are
// minimised, and exact_score's bit for bit: where queries come together, a matrix product only
// tells which centroids need one. At most kAssignedTogether queries.
void assign_block(const Centroids& centroids, idx_t nq, const float* q, idx_t nprobe, Metric metric,
                  CoarseScratch& scratch, idx_t* list_no, float* score);

// The same over all n vectors in parallel, with scores as FAISS gives them (similarities for
// inner product) and padding of FLT_MAX (L2) or -FLT_MAX.
void assign(const Centroids& centroids, idx_t n, const float* x, idx_t nprobe, Metric metric,
            idx_t* list_no, float* distance, const Execution& run);

// The lists of one query one after the other, in the order of assign_block: for a search that does
// not know how many it will visit. Those near the next one alone get an exact score, where there is
// a product for the whole block of queries.
class ListOrder {
 public:
  // Of the i-th of nq queries, all of which get their scores where scratch.all is empty. Leaves out
  // the n lists in `without`, where -1 is none.
  void reset(const Centroids& centroids, idx_t nq, const float* q, idx_t i, Metric metric,
             CoarseScratch& scratch, const idx_t* without, idx_t n);

  // Score and number of the next one.
  std::optional<std::pair<float, idx_t>> next();

 private:
  // A bound from below of a list's score, or the score itself, which of two equal ones comes later.
  using Entry = std::tuple<float, bool, idx_t>;
  std::vector<Entry> heap_;  // its first is the smallest
  const Centroids* centroids_ = nullptr;
  const float* q_ = nullptr;
  Metric metric_ = Metric::L2;
};

}  // namespace fq
