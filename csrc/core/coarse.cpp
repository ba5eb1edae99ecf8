#include "core/coarse.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>

#include "core/check.hpp"
#include "core/distance.hpp"
#include "core/parallel.hpp"
#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

constexpr idx_t kBlock = 16;  // queries together: a panel of gemm_f32

float squared_norm(const float* x, idx_t d) {
  return sum_terms(d, [=](idx_t i) { return x[i] * x[i]; });
}

// The scores of q and rows (n, d): exact_score's.
void score_rows(idx_t n, idx_t d, const float* q, const float* rows, Metric metric, float* out) {
  score_rows_kernel()(n, d, q, rows, metric == Metric::InnerProduct, out);
}

// Fills scratch.scores (nq, nlist) with |c|^2 - 2 <q, c>, which is the score less |q|^2 (L2), or
// with -<q, c>, and says a size that they exceed by roundings only, in either direction; inf where
// the queries are too few, or the scores too large for floats.
void score_block(idx_t nlist, const float* centroids, idx_t d, idx_t nq, const float* q,
                 Metric metric, CoarseScratch& scratch) {
  constexpr idx_t kChunk = 1024;  // centroids whose products stay in a cache
  auto& [best, columns, products, norms, origin, scores, is_scored, size] = scratch;
  is_scored = true;
  size = INFINITY;
  if (nq < 4) return;
  columns.assign(static_cast<std::size_t>(d * kBlock), 0.0f);
  products.resize(kChunk * kBlock);
  norms.resize(kChunk);
  origin.assign(static_cast<std::size_t>(d), 0.0f);
  scores.resize(static_cast<std::size_t>(nq * nlist));
  float q_norm = 0, c_norm = 0;
  for (idx_t i = 0; i < nq; ++i) {
    if (!is_usable(q + i * d, d)) continue;  // it has no result, and must not spoil the bound
    q_norm = std::max(q_norm, squared_norm(q + i * d, d));
    for (idx_t j = 0; j < d; ++j) columns[j * kBlock + i] = q[i * d + j];
  }
  const bool l2 = metric == Metric::L2;
  const float factor = l2 ? -2.0f : -1.0f;
  for (idx_t begin = 0; begin < nlist; begin += kChunk) {
    const idx_t n = std::min(kChunk, nlist - begin);
    const float* c = centroids + begin * d;
    gemm_f32_kernel()(n, kBlock, d, c, columns.data(), products.data(), Epilogue::Store);
    score_rows(n, d, origin.data(), c, Metric::L2, norms.data());
    for (idx_t l = 0; l < n; ++l) {
      c_norm = norms[l] <= c_norm ? c_norm : norms[l];  // NaN stays
      if (!l2) norms[l] = 0;
    }
    for (idx_t i = 0; i < nq; ++i)
      for (idx_t l = 0; l < n; ++l)
        scores[i * nlist + begin + l] = norms[l] + factor * products[l * kBlock + i];
  }
  const float sum = std::sqrt(q_norm) + std::sqrt(c_norm);
  if (2 * (sum * sum) <= FLT_MAX) size = sum * sum;
}

// How far those scores may be from exact_score, both roundings included: gemm_f32 allows
// (d + 1) 2^-23 |q| |c|, and |q| |c| is at most size / 4; the other sums have less than d / 16 + 8
// roundings of terms that add up to at most size. FLT_MIN is for underflows.
float error_of_scores(idx_t d, float size) {
  return static_cast<float>(d + 16) * 0x1p-23f * size + FLT_MIN;
}

}  // namespace

