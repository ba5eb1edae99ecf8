// The table of one step is 16 tables of 16 entries for the low half of the code; a tree of blends
// then goes by the bits of the high half. No gather: it costs more than the tree.
#include <immintrin.h>

#include "kernels/lut_scan_u8/contract.hpp"

namespace fq {
namespace {

// `low` holds the codes' low halves, the top bit of bit[i]'s bytes is their bit 4 + i.
template <int kBits>
inline __m256i lookup(const std::uint8_t* table, __m256i low, const __m256i* bit) {
  if constexpr (kBits == 4) {
    const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(sixteen), low);
  } else {
    return _mm256_blendv_epi8(lookup<kBits - 1>(table, low, bit),
                              lookup<kBits - 1>(table + (1 << (kBits - 1)), low, bit),
                              bit[kBits - 5]);
  }
}

// Eight bits from the sums of eight codes and what their row of the biases says.
inline std::uint64_t survivors8(__m128i sum, const std::uint8_t* row, float offset, float scale,
                                float slope, float constant, float threshold) {
  const __m128i eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
  const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16);
  const __m256 b = _mm256_add_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(offset));
  const __m256 bound = _mm256_add_ps(
      _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sum)), _mm256_set1_ps(scale)),
      _mm256_add_ps(_mm256_mul_ps(b, _mm256_set1_ps(slope)), _mm256_set1_ps(constant)));
  const __m256 below = _mm256_cmp_ps(bound, _mm256_set1_ps(threshold), _CMP_LE_OQ);
  return static_cast<std::uint64_t>(_mm256_movemask_ps(below));
}

// Half a block; row: of its biases.
std::uint64_t scan32(const std::uint8_t* codes, int M, const std::uint8_t* lut,
                     const std::uint8_t* row, float offset, float scale, float slope,
                     float constant, float threshold) {
  // `all` adds the bytes of two codes as one number of 16 bits; the even codes' sums are what the
  // odd ones leave of it, modulo 2^16.
  __m256i all = _mm256_setzero_si256(), odd = all;
  for (int m = 0; m < M; ++m, codes += 64, lut += 256) {
    const __m256i code = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
    const __m256i low = _mm256_and_si256(code, _mm256_set1_epi8(15));
    const __m256i bit[4] = {_mm256_slli_epi16(code, 3), _mm256_slli_epi16(code, 2),
                            _mm256_slli_epi16(code, 1), code};
    const __m256i value = lookup<8>(lut, low, bit);
    all = _mm256_add_epi16(all, value);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(value, 8));
  }
  const __m256i even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
  const __m256i a = _mm256_unpacklo_epi16(even, odd);  // codes 0..7 and 16..23
  const __m256i b = _mm256_unpackhi_epi16(even, odd);  // codes 8..15 and 24..31
  auto of = [&](__m128i sum, int first) {
    return survivors8(sum, row + 2 * first, offset, scale, slope, constant, threshold) << first;
  };
  return of(_mm256_castsi256_si128(a), 0) | of(_mm256_castsi256_si128(b), 8) |
         of(_mm256_extracti128_si256(a, 1), 16) | of(_mm256_extracti128_si256(b, 1), 24);
}

// One block.
std::uint64_t scan(const std::uint8_t* block, int M, const std::uint8_t* lut, const BiasRows& bias,
                   float scale, float slope, float constant, float threshold) {
  return scan32(block, M, lut, bias.rows, bias.offset, scale, slope, constant, threshold) |
         scan32(block + 32, M, lut, bias.rows + 64, bias.offset, scale, slope, constant, threshold)
             << 32;
}

}  // namespace

void lut_scan_u8_avx2(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                      const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                      float constant, float threshold, std::uint64_t* survivors) {
  for (; n > 0; n -= 64, blocks += block_bytes, bias.rows += bias.block_bytes) {
    const std::uint64_t exist = n < 64 ? (std::uint64_t{1} << n) - 1 : ~std::uint64_t{0};
    *survivors++ = scan(blocks, M, lut, bias, scale, slope, constant, threshold) & exist;
  }
}

}  // namespace fq
