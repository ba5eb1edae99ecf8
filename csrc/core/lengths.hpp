// The correction of length, with inner product.
//
// A decoded vector is shorter than the one stored, the more so the less its code says of it, and
// inner products with it are too small by as much. What is scored and reconstructed is therefore
// the decoded vector stretched to the stored one's length. For that a list keeps, in place of a
// bias,
//   ratio = |y| / |x|,
// y being what the tables make of the code: the scan divides scores by it, and |x| = |y| / ratio.
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

// What gives the stored lengths back.
struct Lengths {
  const AdditiveTables& tables;
  const float* bases;  // (nlist, d)

  float of(idx_t list_no, const std::uint8_t* code, float ratio, std::vector<double>& r) const {
    return tables.norm(bases + list_no * tables.d(), code, r) / ratio;
  }
};

}  // namespace fq
