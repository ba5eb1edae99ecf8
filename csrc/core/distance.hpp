// Exact scores of two vectors. The order of the additions is fixed (16 partial sums), so the
// result is the same wherever the vector stands in a batch, and the compiler can still vectorise.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/check.hpp"
#include "core/types.hpp"

namespace fq {

template <class Term>
float sum_terms(idx_t d, Term term) {
  constexpr int kLanes = 16;
  float sum[kLanes] = {};
  idx_t i = 0;
  for (; i + kLanes <= d; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sum[lane] += term(i + lane);
  for (int lane = 0; i < d; ++i, ++lane) sum[lane] += term(i);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int lane = 0; lane < width; ++lane) sum[lane] += sum[lane + width];
  return sum[0];
}

inline float exact_score(const float* q, const float* x, idx_t d, Metric metric) {
  if (metric == Metric::InnerProduct) return -sum_terms(d, [=](idx_t i) { return q[i] * x[i]; });
  return sum_terms(d, [=](idx_t i) { return (q[i] - x[i]) * (q[i] - x[i]); });
}

// Whether x is finite, and short enough for its squared distance to another such vector to be a
// float: as FAISS, we answer another query with padding and do not store another vector.
inline bool is_usable(const float* x, idx_t d) {
  return sum_terms(d, [=](idx_t i) { return x[i] * x[i]; }) <= FLT_MAX / 4;  // false for NaN
}

// Of what comes from a file: one NaN would spoil every score.
inline void check_finite(const char* name, const float* values, idx_t n) {
  check(std::all_of(values, values + n, [](float v) { return std::isfinite(v); }), name,
        ": expected finite values");
}

}  // namespace fq
