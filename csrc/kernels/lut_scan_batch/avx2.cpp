// A code's row of a table is one load that serves all queries: nothing is shuffled.
#include <immintrin.h>

#include "kernels/lut_scan_batch/contract.hpp"

namespace fq {
namespace {

constexpr int kBlock = 64;

inline __m256i keys8(__m128i halves, float factor) {
  const __m256 most = _mm256_set1_ps(32767.0f), least = _mm256_set1_ps(-32767.0f);
  const __m256 b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
  const __m256 product = _mm256_mul_ps(b, _mm256_set1_ps(factor));
  return _mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(product, most), least));  // NaN: `most`
}

void keys_of(const std::uint8_t* row, float factor, std::int16_t* keys) {
  for (int i = 0; i < kBlock; i += 16) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 2 * i));
    const __m256i packed = _mm256_packs_epi32(keys8(_mm256_castsi256_si128(halves), factor),
                                              keys8(_mm256_extracti128_si256(halves, 1), factor));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys + i),
                        _mm256_permute4x64_epi64(packed, 0xd8));
  }
}

// 32 numbers, those of even and of odd queries.
struct Halves {
  __m256i even, odd;
  explicit Halves(const std::int16_t* v) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(v + 16));
    const __m256i low = _mm256_set1_epi32(0xffff);
    even = packed(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
    odd = packed(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
  }
  static __m256i packed(__m256i a, __m256i b) {
    return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
  }
};

}  // namespace

void lut_scan_batch_avx2(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                         int M, const std::uint8_t* lut, BiasRows bias, float factor,
                         const std::int16_t* slope, const std::int16_t* limit,
                         std::uint32_t* survivors) {
  const Halves slopes(slope), limits(limit);
  const __m256i is_odd = _mm256_set1_epi16(static_cast<short>(0xff00));
  for (; n > 0; n -= kBlock, blocks += block_bytes, bias.rows += bias.block_bytes) {
    alignas(32) std::int16_t keys[kBlock];
    keys_of(bias.rows, factor, keys);
    const int rows = n < kBlock ? static_cast<int>(n) : kBlock;
    for (int i = 0; i < rows; ++i) {
      // `all` adds the bytes of two queries as one number of 16 bits; the even ones' sums are what
      // the odd ones leave of it, modulo 2^16.
      __m256i all = _mm256_setzero_si256(), odd = all;
      const std::uint8_t *code = blocks + i, *table = lut;
      for (int m = 0; m < M; ++m, code += kBlock, table += 256 * kBatch) {
        const __m256i value =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table + kBatch * *code));
        all = _mm256_add_epi16(all, value);
        odd = _mm256_add_epi16(odd, _mm256_srli_epi16(value, 8));
      }
      const __m256i key = _mm256_set1_epi16(keys[i]);
      const __m256i even = _mm256_sub_epi16(all, _mm256_slli_epi16(odd, 8));
      const __m256i even_x = _mm256_adds_epi16(even, _mm256_mulhrs_epi16(key, slopes.even));
      const __m256i odd_x = _mm256_adds_epi16(odd, _mm256_mulhrs_epi16(key, slopes.odd));
      const __m256i beyond = _mm256_blendv_epi8(_mm256_cmpgt_epi16(even_x, limits.even),
                                                _mm256_cmpgt_epi16(odd_x, limits.odd), is_odd);
      *survivors++ = ~static_cast<std::uint32_t>(_mm256_movemask_epi8(beyond));
    }
  }
}

}  // namespace fq
