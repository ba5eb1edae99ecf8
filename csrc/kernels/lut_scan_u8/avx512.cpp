// The table of one step is held in four registers as 128 pairs of bytes, looked up with
// two-register permutes of 16 bits; the lowest bit of the code then chooses the byte.
#include "kernels/lut_scan_u8/avx512.hpp"

namespace fq {
namespace {

// The values of the codes in the low bytes of 16-bit lanes, whatever the high bytes are.
inline __m512i lookup(const __m512i* t, __m512i code) {
  const __m512i pair = _mm512_srli_epi16(code, 1);  // the permute ignores the bits above its six
  const __m512i both = _mm512_mask_blend_epi16(_mm512_test_epi16_mask(code, _mm512_set1_epi16(128)),
                                               _mm512_permutex2var_epi16(t[0], pair, t[1]),
                                               _mm512_permutex2var_epi16(t[2], pair, t[3]));
  const __mmask32 high = _mm512_test_epi16_mask(code, _mm512_set1_epi16(1));
  return _mm512_and_si512(_mm512_mask_srli_epi16(both, high, both, 8), _mm512_set1_epi16(255));
}

template <int B>
void scan(const std::uint8_t*& blocks, std::int64_t block_bytes, std::int64_t& n, int M,
          const std::uint8_t* lut, BiasRows& bias, float scale, float slope, float constant,
          float threshold, std::uint64_t*& survivors) {
  __m512i even[B], odd[B];
  for (int b = 0; b < B; ++b) even[b] = odd[b] = _mm512_setzero_si512();
  for (int m = 0; m < M; ++m, lut += 256) {
    __m512i t[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) t[r] = _mm512_loadu_si512(lut + 64 * r);
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
      const std::uint8_t* row = blocks + b * block_bytes + 64 * m;
      prefetch(row, kAhead * block_bytes);
      const __m512i code = _mm512_loadu_si512(row);
      even[b] = _mm512_add_epi16(even[b], lookup(t, code));
      odd[b] = _mm512_add_epi16(odd[b], lookup(t, _mm512_srli_epi16(code, 8)));
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
    const std::uint8_t* row = bias.rows + b * bias.block_bytes;
    prefetch(row, kAhead * bias.block_bytes);
    prefetch(row + 64, kAhead * bias.block_bytes);
    survivors[b] = survivors_of(even[b], odd[b], n - 64 * b, row, bias.offset, scale, slope,
                                constant, threshold);
  }
  blocks += B * block_bytes;
  n -= 64 * B;
  bias.rows += B * bias.block_bytes;
  survivors += B;
}

}  // namespace

void lut_scan_u8_avx512(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                        const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                        float constant, float threshold, std::uint64_t* survivors) {
  while (n > 64)
    scan<2>(blocks, block_bytes, n, M, lut, bias, scale, slope, constant, threshold, survivors);
  if (n > 0)
    scan<1>(blocks, block_bytes, n, M, lut, bias, scale, slope, constant, threshold, survivors);
}

}  // namespace fq
