#include "core/rerank.hpp"

#include <algorithm>

#include "core/distance.hpp"

namespace fq {

void rerank_block(const InvertedLists& lists, const QincoWeights& weights, idx_t nq, const float* q,
                  Metric metric, std::vector<TopK>& shortlists, std::vector<TopK>& results,
                  RerankScratch& scratch) {
  const idx_t d = weights.d(), M = lists.M();
  auto& [entries, list_no, codes, decoded, decode] = scratch;
  entries.clear();
  for (idx_t i = 0; i < nq; ++i)
    for (const Candidate& c : shortlists[i].sorted()) entries.push_back({i, c});
  list_no.resize(kDecodeBlock);
  codes.resize(static_cast<std::size_t>(kDecodeBlock * M));
  decoded.resize(static_cast<std::size_t>(kDecodeBlock * d));

  const idx_t n = static_cast<idx_t>(entries.size());
  for (idx_t begin = 0; begin < n; begin += kDecodeBlock) {
    const idx_t rows = std::min(kDecodeBlock, n - begin);
    for (idx_t i = 0; i < rows; ++i) {
      const Candidate& c = entries[begin + i].candidate;
      list_no[i] = c.list_no;
      lists.read_code(c.list_no, c.offset, codes.data() + i * M);
    }
    decode_block(weights, rows, list_no.data(), codes.data(), M, lists.M(), decode, decoded.data());
    for (idx_t i = 0; i < rows; ++i) {
      const RerankScratch::Entry& e = entries[begin + i];
      const float score = exact_score(q + e.query * d, decoded.data() + i * d, d, metric);
      results[e.query].push({score, e.candidate.id, e.candidate.list_no, e.candidate.offset});
    }
  }
}

}  // namespace fq
