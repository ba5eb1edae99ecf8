#include "core/early_exit.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/check.hpp"
#include "core/distance.hpp"
#include "core/row_sums.hpp"

namespace fq {

EarlyExit::EarlyExit(int M, int K, idx_t d, std::vector<idx_t> ks)
    : M_(M), K_(K), d_(d), dp_(padded(d)), ks_(std::move(ks)) {
  check(M >= 1 && K >= 1 && d >= 1, "M, K, d: expected at least 1, got ", M, ", ", K, ", ", d);
  check(!ks_.empty(), "ks: expected at least one, got none");
  idx_t last = 0;
  for (const idx_t k : ks_) {
    check(k > last, "ks: expected ascending numbers from 1, got ", k, " after ", last);
    last = k;
  }
}

float EarlyExit::margin(const Checkpoint& checkpoint, idx_t k, float factor) const {
  const std::vector<float>& margins = checkpoint.margins;
  auto log = [](idx_t n) { return std::log10(static_cast<float>(n)); };
  const auto above = std::upper_bound(ks_.begin(), ks_.end(), std::max(k, ks_.front()));
  const auto i = static_cast<std::size_t>(above - ks_.begin()) - 1;
  float margin = margins[i];
  if (above != ks_.end() && k > ks_[i] && std::isfinite(margin)) {
    const float part = (log(k) - log(ks_[i])) / (log(ks_[i + 1]) - log(ks_[i]));
    margin += part * (margins[i + 1] - margin);
  }
  return std::isfinite(margin) ? factor * margin : margin;
}

void EarlyExit::add_checkpoint(int n_codes, std::vector<float> margins, const float* tail,
                               float range_a, float range_b) {
  const int first = checkpoints_.empty() ? tables_.has_value() : checkpoints_.back().n_codes + 1;
  check(n_codes >= first && n_codes <= M_, "n_codes: expected ", first, " to ", M_, ", got ",
        n_codes);
  check(margins.size() == ks_.size(), "margins: expected ", ks_.size(), ", got ", margins.size());
  for (const float margin : margins)
    check(margin >= 0, "margins: expected at least 0, got ", margin);
  check(range_a >= 0 && range_b >= 0, "range_margin: expected at least 0, got ", range_a, ", ",
        range_b);
  const idx_t n_rows = idx_t{tail_size(n_codes)} * K_;
  check_finite("tail", tail, n_rows * d_);
  Checkpoint checkpoint{n_codes, std::move(margins), {}, range_a, range_b};
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
  if (std::isinf(margin)) return margin;
  if (metric == Metric::InnerProduct)
    return score + margin * std::sqrt(sum_terms(d, [=](idx_t j) { return q[j] * q[j]; }));
  const float distance = std::sqrt(std::max(score, 0.0f)) + margin;
  return std::max(distance * distance, score);  // whatever the roundings, the k-th itself stays
}

float range_bound(float radius, const EarlyExit::Checkpoint& checkpoint, float factor,
                  const float* q, idx_t d, Metric metric) {
  if (std::isinf(radius)) return radius;
  if (!checkpoint.has_range_margin()) return std::numeric_limits<float>::infinity();
  double square = std::max(radius, 0.0f);
  if (metric == Metric::InnerProduct)
    square = std::accumulate(q, q + d, 0.0, [](double s, float v) { return s + double{v} * v; });
  const double margin =
      std::max<double>(checkpoint.range_a, checkpoint.range_b * std::sqrt(square));
  return static_cast<float>(double{radius} + double{factor} * margin);
}

}  // namespace fq
