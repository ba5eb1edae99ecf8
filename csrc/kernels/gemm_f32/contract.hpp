// gemm_f32: c = epilogue(a * b) in float32.
//
//   a: (n, k) row-major     c: (n, m) row-major, m a multiple of 16     n, k >= 0
//   b: (m / 16, k, 16), which is (k, m) in panels of 16 columns (pack_gemm_f32): a panel is read
//      from one end to the other, for any m, where rows of a power of two would share the sets of a
//      cache. No alignment is asked for.
//
// An element is ONE chain of k additions in the order of k, whatever n is and wherever its row
// stands: the rows of a batch do not influence each other. Levels may fuse the multiplication, so
// they differ from scalar and from the exact value by at most
//   (k + 1) * 2^-23 * (|c_start| + sum_k |a_k| |b_k|).
#pragma once

#include <cstdint>

#include "kernels/epilogue.hpp"

namespace fq {

using GemmF32 = void (*)(std::int64_t n, std::int64_t m, std::int64_t k, const float* a,
                         const float* b, float* c, Epilogue epilogue);

void gemm_f32_scalar(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                     float* c, Epilogue epilogue);
void gemm_f32_neon(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                   float* c, Epilogue epilogue);
void gemm_f32_avx2(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                   float* c, Epilogue epilogue);
void gemm_f32_avx512(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                     float* c, Epilogue epilogue);

// A weight of a linear layer, w: (out, in) with rows `stride` apart, so that b = w^T:
// b: (ceil(out / 16), k, 16), with zeros beyond out and, where k > in, beyond in.
void pack_gemm_f32(std::int64_t out, std::int64_t in, std::int64_t stride, const float* w,
                   std::int64_t k, float* b);

}  // namespace fq
