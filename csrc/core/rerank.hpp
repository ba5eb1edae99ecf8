// Shortlists -> top k, or what is within a radius, by the exact distance to the decoded vectors.
#pragma once

#include <optional>
#include <vector>

#include "core/early_exit.hpp"
#include "core/extra.hpp"
#include "core/first_step_table.hpp"
#include "core/inverted_lists.hpp"
#include "core/parallel.hpp"
#include "core/qinco_decode.hpp"
#include "core/rate.hpp"
#include "core/topk.hpp"

namespace fq {

// What decodes, and how early candidates may leave.
struct Reranking {
  const InvertedLists& lists;
  const QincoWeights& weights;
  const FirstStepTable* table;  // of `weights`, in place of their first network in what they decode
                                // with its precision; null: none
  const QincoWeights* student;  // decodes up to the checkpoints, then `weights` start anew; null:
                                // `weights` do
  const EarlyExit* exit;        // null: all are decoded to the end
  float margin;                 // times those of the checkpoints
  Metric metric;
  std::optional<Extras> extras = {};  // null: decoded vectors are scored as they are
  const Rate* rate = nullptr;         // null: whole codes; else neither student nor exit

  const QincoWeights& first() const { return student ? *student : weights; }
};

struct RerankScratch {
  struct Entry {
    idx_t query;
    Candidate candidate;  // its score: the last approximation
  };
  std::vector<Entry> entries;
  std::vector<std::uint8_t> codes;      // (entries, n_codes)
  std::vector<float> x;                 // (entries, dp): x̂ as far as it is decoded
  std::vector<float> extra;             // (entries), where the stored vectors have one
  std::vector<float> original, scores;  // one vector; the scores of one query
  std::vector<double> sum;              // one vector of the tables
  std::vector<idx_t> list_no;
  DecodeScratch decode;
  Poll* poll = nullptr;  // called between blocks of vectors; null: nothing is
  // These add up: entries, networks run for them, and not run for early exit or as the table had
  // their result; the student's.
  idx_t n_entries = 0, n_steps = 0, n_steps_saved = 0, n_student_steps = 0;
};

// q: (nq, d). Pushes the entries of shortlists[i] into results[i] with their exact scores: all of
// them, or those that early exit lets through, at least k. Weights in bf16 rank first, and only
// what stays near the best k is decoded in float32. The shortlists of a block of queries are
// decoded together: small ones still fill the kernel.
void rerank_block(const Reranking& how, idx_t nq, const float* q, idx_t k, TopK* shortlists,
                  TopK* results, RerankScratch& scratch);

// q: as above. Of scratch.entries, those of a query together, keeps the ones that early exit lets
// through for a score below `radius`, and puts their exact scores, by float32.
void rerank_range(const Reranking& how, const float* q, float radius, RerankScratch& scratch);

}  // namespace fq
