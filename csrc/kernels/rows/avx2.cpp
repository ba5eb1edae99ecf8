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
    low = _mm256_add_ps(low, high);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    out[i] = _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
}

}  // namespace fq
