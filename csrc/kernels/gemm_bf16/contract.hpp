// gemm_bf16: v = epilogue(a * b) with factors in bf16 (the upper half of a float32) and sums in
// float32. v goes to c in float32, to `rounded` in bf16 (to nearest, ties to even), or to both:
// what the next product takes need not be read and rounded again.
//
//   a: (n, k) row-major, k even     b: (m / 16, k / 2, 16, 2), m a multiple of 16: (k, m) in panels
//      of 16 columns, and in them pairs of rows (pack_gemm_bf16)     n, k >= 0
//   c, rounded: (n, m) row-major; either may be null, c not where the epilogue adds to it.
// No alignment is asked for; b at a multiple of 64 bytes is faster. Nothing may overlap.
//
// An element is one chain of k / 2 steps in the order of k, each of which adds two products,
// whatever n is and wherever its row stands: the rows of a batch do not influence each other.
// Instructions differ in how they round inside a step (AVX-512: two fused additions; Arm: to odd)
// and in that they flush subnormals, so that every level, scalar too, differs from the exact
// value of a sum by at most
//   (k + 1) * 2^-23 * (|c_start| + sum_k |a_k| |b_k|)  +  2^-126 * sum_k (|a_k| + |b_k| + 2).
// `rounded` is exactly the rounded float32 value, but that a subnormal may have become zero.
#pragma once

#include <cstdint>

#include "kernels/epilogue.hpp"

namespace fq {

using bf16 = std::uint16_t;

using GemmBf16 = void (*)(std::int64_t n, std::int64_t m, std::int64_t k, const bf16* a,
                          const bf16* b, float* c, bf16* rounded, Epilogue epilogue);

void gemm_bf16_scalar(std::int64_t n, std::int64_t m, std::int64_t k, const bf16* a, const bf16* b,
                      float* c, bf16* rounded, Epilogue epilogue);
void gemm_bf16_neon_bf16(std::int64_t n, std::int64_t m, std::int64_t k, const bf16* a,
                         const bf16* b, float* c, bf16* rounded, Epilogue epilogue);
void gemm_bf16_avx512_bf16(std::int64_t n, std::int64_t m, std::int64_t k, const bf16* a,
                           const bf16* b, float* c, bf16* rounded, Epilogue epilogue);

// y[i] = x[i] rounded as above, i in 0..n-1. A NaN stays a NaN; a subnormal may become zero.
using RoundBf16 = void (*)(std::int64_t n, const float* x, bf16* y);

void round_bf16_scalar(std::int64_t n, const float* x, bf16* y);
void round_bf16_neon_bf16(std::int64_t n, const float* x, bf16* y);
void round_bf16_avx512_bf16(std::int64_t n, const float* x, bf16* y);

// A weight of a linear layer, w: (out, in) with rows `stride` apart, so that b = w^T, rounded:
// b: (ceil(out / 16), k / 2, 16, 2), with zeros beyond out and, where k > in, beyond in.
void pack_gemm_bf16(std::int64_t out, std::int64_t in, std::int64_t stride, const float* w,
                    std::int64_t k, bf16* b);

}  // namespace fq