void assign_block(idx_t nlist, const float* centroids, idx_t d, idx_t nq, const float* q,
                  idx_t nprobe, Metric metric, CoarseScratch& scratch, idx_t* list_no,
                  float* score) {
  std::vector<TopK>& best = scratch.best;
  if (best.size() < static_cast<std::size_t>(nq)) best.resize(static_cast<std::size_t>(nq));
  for (idx_t i = 0; i < nq; ++i) best[i].reset(nprobe);
  auto push = [&](idx_t i, idx_t l, float s) {
    if (s <= best[i].threshold()) best[i].push({s, l, 0, 0});
  };
  scratch.is_scored = nprobe > nlist / 4;  // the product costs more than it saves
  scratch.size = INFINITY;
  if (!scratch.is_scored) score_block(nlist, centroids, d, nq, q, metric, scratch);
  if (const float size = scratch.size; size < INFINITY) {
    const float error = error_of_scores(d, size);
    for (idx_t i = 0; i < nq; ++i) {
      // A centroid among the nprobe best is at most one error above the nprobe-th best score, which
      // is at most one error above the bound.
      const float* s = scratch.scores.data() + i * nlist;
      const float bound = bound_of_nth(s, nlist, nprobe, nprobe / 4 + 8, -2 * size, 2 * size);
      for (idx_t l = 0; l < nlist; ++l)
        if (s[l] <= bound + 2 * error) {
          float exact;
          score_rows(1, d, q + i * d, centroids + l * d, metric, &exact);
          push(i, l, exact);
        }
    }
  } else {
    constexpr idx_t kChunk = 64;  // centroids read once for the whole block of queries
    float scores[kChunk];
    for (idx_t begin = 0; begin < nlist; begin += kChunk)
      for (idx_t i = 0; i < nq; ++i) {
        const idx_t n = std::min(kChunk, nlist - begin);
        score_rows(n, d, q + i * d, centroids + begin * d, metric, scores);
        for (idx_t l = 0; l < n; ++l) push(i, begin + l, scores[l]);
      }
  }
  for (idx_t i = 0; i < nq; ++i, list_no += nprobe, score += nprobe) {
    std::fill_n(list_no, nprobe, idx_t{-1});
    std::fill_n(score, nprobe, 0.0f);
    if (!is_usable(q + i * d, d)) continue;
    idx_t p = 0;
    for (const Candidate& c : best[i].sorted()) {
      list_no[p] = c.id;
      score[p++] = c.score;
    }
  }
}

void assign(idx_t nlist, const float* centroids, idx_t d, idx_t n, const float* x, idx_t nprobe,
            Metric metric, idx_t* list_no, float* distance, const Execution& run) {
  check(nprobe >= 1, "nprobe: expected at least 1, got ", nprobe);
  const idx_t n_blocks = (n + kBlock - 1) / kBlock;
  std::vector<CoarseScratch> scratch(static_cast<std::size_t>(n_workers(n_blocks, run)));
  const bool l2 = metric == Metric::L2;
  parallel_for(n_blocks, run, [&](idx_t block, int worker) {
    const idx_t begin = block * kBlock, end = std::min(n, begin + kBlock);
    assign_block(nlist, centroids, d, end - begin, x + begin * d, nprobe, metric, scratch[worker],
                 list_no + begin * nprobe, distance + begin * nprobe);
    for (idx_t i = begin * nprobe; i < end * nprobe; ++i)
      distance[i] = list_no[i] < 0 ? (l2 ? FLT_MAX : -FLT_MAX) : (l2 ? distance[i] : -distance[i]);
  });
}

void ListOrder::reset(idx_t nlist, const float* centroids, idx_t d, idx_t nq, const float* q,
                      idx_t i, Metric metric, CoarseScratch& scratch, const idx_t* without,
                      idx_t n) {
  centroids_ = centroids, q_ = q + i * d, d_ = d, metric_ = metric;
  if (!scratch.is_scored) score_block(nlist, centroids, d, nq, q, metric, scratch);
  const bool exact = scratch.size == INFINITY;
  const float norm = metric == Metric::L2 ? squared_norm(q_, d) : 0.0f;
  const float less = norm - 2 * error_of_scores(d, scratch.size);  // twice: for this sum as well
  heap_.clear();
  std::vector<float>& scores = scratch.scores;
  if (exact) {
    scores.resize(static_cast<std::size_t>((i + 1) * nlist));
    score_rows(nlist, d, q_, centroids, metric, scores.data() + i * nlist);
  }
  for (idx_t l = 0; l < nlist; ++l)
    heap_.emplace_back(scores[i * nlist + l] + (exact ? 0 : less), exact, l);
  for (idx_t p = 0; p < n; ++p)
    if (without[p] != -1) std::get<0>(heap_[without[p]]) = NAN;
  std::erase_if(heap_, [](const Entry& entry) { return std::isnan(std::get<0>(entry)); });
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
}

std::optional<std::pair<float, idx_t>> ListOrder::next() {
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    auto& [score, exact, list_no] = heap_.back();
    if (exact) {
      const std::pair found(score, list_no);
      heap_.pop_back();
      return found;
    }
    score_rows(1, d_, q_, centroids_ + list_no * d_, metric_, &score);
    exact = true;
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  return std::nullopt;
}

}  // namespace fq
