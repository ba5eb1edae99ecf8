// A tile of rows x 16 columns of c stays in registers while k runs; a panel of b serves all rows.
#include <arm_neon.h>

#include "kernels/gemm_bf16/contract.hpp"

namespace fq {
namespace {

using std::int64_t;

inline bfloat16x8_t load(const bf16* p) { return vreinterpretq_bf16_u16(vld1q_u16(p)); }

inline bfloat16x8_t broadcast_pair(const bf16* a) {
  std::uint32_t pair;
  __builtin_memcpy(&pair, a, sizeof pair);
  return vreinterpretq_bf16_u32(vdupq_n_u32(pair));
}

inline void store_rounded(bf16* y, float32x4_t low, float32x4_t high) {
  vst1q_u16(y, vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(low), high)));
}

template <int R>
void tile(int64_t m, int64_t k, const bf16* a, const bf16* b, float* c, bf16* rounded,
          Epilogue epilogue) {
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  float32x4_t sum[R][4];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sum[r][v] = adds ? vld1q_f32(c + r * m + 4 * v) : vdupq_n_f32(0);
  for (int64_t l = 0; l < k; l += 2, b += 32) {
    bfloat16x8_t row[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) row[v] = load(b + 8 * v);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const bfloat16x8_t factor = broadcast_pair(a + r * k + l);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) sum[r][v] = vbfdotq_f32(sum[r][v], factor, row[v]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      if (clips) sum[r][v] = vmaxnmq_f32(sum[r][v], vdupq_n_f32(0));
      if (c) vst1q_f32(c + r * m + 4 * v, sum[r][v]);
    }
    if (rounded) {
      store_rounded(rounded + r * m, sum[r][0], sum[r][1]);
      store_rounded(rounded + r * m + 8, sum[r][2], sum[r][3]);
    }
  }
}

constexpr decltype(&tile<1>) kTile[] = {nullptr, tile<1>, tile<2>, tile<3>,
                                        tile<4>, tile<5>, tile<6>};
constexpr int64_t kRows = 6;  // 24 sums

}  // namespace

void gemm_bf16_neon_bf16(int64_t n, int64_t m, int64_t k, const bf16* a, const bf16* b, float* c,
                         bf16* rounded, Epilogue epilogue) {
  for (int64_t j = 0; j < m; j += 16, b += 16 * k)
    for (int64_t i = 0; i < n;) {
      // The last rows in two halves: a tile of one or two rows waits for its additions.
      const int64_t left = n - i;
      const int64_t rows = left >= 2 * kRows ? kRows : left > kRows ? (left + 1) / 2 : left;
      const int64_t at = i * m + j;
      kTile[rows](m, k, a + i * k, b, c ? c + at : nullptr, rounded ? rounded + at : nullptr,
                  epilogue);
      i += rows;
    }
}

void round_bf16_neon_bf16(int64_t n, const float* x, bf16* y) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) store_rounded(y + i, vld1q_f32(x + i), vld1q_f32(x + i + 4));
  for (; i < n; ++i)
    vst1_lane_u16(y + i, vreinterpret_u16_bf16(vcvt_bf16_f32(vdupq_n_f32(x[i]))), 0);
}

}  // namespace fq
