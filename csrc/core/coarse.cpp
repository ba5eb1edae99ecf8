#include "core/coarse.hpp"

#include <algorithm>
#include <cfloat>

#include "core/check.hpp"
#include "core/distance.hpp"
#include "core/parallel.hpp"

namespace fq {

void assign_block(idx_t nlist, const float* centroids, idx_t d, idx_t nq, const float* q,
                  idx_t nprobe, Metric metric, std::vector<TopK>& best, idx_t* list_no,
                  float* score) {
  if (best.size() < static_cast<std::size_t>(nq)) best.resize(static_cast<std::size_t>(nq));
  for (idx_t i = 0; i < nq; ++i) best[i].reset(nprobe);
  // Centroids outside: each is read once for the whole block of queries.
  for (idx_t l = 0; l < nlist; ++l)
    for (idx_t i = 0; i < nq; ++i) {
      const float s = exact_score(q + i * d, centroids + l * d, d, metric);
      if (s <= best[i].threshold()) best[i].push({s, l, 0, 0});
    }
  for (idx_t i = 0; i < nq; ++i, list_no += nprobe, score += nprobe) {
    std::fill_n(list_no, nprobe, idx_t{-1});
    std::fill_n(score, nprobe, 0.0f);
    if (!all_finite(q + i * d, d)) continue;
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
  constexpr idx_t kBlock = 16;
  const idx_t n_blocks = (n + kBlock - 1) / kBlock;
  std::vector<std::vector<TopK>> best(static_cast<std::size_t>(n_workers(n_blocks, run)));
  const bool l2 = metric == Metric::L2;
  parallel_for(n_blocks, run, [&](idx_t block, int worker) {
    const idx_t begin = block * kBlock, end = std::min(n, begin + kBlock);
    assign_block(nlist, centroids, d, end - begin, x + begin * d, nprobe, metric, best[worker],
                 list_no + begin * nprobe, distance + begin * nprobe);
    for (idx_t i = begin * nprobe; i < end * nprobe; ++i)
      distance[i] = list_no[i] < 0 ? (l2 ? FLT_MAX : -FLT_MAX) : (l2 ? distance[i] : -distance[i]);
  });
}

}  // namespace fq
