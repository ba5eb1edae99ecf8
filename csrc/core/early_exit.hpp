// Early exit: which candidates of a shortlist need not be decoded to the end.
//
// After n_codes codes a candidate is approximated by x̂ + sum_{m >= n_codes} tail_m[i_m], with
// additive codebooks fitted to what the networks of those steps would add; after none, by what the
// tables said. One whose approximate distance exceeds the k-th smallest of its query by more than a
// margin is dropped. What decodes up to the checkpoints is the model itself, or a student of it:
// cheap enough to have a checkpoint after all M codes as well.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/types.hpp"

namespace fq {

class EarlyExit {
 public:
  struct Checkpoint {
    int n_codes;
    // For results of 1, 10, 100 … : of distances (L2, not squared); of similarities per |q|.
    std::vector<float> margins;
    std::vector<float> tail;  // (M - n_codes, K, dp) in the original space; none after no codes

    float margin(idx_t k) const;  // between them in log k; beyond, the last
  };

  EarlyExit(int M, int K, idx_t d);

  // In ascending order of n_codes, which is 0 to M. tail: (tail_size(n_codes), K, d).
  // margins: at least one, >= 0.
  void add_checkpoint(int n_codes, std::vector<float> margins, const float* tail);

  int tail_size(int n_codes) const { return n_codes == 0 ? 0 : M_ - n_codes; }

  int M() const { return M_; }
  int K() const { return K_; }
  idx_t d() const { return d_; }
  // The checkpoint of no codes, for which nothing is decoded, if there is one; the others.
  const std::optional<Checkpoint>& tables() const { return tables_; }
  const std::vector<Checkpoint>& checkpoints() const { return checkpoints_; }

  // x: (dp), d padded as the rows of weights are, the decoded vector of the first n_codes codes;
  // becomes the approximation of the whole. terms: scratch.
  void add_tail(const Checkpoint& checkpoint, const std::uint8_t* code, float* x,
                std::vector<const float*>& terms) const;

 private:
  int M_, K_;
  idx_t d_, dp_;  // d, and padded to a multiple of 16
  std::optional<Checkpoint> tables_;
  std::vector<Checkpoint> checkpoints_;
};

// The score up to which candidates stay: `margin` beyond `score`. Scores are squared distances, or
// negated similarities with q.
float exit_bound(float score, float margin, const float* q, idx_t d, Metric metric);

}  // namespace fq
