#include <arm_neon.h>

#include "kernels/rows/contract.hpp"

namespace fq {
namespace {

using std::int64_t;

// T terms, or n_terms where T is 0.
template <int T>
void sum(int64_t n, int64_t n_terms, int64_t cols, const float* const* rows, float* out,
         bool clip) {
  if (T) n_terms = T;
  for (int64_t i = 0; i < n; ++i, rows += n_terms, out += cols)
    for (int64_t j = 0; j < cols; j += 16) {
      float32x4_t s[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) s[v] = vld1q_f32(rows[0] + j + 4 * v);
      for (int64_t t = 1; t < n_terms; ++t)
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) s[v] = vaddq_f32(s[v], vld1q_f32(rows[t] + j + 4 * v));
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v)
        vst1q_f32(out + j + 4 * v, clip ? vmaxnmq_f32(s[v], vdupq_n_f32(0)) : s[v]);
    }
}

// The sum of 16 partial sums.
inline float total(const float32x4_t* s) {
  const float32x4_t sum = vaddq_f32(vaddq_f32(s[0], s[2]), vaddq_f32(s[1], s[3]));
  const float32x2_t pair = vadd_f32(vget_low_f32(sum), vget_high_f32(sum));
  return vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
}

template <bool kInner>
void score(int64_t n, int64_t d, const float* q, const float* x, float* out) {
  for (int64_t i = 0; i < n; ++i, x += d) {
    float32x4_t s[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    int64_t j = 0;
    for (; j + 16 <= d; j += 16)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const float32x4_t a = vld1q_f32(q + j + 4 * v), b = vld1q_f32(x + j + 4 * v);
        const float32x4_t apart = vsubq_f32(a, b);
        s[v] = vaddq_f32(s[v], kInner ? vmulq_f32(a, b) : vmulq_f32(apart, apart));
      }
    if (j < d) {
      float lanes[16];
      for (int v = 0; v < 4; ++v) vst1q_f32(lanes + 4 * v, s[v]);
      for (float* lane = lanes; j < d; ++j, ++lane) {
        const float apart = q[j] - x[j];
        *lane += kInner ? q[j] * x[j] : apart * apart;
      }
      for (int v = 0; v < 4; ++v) s[v] = vld1q_f32(lanes + 4 * v);
    }
    out[i] = kInner ? -total(s) : total(s);
  }
}

}  // namespace

void sum_rows_neon(int64_t n, int64_t n_terms, int64_t cols, const float* const* rows, float* out,
                   bool clip) {
  constexpr decltype(&sum<0>) kSum[] = {nullptr, sum<1>, sum<2>, sum<3>};
  (n_terms <= 3 ? kSum[n_terms] : sum<0>)(n, n_terms, cols, rows, out, clip);
}

void squared_norms_neon(int64_t n, int64_t cols, const float* x, float* out) {
  for (int64_t i = 0; i < n; ++i, x += cols) {
    float32x4_t s[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    for (int64_t j = 0; j < cols; j += 16)
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const float32x4_t a = vld1q_f32(x + j + 4 * v);
        s[v] = vaddq_f32(s[v], vmulq_f32(a, a));
      }
    out[i] = total(s);
  }
}

void score_rows_neon(int64_t n, int64_t d, const float* q, const float* x, bool inner_product,
                     float* out) {
  (inner_product ? score<true> : score<false>)(n, d, q, x, out);
}

}  // namespace fq
