// A tile of 6 rows x 64 columns of c stays in registers while k runs: 24 sums, more than the
// latency of an addition needs, for 4 loads of b and 6 of a. Four panels of b serve all rows.
#include <immintrin.h>

#include "kernels/gemm_bf16/contract.hpp"

namespace fq {
namespace {

using std::int64_t;

inline __m512bh broadcast_pair(const bf16* a) {
  std::int32_t pair;
  __builtin_memcpy(&pair, a, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

// R rows, P panels.
template <int R, int P>
void tile(int64_t m, int64_t k, const bf16* a, const bf16* b, float* c, bf16* rounded,
          Epilogue epilogue) {
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  __m512 sum[R][P];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p)
      sum[r][p] = adds ? _mm512_loadu_ps(c + r * m + 16 * p) : _mm512_setzero_ps();
  for (int64_t l = 0; l < k; l += 2, b += 32) {
    __m512bh row[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) row[p] = (__m512bh)_mm512_loadu_si512(b + p * 16 * k);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m512bh factor = broadcast_pair(a + r * k + l);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sum[r][p] = _mm512_dpbf16_ps(sum[r][p], factor, row[p]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      if (clips) sum[r][p] = _mm512_max_ps(sum[r][p], _mm512_setzero_ps());
      if (c) _mm512_storeu_ps(c + r * m + 16 * p, sum[r][p]);
      if (rounded)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(rounded + r * m + 16 * p),
                            (__m256i)_mm512_cvtneps_pbh(sum[r][p]));
    }
}

// All rows of P panels.
template <int P>
void panels(int64_t n, int64_t m, int64_t k, const bf16* a, const bf16* b, float* c, bf16* rounded,
            Epilogue epilogue) {
  constexpr int64_t kRows = 6;
  constexpr decltype(&tile<1, P>) kTile[] = {nullptr,    tile<1, P>, tile<2, P>, tile<3, P>,
                                             tile<4, P>, tile<5, P>, tile<6, P>};
  while (n > 0) {
    // The last rows in two halves: a tile of one or two rows waits for its additions.
    const int64_t rows = n >= 2 * kRows ? kRows : n > kRows ? (n + 1) / 2 : n;
    kTile[rows](m, k, a, b, c, rounded, epilogue);
    n -= rows;
    a += rows * k;
    if (c) c += rows * m;
    if (rounded) rounded += rows * m;
  }
}

}  // namespace

void gemm_bf16_avx512_bf16(int64_t n, int64_t m, int64_t k, const bf16* a, const bf16* b, float* c,
                           bf16* rounded, Epilogue epilogue) {
  auto at = [](auto* p, int64_t j) { return p ? p + j : p; };
  int64_t j = 0;
  for (; j + 64 <= m; j += 64) panels<4>(n, m, k, a, b + j * k, at(c, j), at(rounded, j), epilogue);
  for (; j + 32 <= m; j += 32) panels<2>(n, m, k, a, b + j * k, at(c, j), at(rounded, j), epilogue);
  for (; j < m; j += 16) panels<1>(n, m, k, a, b + j * k, at(c, j), at(rounded, j), epilogue);
}

void round_bf16_avx512_bf16(int64_t n, const float* x, bf16* y) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i),
                        (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + i)));
  if (i == n) return;
  const __mmask16 rest = static_cast<__mmask16>((1u << (n - i)) - 1);
  _mm256_mask_storeu_epi16(y + i, rest,
                           (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(rest, x + i)));
}

}  // namespace fq
