// The table of one step is held in registers (2^nbits floats are 1 to 16 of them) and looked up
// with two-register permutes: no memory gather at all.
#include <immintrin.h>

#include "kernels/lut_scan/contract.hpp"

namespace fq {
namespace {

// t[idx & 31] of two registers; the permute ignores the higher bits of idx.
inline __m512 lookup32(const __m512* t, __m512i idx) {
  return _mm512_permutex2var_ps(t[0], idx, t[1]);
}

template <int kBits>
inline __m512 lookup(const __m512* t, __m512i idx) {
  if constexpr (kBits == 4) {
    return _mm512_permutexvar_ps(idx, t[0]);
  } else if constexpr (kBits == 5) {
    return lookup32(t, idx);
  } else {  // both halves of the table, chosen by the top bit
    constexpr int kHalf = 1 << (kBits - 5);
    const __mmask16 high = _mm512_test_epi32_mask(idx, _mm512_set1_epi32(1 << (kBits - 1)));
    return _mm512_mask_blend_ps(high, lookup<kBits - 1>(t, idx), lookup<kBits - 1>(t + kHalf, idx));
  }
}

inline __m512i load16(const std::uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

template <int kBits>
void scan(const std::uint8_t* block, int M, const float* lut, float* out) {
  constexpr int kRegisters = 1 << (kBits - 4);
  __m512 sum[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                   _mm512_setzero_ps()};
  for (int m = 0; m < M; ++m, lut += 1 << kBits) {
    __m512 table[kRegisters];
#pragma GCC unroll 16
    for (int r = 0; r < kRegisters; ++r) table[r] = _mm512_loadu_ps(lut + 16 * r);
    const int bit = m * kBits, shift = bit & 7;
    const std::uint8_t* row = block + (bit >> 3) * 64;
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      __m512i idx = load16(row + 16 * g);
      if (kBits < 8) {  // bits above the step are left in: no look-up reads them
        if (shift + kBits > 8)
          idx = _mm512_or_si512(idx, _mm512_slli_epi32(load16(row + 64 + 16 * g), 8));
        idx = _mm512_srl_epi32(idx, _mm_cvtsi32_si128(shift));
      }
      sum[g] = _mm512_add_ps(sum[g], lookup<kBits>(table, idx));
    }
  }
  for (int g = 0; g < 4; ++g) _mm512_storeu_ps(out + 16 * g, sum[g]);
}

}  // namespace

void lut_scan_avx512(const std::uint8_t* block, int M, int nbits, const float* lut, float* out) {
  switch (nbits) {
    case 4: return scan<4>(block, M, lut, out);
    case 5: return scan<5>(block, M, lut, out);
    case 6: return scan<6>(block, M, lut, out);
    case 7: return scan<7>(block, M, lut, out);
    default: return scan<8>(block, M, lut, out);
  }
}

}  // namespace fq
