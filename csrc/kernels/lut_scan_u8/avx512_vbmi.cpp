// The table of one step is held in four registers and looked up with two-register byte permutes;
// one load of it serves several blocks.
#include "kernels/lut_scan_u8/avx512.hpp"

namespace fq {
namespace {

template <int B>
void scan(const std::uint8_t*& blocks, std::int64_t block_bytes, std::int64_t& n, int M,
          const std::uint8_t* lut, BiasRows& bias, float scale, float slope, float constant,
          float threshold, std::uint64_t*& survivors) {
  // `all` adds the bytes of two codes as one number of 16 bits: a saved mask in every step, since
  // the even codes' sums are what the odd ones leave of it, modulo 2^16.
  __m512i all[B], odd[B];
  for (int b = 0; b < B; ++b) all[b] = odd[b] = _mm512_setzero_si512();
  for (int m = 0; m < M; ++m, lut += 256) {
    const __m512i t0 = _mm512_loadu_si512(lut), t1 = _mm512_loadu_si512(lut + 64);
    const __m512i t2 = _mm512_loadu_si512(lut + 128), t3 = _mm512_loadu_si512(lut + 192);
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      const std::uint8_t* row = blocks + b * block_bytes + 64 * m;
      prefetch(row, kAhead * block_bytes);
      const __m512i code = _mm512_loadu_si512(row);
      const __m512i value =
          _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), _mm512_permutex2var_epi8(t0, code, t1),
                                 _mm512_permutex2var_epi8(t2, code, t3));
      all[b] = _mm512_add_epi16(all[b], value);
      odd[b] = _mm512_add_epi16(odd[b], _mm512_srli_epi16(value, 8));
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
    const std::uint8_t* row = bias.rows + b * bias.block_bytes;
    prefetch(row, kAhead * bias.block_bytes);
    prefetch(row + 64, kAhead * bias.block_bytes);
    survivors[b] = survivors_of(_mm512_sub_epi16(all[b], _mm512_slli_epi16(odd[b], 8)), odd[b],
                                n - 64 * b, row, bias.offset, scale, slope, constant, threshold);
  }
  blocks += B * block_bytes;
  n -= 64 * B;
  bias.rows += B * bias.block_bytes;
  survivors += B;
}

}  // namespace

void lut_scan_u8_avx512_vbmi(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                             int M, const std::uint8_t* lut, BiasRows bias, float scale,
                             float slope, float constant, float threshold,
                             std::uint64_t* survivors) {
  while (n > 3 * 64)
    scan<4>(blocks, block_bytes, n, M, lut, bias, scale, slope, constant, threshold, survivors);
  if (n > 64)
    scan<2>(blocks, block_bytes, n, M, lut, bias, scale, slope, constant, threshold, survivors);
  if (n > 0)
    scan<1>(blocks, block_bytes, n, M, lut, bias, scale, slope, constant, threshold, survivors);
}

}  // namespace fq
