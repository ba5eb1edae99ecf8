#include <immintrin.h>

#include "kernels/rows/contract.hpp"

namespace fq {
namespace {

using std::int64_t;

// T terms, or n_terms where T is 0.
template <int T>
void sum(int64_t n, int64_t n_terms, int64_t cols, const float* const* rows, float* out,
         bool clip) {
  if (T) n_terms = T;
  const __m256 zero = _mm256_setzero_ps();
  for (int64_t i = 0; i < n; ++i, rows += n_terms, out += cols)
    for (int64_t j = 0; j < cols; j += 16) {
      __m256 low = _mm256_loadu_ps(rows[0] + j), high = _mm256_loadu_ps(rows[0] + j + 8);
      for (int64_t t = 1; t < n_terms; ++t) {
        low = _mm256_add_ps(low, _mm256_loadu_ps(rows[t] + j));
        high = _mm256_add_ps(high, _mm256_loadu_ps(rows[t] + j + 8));
      }
      if (clip) low = _mm256_max_ps(low, zero), high = _mm256_max_ps(high, zero);
      _mm256_storeu_ps(out + j, low);
      _mm256_storeu_ps(out + j + 8, high);
    }
}

// The sum of 16 partial sums.
inline float total(__m256 low, __m256 high) {
  low = _mm256_add_ps(low, high);
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

template <bool kInner>
inline __m256 add_terms(__m256 sum, __m256 q, __m256 x) {
  if (kInner) return _mm256_add_ps(sum, _mm256_mul_ps(q, x));
  const __m256 apart = _mm256_sub_ps(q, x);
  return _mm256_add_ps(sum, _mm256_mul_ps(apart, apart));
}

template <bool kInner>
void score(int64_t n, int64_t d, const float* q, const float* x, float* out) {
  // What is beyond d counts as 0, which no sum here is changed by: none is -0.
  alignas(32) static const int kMask[24] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                            -1, -1, -1, -1, 0,  0,  0,  0,  0,  0,  0,  0};
  const int64_t whole = d / 16 * 16, rest = d - whole;
  auto mask = [](int64_t k) {  // the first k of eight
    const int64_t first = k < 0 ? 16 : k > 8 ? 8 : 16 - k;
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + first));
  };
  const __m256i a = mask(rest), b = mask(rest - 8);
  for (int64_t i = 0; i < n; ++i, x += d) {
    __m256 low = _mm256_setzero_ps(), high = low;
    for (int64_t j = 0; j < whole; j += 16) {
      low = add_terms<kInner>(low, _mm256_loadu_ps(q + j), _mm256_loadu_ps(x + j));
      high = add_terms<kInner>(high, _mm256_loadu_ps(q + j + 8), _mm256_loadu_ps(x + j + 8));
    }
    if (rest > 0) {
      const float *q_end = q + whole, *x_end = x + whole;
      low = add_terms<kInner>(low, _mm256_maskload_ps(q_end, a), _mm256_maskload_ps(x_end, a));
      if (rest > 8)
        high = add_terms<kInner>(high, _mm256_maskload_ps(q_end + 8, b),
                                 _mm256_maskload_ps(x_end + 8, b));
    }
    const float sum = total(low, high);
    out[i] = kInner ? -sum : sum;
  }
}

}  // namespace

void sum_rows_avx2(int64_t n, int64_t n_terms, int64_t cols, const float* const* rows, float* out,
                   bool clip) {
  constexpr decltype(&sum<0>) kSum[] = {nullptr, sum<1>, sum<2>, sum<3>};
  (n_terms <= 3 ? kSum[n_terms] : sum<0>)(n, n_terms, cols, rows, out, clip);
}

void squared_norms_avx2(int64_t n, int64_t cols, const float* x, float* out) {
  for (int64_t i = 0; i < n; ++i, x += cols) {
    __m256 low = _mm256_setzero_ps(), high = low;
    for (int64_t j = 0; j < cols; j += 16) {
      const __m256 a = _mm256_loadu_ps(x + j), b = _mm256_loadu_ps(x + j + 8);
      low = _mm256_add_ps(low, _mm256_mul_ps(a, a));
      high = _mm256_add_ps(high, _mm256_mul_ps(b, b));
    }
    out[i] = total(low, high);
  }
}

void score_rows_avx2(int64_t n, int64_t d, const float* q, const float* x, bool inner_product,
                     float* out) {
  (inner_product ? score<true> : score<false>)(n, d, q, x, out);
}

}  // namespace fq
