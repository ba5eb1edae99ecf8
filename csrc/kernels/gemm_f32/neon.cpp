// A tile of rows x 16 columns of c stays in registers while k runs; a panel of b serves all rows.
#include <arm_neon.h>

#include "kernels/gemm_f32/contract.hpp"

namespace fq {
namespace {

using std::int64_t;

template <int R>
void tile(int64_t m, int64_t k, const float* a, const float* b, float* c, Epilogue epilogue) {
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  float32x4_t sum[R][4];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sum[r][v] = adds ? vld1q_f32(c + r * m + 4 * v) : vdupq_n_f32(0);
  for (int64_t l = 0; l < k; ++l, b += 16) {
    float32x4_t row[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) row[v] = vld1q_f32(b + 4 * v);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const float32x4_t factor = vld1q_dup_f32(a + r * k + l);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[r][v] = vfmaq_f32(sum[r][v], factor, row[v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      if (clips) sum[r][v] = vmaxnmq_f32(sum[r][v], vdupq_n_f32(0));
      vst1q_f32(c + r * m + 4 * v, sum[r][v]);
    }
}

constexpr decltype(&tile<1>) kTile[] = {nullptr, tile<1>, tile<2>, tile<3>,
                                        tile<4>, tile<5>, tile<6>};
constexpr int64_t kRows = 6;  // 24 sums

}  // namespace

void gemm_f32_neon(int64_t n, int64_t m, int64_t k, const float* a, const float* b, float* c,
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
