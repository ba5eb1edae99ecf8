#include "core/early_exit.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/check.hpp"
#include "core/distance.hpp"
#include "core/row_sums.hpp"

namespace fq {

EarlyExit::EarlyExit(int M, int K, idx_t d) : M_(M), K_(K), d_(d), dp_(padded(d)) {
  check(M >= 1 && K >= 1 && d >= 1, "M, K, d: expected at least 1, got ", M, ", ", K, ", ", d);
}

float EarlyExit::Checkpoint::margin(idx_t k) const {
  const float at = std::log10(static_cast<float>(std::max<idx_t>(k, 1)));
  const auto i = static_cast<std::size_t>(at);
  if (i + 1 >= margins.size()) return margins.back();
  return margins[i] + (at - static_cast<float>(i)) * (margins[i + 1] - margins[i]);
}

void EarlyExit::add_checkpoint(int n_codes, std::vector<float> margins, const float* tail) {
  const int first = checkpoints_.empty() ? tables_.has_value() : checkpoints_.back().n_codes + 1;
  check(n_codes >= first && n_codes <= M_, "n_codes: expected ", first, " to ", M_, ", got ",
        n_codes);
  check(!margins.empty(), "margins: expected at least one, got none");
  for (const float margin : margins)
    check(margin >= 0, "margins: expected at least 0, got ", margin);
  const idx_t n_rows = idx_t{tail_size(n_codes)} * K_;
  Checkpoint checkpoint{n_codes, std::move(margins), {}};
  checkpoint.tail.resize(static_cast<std::size_t>(n_rows * dp_));
  for (idx_t i = 0; i < n_rows; ++i) std::copy_n(tail + i * d_, d_, &checkpoint.tail[i * dp_]);
  if (n_codes == 0)
    tables_ = std::move(checkpoint);
  else
    checkpoints_.push_back(std::move(checkpoint));
}

void EarlyExit::add_tail(const Checkpoint& checkpoint, const std::uint8_t* code, float* x,
                         std::vector<const float*>& terms) const {
  sum_rows(1, dp_, x, false, terms, [&](idx_t, auto add) {
    add(x);
    const float* tail = checkpoint.tail.data();
    for (int m = checkpoint.n_codes; m < M_; ++m, tail += K_ * dp_) add(tail + code[m] * dp_);
  });
}

float exit_bound(float score, float margin, const float* q, idx_t d, Metric metric) {
  if (metric == Metric::InnerProduct)
    return score + margin * std::sqrt(sum_terms(d, [=](idx_t j) { return q[j] * q[j]; }));
  const float distance = std::sqrt(std::max(score, 0.0f)) + margin;
  return std::max(distance * distance, score);  // whatever the roundings, the k-th itself stays
}

}  // namespace fq
