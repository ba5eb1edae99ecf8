// A tile of rows x 16 columns of c stays in registers while k runs; a panel of b serves all rows.
#include <immintrin.h>

#include "kernels/gemm_f32/contract.hpp"

namespace fq {
namespace {

using std::int64_t;

template <int R>
void tile(int64_t m, int64_t k, const float* a, const float* b, float* c, Epilogue epilogue) {
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  __m256 sum[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      sum[r][v] = adds ? _mm256_loadu_ps(c + r * m + 8 * v) : _mm256_setzero_ps();
#pragma GCC unroll 2
  for (int64_t l = 0; l < k; ++l, b += 16) {
    const __m256 row[2] = {_mm256_loadu_ps(b), _mm256_loadu_ps(b + 8)};
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m256 factor = _mm256_set1_ps(a[r * k + l]);
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sum[r][v] = _mm256_fmadd_ps(factor, row[v], sum[r][v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      if (clips) sum[r][v] = _mm256_max_ps(sum[r][v], _mm256_setzero_ps());
      _mm256_storeu_ps(c + r * m + 8 * v, sum[r][v]);
    }
}

constexpr decltype(&tile<1>) kTile[] = {nullptr, tile<1>, tile<2>, tile<3>,
                                        tile<4>, tile<5>, tile<6>};
constexpr int64_t kRows = 6;  // 12 sums, which the latency of an addition needs

}  // namespace

void gemm_f32_avx2(int64_t n, int64_t m, int64_t k, const float* a, const float* b, float* c,
                   Epilogue epilogue) {
  for (int64_t j = 0; j < m; j += 16, b += 16 * k)
    for (int64_t i = 0; i < n;) {
      // The last rows in two halves: a tile of one or two rows waits for its additions.
      const int64_t left = n - i;
      const int64_t rows = left >= 2 * kRows ? kRows : left > kRows ? (left + 1) / 2 : left;
      kTile[rows](m, k, a + i * k, b, c + i * m + j, epilogue);
      i += rows;
    }
}

}  // namespace fq
