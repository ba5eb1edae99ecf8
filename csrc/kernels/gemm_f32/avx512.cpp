// A tile of rows x 32 columns of c stays in registers while k runs; two panels of b serve all rows.
#include <immintrin.h>

#include "kernels/gemm_f32/contract.hpp"

namespace fq {
namespace {

using std::int64_t;
constexpr int kWidth = 16;  // floats of a register, and columns of a panel
constexpr int kRows = 8;    // rows of a tile
constexpr int kPanels = 2;  // registers of a tile's row

template <int R, int V>
void tile(int64_t m, int64_t k, const float* a, const float* b, float* c, Epilogue epilogue) {
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  __m512 sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      sum[r][v] = adds ? _mm512_loadu_ps(c + r * m + v * kWidth) : _mm512_setzero_ps();
  for (int64_t l = 0; l < k; ++l, b += kWidth) {
    __m512 row[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) row[v] = _mm512_loadu_ps(b + v * kWidth * k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512 factor = _mm512_set1_ps(a[r * k + l]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_fmadd_ps(factor, row[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (clips) sum[r][v] = _mm512_max_ps(sum[r][v], _mm512_setzero_ps());
      _mm512_storeu_ps(c + r * m + v * kWidth, sum[r][v]);
    }
}

// All rows of V panels: full tiles of R rows, then the rest with fewer rows.
template <int R, int V>
void panels(int64_t n, int64_t m, int64_t k, const float* a, const float* b, float* c,
            Epilogue epilogue) {
  for (; n >= R; n -= R, a += R * k, c += R * m) tile<R, V>(m, k, a, b, c, epilogue);
  if constexpr (R > 1) panels<R / 2, V>(n, m, k, a, b, c, epilogue);
}

}  // namespace

void gemm_f32_avx512(int64_t n, int64_t m, int64_t k, const float* a, const float* b, float* c,
                     Epilogue epilogue) {
  int64_t j = 0;
  for (; j + kPanels * kWidth <= m; j += kPanels * kWidth)
    panels<kRows, kPanels>(n, m, k, a, b + j * k, c + j, epilogue);
  for (; j < m; j += kWidth) panels<kRows, 1>(n, m, k, a, b + j * k, c + j, epilogue);
}

}  // namespace fq
