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
  const __m512 zero = _mm512_setzero_ps();
  for (int64_t i = 0; i < n; ++i, rows += n_terms, out += cols)
    for (int64_t j = 0; j < cols; j += 16) {
      __m512 s = _mm512_loadu_ps(rows[0] + j);
      for (int64_t t = 1; t < n_terms; ++t) s = _mm512_add_ps(s, _mm512_loadu_ps(rows[t] + j));
      if (clip) s = _mm512_max_ps(s, zero);
      _mm512_storeu_ps(out + j, s);
    }
}

// The sum of 16 partial sums.
inline float total(__m512 sum) {
  __m128 s = _mm_add_ps(_mm_add_ps(_mm512_castps512_ps128(sum), _mm512_extractf32x4_ps(sum, 2)),
                        _mm_add_ps(_mm512_extractf32x4_ps(sum, 1), _mm512_extractf32x4_ps(sum, 3)));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

template <bool kInner>
inline __m512 add_terms(__m512 sum, __m512 q, __m512 x) {
  if (kInner) return _mm512_add_ps(sum, _mm512_mul_ps(q, x));
  const __m512 apart = _mm512_sub_ps(q, x);
  return _mm512_add_ps(sum, _mm512_mul_ps(apart, apart));
}

template <bool kInner>
void score(int64_t n, int64_t d, const float* q, const float* x, float* out) {
  const int64_t whole = d / 16 * 16;
  const auto rest = static_cast<__mmask16>((1u << (d - whole)) - 1);
  for (int64_t i = 0; i < n; ++i, x += d) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t j = 0; j < whole; j += 16)
      sum = add_terms<kInner>(sum, _mm512_loadu_ps(q + j), _mm512_loadu_ps(x + j));
    // What is beyond d counts as 0, which no sum here is changed by: none is -0.
    if (rest)
      sum = add_terms<kInner>(sum, _mm512_maskz_loadu_ps(rest, q + whole),
                              _mm512_maskz_loadu_ps(rest, x + whole));
    out[i] = kInner ? -total(sum) : total(sum);
  }
}

}  // namespace

void sum_rows_avx512(int64_t n, int64_t n_terms, int64_t cols, const float* const* rows, float* out,
                     bool clip) {
  constexpr decltype(&sum<0>) kSum[] = {nullptr, sum<1>, sum<2>, sum<3>};
  (n_terms <= 3 ? kSum[n_terms] : sum<0>)(n, n_terms, cols, rows, out, clip);
}

void squared_norms_avx512(int64_t n, int64_t cols, const float* x, float* out) {
  for (int64_t i = 0; i < n; ++i, x += cols) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t j = 0; j < cols; j += 16) {
      const __m512 a = _mm512_loadu_ps(x + j);
      sum = _mm512_add_ps(sum, _mm512_mul_ps(a, a));
    }
    out[i] = total(sum);
  }
}

void score_rows_avx512(int64_t n, int64_t d, const float* q, const float* x, bool inner_product,
                       float* out) {
  (inner_product ? score<true> : score<false>)(n, d, q, x, out);
}

}  // namespace fq
