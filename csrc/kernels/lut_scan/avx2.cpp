// The table of one step is looked up by permutes of 8 floats, chosen by the higher bits. That pays
// for 16 and 32 entries; for more, loads one by one are faster, and than gathers too.
#include <immintrin.h>

#include "kernels/lut_scan/contract.hpp"

namespace fq {
namespace {

// table[idx], where the lowest kBits bits of idx count.
template <int kBits>
inline __m256 lookup(const float* table, __m256i idx) {
  if constexpr (kBits == 3) {
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), idx);
  } else {  // a blend goes by the top bit
    constexpr int kHalf = 1 << (kBits - 1);
    const __m256 high = _mm256_castsi256_ps(_mm256_slli_epi32(idx, 32 - kBits));
    return _mm256_blendv_ps(lookup<kBits - 1>(table, idx), lookup<kBits - 1>(table + kHalf, idx),
                            high);
  }
}

inline __m256i load8(const std::uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

template <int kBits>
void scan(const std::uint8_t* block, int M, const float* lut, float* out) {
  for (int first = 0; first < 64; first += 32, block += 32) {
    __m256 sum[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                     _mm256_setzero_ps()};
    const float* table = lut;
    for (int m = 0; m < M; ++m, table += 1 << kBits) {
      const int bit = m * kBits, shift = bit & 7;
      const std::uint8_t* row = block + (bit >> 3) * 64;
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        __m256i idx = load8(row + 8 * g);
        if (shift + kBits > 8)
          idx = _mm256_or_si256(idx, _mm256_slli_epi32(load8(row + 64 + 8 * g), 8));
        idx = _mm256_srl_epi32(idx, _mm_cvtsi32_si128(shift));
        sum[g] = _mm256_add_ps(sum[g], lookup<kBits>(table, idx));
      }
    }
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) _mm256_storeu_ps(out + first + 8 * g, sum[g]);
  }
}

}  // namespace

void lut_scan_avx2(const std::uint8_t* block, int M, int nbits, const float* lut, float* out) {
  switch (nbits) {
    case 4: return scan<4>(block, M, lut, out);
    case 5: return scan<5>(block, M, lut, out);
    default: return lut_scan_scalar(block, M, nbits, lut, out);
  }
}

}  // namespace fq
