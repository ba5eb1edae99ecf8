// What a vector says of itself beside its code, its `extra`, and the number that stands there for
// it.
//
// L2: w |x - x̂|^2, the error of what its code decodes to, which is known when it is added. Scores
// take it as it is: what is further from its x̂ is likely to be further from a query near that. It
// stands in the bias, with which the tables take it too,
//   bias = that of the code + extra,
// and what the code does not explain of a bias is the extra of its vector.
//
// Inner product: the length that what is decoded is stretched to. A decoded vector is shorter than
// the one stored, the more so the less its code says of it, and inner products with it are too
// small by as much. In place of a bias there is
//   ratio = |y| / extra,
// y being what the tables make of the code: the scan divides scores by it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/distance.hpp"
#include "core/lut.hpp"
#include "core/types.hpp"

namespace fq {

constexpr float kMostStretch = 16.0f;   // a direction that the code hardly knows is not blown up
constexpr float kLeastStretch = 1e-6f;  // so that ratios are finite

inline float length_ratio(float norm, float length) {
  return length > norm * kLeastStretch ? std::max(norm / length, 1 / kMostStretch)
                                       : 1 / kLeastStretch;
}

// Stretches a decoded x (d) to a length.
inline void stretch(float* x, idx_t d, float length) {
  const float norm = std::sqrt(sum_terms(d, [=](idx_t j) { return x[j] * x[j]; }));
  if (!(norm > 0)) return;
  const float factor = std::min(length / norm, kMostStretch);
  for (idx_t j = 0; j < d; ++j) x[j] *= factor;
}

// What gives the extras of stored vectors back.
struct Extras {
  const AdditiveTables& tables;
  const float* bases;  // (nlist, d)
  Metric metric;

  // beside: what stands beside the code. r: scratch.
  float of(idx_t list_no, const std::uint8_t* code, float beside, std::vector<double>& r) const {
    const float* base = bases + list_no * tables.d();
    const bool l2 = metric == Metric::L2;
    return from(l2 ? tables.bias(base, code, r) : tables.norm(base, code, r), beside);
  }
  // of_code: its bias, or |y|.
  float from(float of_code, float beside) const {
    if (metric == Metric::InnerProduct) return of_code / beside;
    return std::max(beside - of_code, 0.0f);  // less than 0 by rounding
  }
};

}  // namespace fq
