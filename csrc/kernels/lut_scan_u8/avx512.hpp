// What both AVX-512 levels share. Internal linkage: each keeps its own copy.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/lut_scan_u8/contract.hpp"

namespace fq {
namespace {

// Lists are too short for the hardware to follow: asking this many blocks ahead nearly doubles the
// speed where memory is the limit.
constexpr std::int64_t kAhead = 4;

// May point behind the end of an array: nothing is read.
inline void prefetch(const void* p, std::int64_t bytes_ahead) {
  const auto address = reinterpret_cast<std::uintptr_t>(p);
  _mm_prefetch(reinterpret_cast<const char*>(address + static_cast<std::uintptr_t>(bytes_ahead)),
               _MM_HINT_T0);
}

// Survivors of one block from the sums of its even and of its odd codes, 16 bits each. `n` codes of
// it exist (more than 64: all). row: of its biases.
inline std::uint64_t survivors_of(__m512i even, __m512i odd, std::int64_t n,
                                  const std::uint8_t* row, float offset, float scale, float slope,
                                  float constant, float threshold) {
  // Sixteen codes in order, as 32-bit numbers: word c / 2 of even or odd.
  const __m512i first = _mm512_setr_epi32(0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39);
  const std::uint64_t exist = n < 64 ? (std::uint64_t{1} << n) - 1 : ~std::uint64_t{0};
  std::uint64_t bits = 0;
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const __m512i index = _mm512_add_epi32(first, _mm512_set1_epi32(8 * g));
    const __m512i sum = _mm512_maskz_permutex2var_epi16(0x55555555, even, index, odd);
    const __mmask16 exist16 = static_cast<__mmask16>(exist >> (16 * g));
    const __m256i sixteen = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + 32 * g));
    const __m512i halves = _mm512_slli_epi32(_mm512_cvtepu16_epi32(sixteen), 16);
    const __m512 b = _mm512_add_ps(_mm512_castsi512_ps(halves), _mm512_set1_ps(offset));
    const __m512 base =
        _mm512_add_ps(_mm512_mul_ps(b, _mm512_set1_ps(slope)), _mm512_set1_ps(constant));
    const __m512 bound =
        _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale)), base);
    const std::uint64_t below =
        _mm512_mask_cmp_ps_mask(exist16, bound, _mm512_set1_ps(threshold), _CMP_LE_OQ);
    bits |= below << (16 * g);
  }
  return bits;
}

}  // namespace
}  // namespace fq
