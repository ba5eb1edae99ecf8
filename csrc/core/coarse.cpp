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

constexpr idx_t kPanel = 16;   // queries of a panel of gemm_f32
constexpr idx_t kChunk = 256;  // centroids whose products stay in a cache

float squared_norm(const float* x, idx_t d) {
  return sum_terms(d, [=](idx_t i) { return x[i] * x[i]; });
}

// The scores of q and rows (n, d): exact_score's.
void score_rows(idx_t n, idx_t d, const float* q, const float* rows, Metric metric, float* out) {
  score_rows_kernel()(n, d, q, rows, metric == Metric::InnerProduct, out);
}

// How far the scores of a product may be from exact_score, both roundings included: gemm_f32 allows
// (d + 1) 2^-23 |q| |c|, and |q| |c| is at most size / 4; the other sums have less than d / 16 + 8
// roundings of terms that add up to at most size. FLT_MIN is for underflows.
float error_of_scores(idx_t d, float size) {
  return static_cast<float>(d + 16) * 0x1p-23f * size + FLT_MIN;
}

// Calls f(begin, n, scores, width) for the centroids begin to begin + n - 1, chunk by chunk: scores
// (n, width), nq of them of queries, are |c|^2 - 2 <q, c>, which is the score less |q|^2 (L2), or
// -<q, c>. scratch.size is what they exceed by roundings only, in either direction; inf, and no
// call, where the queries are too few for a product, or the scores too large for floats.
template <class F>
void score_block(const Centroids& centroids, idx_t nq, const float* q, Metric metric,
                 CoarseScratch& scratch, F f) {
  const idx_t d = centroids.d(), width = (nq + kPanel - 1) / kPanel * kPanel;
  scratch.size = INFINITY;
  if (nq < kFewestForProduct) return;
  scratch.columns.assign(static_cast<std::size_t>(d * width), 0.0f);
  float q_norm = 0;
  for (idx_t i = 0; i < nq; ++i) {
    if (!is_usable(q + i * d, d)) continue;  // it has no result, and must not spoil the bound
    q_norm = std::max(q_norm, squared_norm(q + i * d, d));
    float* panel = scratch.columns.data() + i / kPanel * d * kPanel + i % kPanel;
    for (idx_t j = 0; j < d; ++j) panel[j * kPanel] = q[i * d + j];
  }
  const float sum = std::sqrt(q_norm) + std::sqrt(centroids.largest_squared_norm());
  if (!(2 * (sum * sum) <= FLT_MAX)) return;
  scratch.size = sum * sum;

  scratch.scores.resize(static_cast<std::size_t>(kChunk * width));
  float* scores = scratch.scores.data();
  const bool l2 = metric == Metric::L2;
  for (idx_t begin = 0; begin < centroids.n(); begin += kChunk) {
    const idx_t n = std::min(kChunk, centroids.n() - begin);
    gemm_f32_kernel()(n, width, d, centroids.row(begin), scratch.columns.data(), scores,
                      Epilogue::Store);
    for (idx_t l = 0; l < n; ++l) {
      const float norm = l2 ? centroids.squared_norm(begin + l) : 0, factor = l2 ? -2 : -1;
      float* of_queries = scores + l * width;
      for (idx_t i = 0; i < width; ++i) of_queries[i] = norm + factor * of_queries[i];
    }
    f(begin, n, scores, width);
  }
}

// Of centroids from `begin` those that may be among the nearest of each query.
void keep_near(idx_t nq, idx_t begin, idx_t n, const float* scores, idx_t width,
               NearCentroids* near) {
  float limit[kAssignedTogether];
  for (idx_t i = 0; i < width; ++i) limit[i] = i < nq ? near[i].limit() : -INFINITY;
  for (idx_t l = 0; l < n; ++l, scores += width)
    for (idx_t first = 0; first < width; first += kPanel) {
      int n_near = 0;
      for (idx_t i = first; i < first + kPanel; ++i) n_near += scores[i] <= limit[i];
      if (n_near == 0) continue;
      for (idx_t i = first; i < std::min(nq, first + kPanel); ++i)
        if (scores[i] <= limit[i]) {
          near[i].push(scores[i], begin + l);
          limit[i] = near[i].limit();
        }
    }
}

}  // namespace

Centroids::Centroids(idx_t n, idx_t d, const float* rows, bool for_products)
    : n_(n), d_(d), rows_(rows) {
  if (!for_products) return;
  norms_.resize(static_cast<std::size_t>(n));
  const std::vector<float> origin(static_cast<std::size_t>(d));
  score_rows(n, d, origin.data(), rows, Metric::L2, norms_.data());
  largest_norm_ = 0;
  for (const float norm : norms_) largest_norm_ = std::max(largest_norm_, norm);  // but NaN
}

void NearCentroids::reset(idx_t n, float size, float error, idx_t n_scores, const float* score,
                          idx_t stride) {
  n_ = n, size_ = size, error_ = error;
  limit_ = INFINITY;
  near_.clear();
  enough_ = static_cast<std::size_t>(2 * n + 64);
  if (n > n_scores) return;
  scores_.clear();
  for (idx_t l = 0; l < n_scores; ++l) scores_.push_back(score[l * stride]);
  lower_limit();
}

void NearCentroids::push(float score, idx_t centroid) {
  near_.emplace_back(score, centroid);
  if (near_.size() >= enough_) shrink();
}

