// Shortlists -> top k, by the exact distance to the decoded vectors.
#pragma once

#include <vector>

#include "core/inverted_lists.hpp"
#include "core/qinco_decode.hpp"
#include "core/topk.hpp"

namespace fq {

struct RerankScratch {
  struct Entry {
    idx_t query;
    Candidate candidate;
  };
  std::vector<Entry> entries;
  std::vector<idx_t> list_no;
  std::vector<std::uint8_t> codes;
  std::vector<float> decoded;
  DecodeScratch decode;
};

// q: (nq, d). Pushes each entry of shortlists[i] into results[i] with its exact score. The
// shortlists of a block of queries are decoded together: small ones still fill the kernel.
void rerank_block(const InvertedLists& lists, const QincoWeights& weights, idx_t nq, const float* q,
                  Metric metric, std::vector<TopK>& shortlists, std::vector<TopK>& results,
                  RerankScratch& scratch);

}  // namespace fq
