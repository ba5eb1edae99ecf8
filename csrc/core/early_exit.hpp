// Early exit: which candidates of a shortlist need not be decoded to the end.
//
// After n_codes codes a candidate is approximated by x̂ + sum_{m >= n_codes} tail_m[i_m], with
// additive codebooks fitted to what the networks of those steps would add; after none, by what the
// tables said. One whose approximate distance exceeds the k-th smallest of its query, or the radius
// of a range search, by more than a margin is dropped. An infinite margin is one that is not
// calibrated: it drops nobody. What decodes up to the checkpoints is the model itself, or a student
// of it: cheap enough to have a checkpoint after all M codes as well.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "core/types.hpp"

namespace fq {

class EarlyExit {
 public:
  struct Checkpoint {
    int n_codes;
    std::vector<float> margins;  // for `ks`: of L2 distances, not squared; of similarities per |q|
    std::vector<float> tail;     // (M - n_codes, K, dp) in the original space; none after no codes
    // Of the radius: max(a, b * sqrt(radius)) for a squared distance, max(a, b * |q|) for a
    // similarity.
    float range_a, range_b;
    bool has_range_margin() const { return std::isfinite(range_a) && std::isfinite(range_b); }
  };

  // ks: the numbers of results that margins are for, ascending, at least one.
  EarlyExit(int M, int K, idx_t d, std::vector<idx_t> ks);

  // In ascending order of n_codes, which is 0 to M. tail: (tail_size(n_codes), K, d). Margins are
  // at least 0, one for each of `ks`.
  void add_checkpoint(int n_codes, std::vector<float> margins, const float* tail,
                      float range_a = std::numeric_limits<float>::infinity(),
                      float range_b = std::numeric_limits<float>::infinity());

  // `factor` times the margin for k results: between those of `ks` linear in log k; beyond, the
  // last. Infinite ones stay so for every factor.
  float margin(const Checkpoint& checkpoint, idx_t k, float factor) const;

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
  std::vector<idx_t> ks_;
  std::optional<Checkpoint> tables_;
  std::vector<Checkpoint> checkpoints_;
};

// The score up to which candidates stay: `margin` beyond `score`. Scores are squared distances, or
// negated similarities with q.
float exit_bound(float score, float margin, const float* q, idx_t d, Metric metric);

// The score up to which candidates stay in a search of the range below the score `radius`.
float range_bound(float radius, const EarlyExit::Checkpoint& checkpoint, float factor,
                  const float* q, idx_t d, Metric metric);

}  // namespace fq
