// Shortlists -> top k, by the exact distance to the decoded vectors.
#pragma once

#include <vector>

#include "core/early_exit.hpp"
#include "core/first_step_table.hpp"
#include "core/inverted_lists.hpp"
#include "core/qinco_decode.hpp"
#include "core/topk.hpp"

namespace fq {

struct RerankScratch {
  struct Entry {
    idx_t query;
    Candidate candidate;  // its score: the last approximation
  };
  std::vector<Entry> entries;
  std::vector<std::uint8_t> codes;      // (entries, M)
  std::vector<float> x;                 // (entries, dp): x̂ as far as it is decoded
  std::vector<float> original, scores;  // one vector; the scores of one query
  std::vector<idx_t> list_no;
  DecodeScratch decode;
  // These add up: entries, networks run for them, and not run for early exit or as the table had
  // their result; the student's.
  idx_t n_entries = 0, n_steps = 0, n_steps_saved = 0, n_student_steps = 0;
};

// q: (nq, d). Pushes the entries of shortlists[i] into results[i] with their exact scores: all of
// them, or those that `exit` lets through where it is not null, at least k. margin scales those of
// the checkpoints. `student`: what decodes up to them, then `weights` start anew; null: `weights`.
// Weights in bf16 rank first, and only what stays near the best k is decoded in float32. `table`:
// of `weights`, in place of their first network in what they decode with its precision; null: none.
// The shortlists of a block of queries are decoded together: small ones still fill the kernel.
void rerank_block(const InvertedLists& lists, const QincoWeights& weights,
                  const FirstStepTable* table, const QincoWeights* student, const EarlyExit* exit,
                  float margin, idx_t nq, const float* q, idx_t k, Metric metric,
                  std::vector<TopK>& shortlists, std::vector<TopK>& results,
                  RerankScratch& scratch);

}  // namespace fq
