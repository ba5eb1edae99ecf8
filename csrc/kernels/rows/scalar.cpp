#include "kernels/rows/contract.hpp"

namespace fq {

void sum_rows_scalar(std::int64_t n, std::int64_t n_terms, std::int64_t cols,
                     const float* const* rows, float* out, bool clip) {
  for (std::int64_t i = 0; i < n; ++i, rows += n_terms, out += cols)
    for (std::int64_t j = 0; j < cols; ++j) {
      float sum = rows[0][j];
      for (std::int64_t t = 1; t < n_terms; ++t) sum += rows[t][j];
      out[j] = clip && !(sum > 0) ? 0.0f : sum;
    }
}

void squared_norms_scalar(std::int64_t n, std::int64_t cols, const float* x, float* out) {
  constexpr int kLanes = 16;
  for (std::int64_t i = 0; i < n; ++i, x += cols) {
    float sum[kLanes] = {};
    for (std::int64_t j = 0; j < cols; j += kLanes)
      for (int lane = 0; lane < kLanes; ++lane) sum[lane] += x[j + lane] * x[j + lane];
    for (int width = kLanes / 2; width > 0; width /= 2)
      for (int lane = 0; lane < width; ++lane) sum[lane] += sum[lane + width];
    out[i] = sum[0];
  }
}

void score_rows_scalar(std::int64_t n, std::int64_t d, const float* q, const float* x,
                       bool inner_product, float* out) {
  constexpr int kLanes = 16;
  for (std::int64_t i = 0; i < n; ++i, x += d) {
    float sum[kLanes] = {};
    for (std::int64_t j = 0; j < d; ++j) {
      const float apart = q[j] - x[j];
      sum[j % kLanes] += inner_product ? q[j] * x[j] : apart * apart;
    }
    for (int width = kLanes / 2; width > 0; width /= 2)
      for (int lane = 0; lane < width; ++lane) sum[lane] += sum[lane + width];
    out[i] = inner_product ? -sum[0] : sum[0];
  }
}

}  // namespace fq
