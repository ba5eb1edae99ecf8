// Takes the place of the compiler's header when the kernels of x86 are emulated: SIMDe's portable C
// for every intrinsic, and here those that SIMDe 0.7.4 lacks or computes otherwise.
#pragma once

#define SIMDE_NO_NATIVE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulate {

using mask16 = simde__mmask16;

// An element of a vector as a scalar, to read and to write.
template <class T, class Vector>
T get(const Vector& v, int i) {
  T x;
  std::memcpy(&x, reinterpret_cast<const char*>(&v) + i * static_cast<int>(sizeof x), sizeof x);
  return x;
}
template <class T, class Vector>
void set(Vector& v, int i, T x) {
  std::memcpy(reinterpret_cast<char*>(&v) + i * static_cast<int>(sizeof x), &x, sizeof x);
}

// An element of a result for each of 0..15.
template <class T, class Vector, class Element>
Vector each(Vector v, Element element) {
  for (int i = 0; i < 16; ++i) set<T>(v, i, element(i));
  return v;
}

// Elements that the mask leaves out are neither read nor written.
inline __m512 maskz_loadu_ps(mask16 k, const void* p) {
  return each<float>(_mm512_setzero_ps(),
                     [&](int i) { return k >> i & 1 ? static_cast<const float*>(p)[i] : 0.0f; });
}
inline void mask_storeu_epi16(void* p, mask16 k, __m256i v) {
  for (int i = 0; i < 16; ++i)
    if (k >> i & 1) static_cast<std::uint16_t*>(p)[i] = get<std::uint16_t>(v, i);
}

inline __m512 cvtepi32_ps(__m512i v) {
  return each<float>(_mm512_setzero_ps(),
                     [&](int i) { return static_cast<float>(get<std::int32_t>(v, i)); });
}
inline __m512i cvtepu8_epi32(__m128i v) {
  return each<std::int32_t>(_mm512_setzero_si512(),
                            [&](int i) { return std::int32_t{get<std::uint8_t>(v, i)}; });
}
inline __m512i mask_srli_epi16(__m512i src, std::uint32_t k, __m512i v, unsigned count) {
  return _mm512_mask_blend_epi16(k, src, _mm512_srli_epi16(v, count));
}
inline mask16 mask_cmp_le(mask16 k, __m512 a, __m512 b) {
  mask16 below = 0;
  for (int i = 0; i < 16; ++i) below |= mask16(get<float>(a, i) <= get<float>(b, i)) << i;
  return below & k;
}

// The BF16 instructions take subnormals for zero, and give zero for them.
inline float flush(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? x * 0.0f : x; }
inline __m512 dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  return each<float>(sum, [&](int i) {
    float s = flush(get<float>(sum, i));
    for (int j : {2 * i + 1, 2 * i}) {
      auto number = [j](const __m512bh& v) {
        const std::uint32_t bits = std::uint32_t{get<std::uint16_t>(v, j)} << 16;
        return flush(get<float>(bits, 0));
      };
      s = flush(std::fma(number(a), number(b), s));
    }
    return s;
  });
}
inline __m256bh cvtneps_pbh(__m512 v) {
  return each<std::uint16_t>(__m256bh{}, [&](int i) {
    const float x = flush(get<float>(v, i));
    const auto bits = get<std::uint32_t>(x, 0);
    return static_cast<std::uint16_t>(
        (x == x ? bits + 0x7fff + (bits >> 16 & 1) : bits | 0x400000) >> 16);
  });
}

}  // namespace emulate

#undef _mm512_dpbf16_ps
#define __mmask16 simde__mmask16
#define __mmask32 simde__mmask32
#define _mm512_maskz_loadu_ps emulate::maskz_loadu_ps
#define _mm256_mask_storeu_epi16 emulate::mask_storeu_epi16
#define _mm512_cvtepi32_ps emulate::cvtepi32_ps
#define _mm512_cvtepu8_epi32 emulate::cvtepu8_epi32
#define _mm512_mask_srli_epi16 emulate::mask_srli_epi16
#define _mm512_mask_cmp_ps_mask(k, a, b, predicate) emulate::mask_cmp_le(k, a, b)
#define _mm512_dpbf16_ps emulate::dpbf16_ps
#define _mm512_cvtneps_pbh emulate::cvtneps_pbh