// A centroid among the n best is at most one error above the n-th best score, which is at most one
// error above the n-th best of any scores.
void NearCentroids::lower_limit() {
  limit_ = bound_of_nth(scores_.data(), static_cast<idx_t>(scores_.size()), n_, n_ / 4 + 8,
                        -2 * size_, 2 * size_) +
           2 * error_;
}

void NearCentroids::shrink() {
  if (near_.size() <= static_cast<std::size_t>(n_)) return;
  scores_.clear();
  for (const auto& [score, centroid] : near_) scores_.push_back(score);
  lower_limit();
  std::erase_if(near_, [&](const auto& entry) { return entry.first > limit_; });
  enough_ = std::max(enough_, 2 * near_.size());  // as many may be equal
}

void assign_block(const Centroids& centroids, idx_t nq, const float* q, idx_t nprobe, Metric metric,
                  CoarseScratch& scratch, idx_t* list_no, float* score) {
  const idx_t d = centroids.d(), n_centroids = centroids.n();
  std::vector<TopK>& best = scratch.best;
  if (best.size() < static_cast<std::size_t>(nq)) best.resize(static_cast<std::size_t>(nq));
  for (idx_t i = 0; i < nq; ++i) best[i].reset(nprobe);
  auto push = [&](idx_t i, idx_t l, float s) {
    if (s <= best[i].threshold()) best[i].push({s, l, 0, 0});
  };
  scratch.size = INFINITY;
  if (nprobe <= n_centroids / 4) {  // else the product costs more than it saves
    scratch.near.resize(std::max(scratch.near.size(), static_cast<std::size_t>(nq)));
    NearCentroids* near = scratch.near.data();
    score_block(centroids, nq, q, metric, scratch,
                [&](idx_t begin, idx_t n, const float* scores, idx_t width) {
                  const float error = error_of_scores(d, scratch.size);
                  for (idx_t i = 0; i < nq && begin == 0; ++i)
                    near[i].reset(nprobe, scratch.size, error, n, scores + i, width);
                  keep_near(nq, begin, n, scores, width, near);
                });
  }
  if (scratch.size < INFINITY) {
    for (idx_t i = 0; i < nq; ++i)
      scratch.near[i].for_each([&](idx_t l) {
        float exact;
        score_rows(1, d, q + i * d, centroids.row(l), metric, &exact);
        push(i, l, exact);
      });
  } else {
    constexpr idx_t kRows = 64;  // centroids read once for the whole block of queries
    float scores[kRows];
    for (idx_t begin = 0; begin < n_centroids; begin += kRows)
      for (idx_t i = 0; i < nq; ++i) {
        const idx_t n = std::min(kRows, n_centroids - begin);
        score_rows(n, d, q + i * d, centroids.row(begin), metric, scores);
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

void assign(const Centroids& centroids, idx_t n, const float* x, idx_t nprobe, Metric metric,
            idx_t* list_no, float* distance, const Execution& run) {
  check(nprobe >= 1, "nprobe: expected at least 1, got ", nprobe);
  const idx_t share = n / run.n_threads / kPanel * kPanel;
  const idx_t size = std::clamp(share, kPanel, assigned_together(nprobe)),
              n_blocks = (n + size - 1) / size;
  std::vector<CoarseScratch> scratch(static_cast<std::size_t>(n_workers(n_blocks, run)));
  const bool l2 = metric == Metric::L2;
  parallel_for(n_blocks, run, [&](idx_t block, int worker) {
    const idx_t begin = block * size, end = std::min(n, begin + size);
    assign_block(centroids, end - begin, x + begin * centroids.d(), nprobe, metric, scratch[worker],
                 list_no + begin * nprobe, distance + begin * nprobe);
    for (idx_t i = begin * nprobe; i < end * nprobe; ++i)
      distance[i] = list_no[i] < 0 ? (l2 ? FLT_MAX : -FLT_MAX) : (l2 ? distance[i] : -distance[i]);
  });
}

void ListOrder::reset(const Centroids& centroids, idx_t nq, const float* q, idx_t i, Metric metric,
                      CoarseScratch& scratch, const idx_t* without, idx_t n) {
  const idx_t d = centroids.d(), n_centroids = centroids.n();
  centroids_ = &centroids, q_ = q + i * d, metric_ = metric;
  std::vector<float>& all = scratch.all;
  if (all.empty()) {
    all.resize(static_cast<std::size_t>(nq * n_centroids));
    score_block(centroids, nq, q, metric, scratch,
                [&](idx_t begin, idx_t n_scores, const float* of_queries, idx_t width) {
                  for (idx_t j = 0; j < nq; ++j)
                    for (idx_t l = 0; l < n_scores; ++l)
                      all[j * n_centroids + begin + l] = of_queries[l * width + j];
                });
  }
  float* scores = all.data() + i * n_centroids;
  const bool exact = scratch.size == INFINITY;
  const float norm = metric == Metric::L2 ? squared_norm(q_, d) : 0.0f;
  const float less = norm - 2 * error_of_scores(d, scratch.size);  // twice: for this sum as well
  heap_.clear();
  if (exact) score_rows(n_centroids, d, q_, centroids.row(0), metric, scores);
  for (idx_t l = 0; l < n_centroids; ++l)
    heap_.emplace_back(scores[l] + (exact ? 0 : less), exact, l);
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
    score_rows(1, centroids_->d(), q_, centroids_->row(list_no), metric_, &score);
    exact = true;
    std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  return std::nullopt;
}

}  // namespace fq
