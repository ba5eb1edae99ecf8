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
    __m128 s =
        _mm_add_ps(_mm_add_ps(_mm512_castps512_ps128(sum), _mm512_extractf32x4_ps(sum, 2)),
                   _mm_add_ps(_mm512_extractf32x4_ps(sum, 1), _mm512_extractf32x4_ps(sum, 3)));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    out[i] = _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
}

}  // namespace fq
