// gemm_f32: c = epilogue(a * b), all float32 and row-major without gaps.
//
//   a: (n, k)   b: (k, m), m a multiple of 16   c: (n, m)   n, k >= 0. No alignment is asked for.
//
//   Store  c  = a * b            Add  c += a * b (c is the start of the sum)
//   Relu   c  = max(a * b, 0)
//
// An element is ONE chain of k additions in the order of k, whatever n is and wherever its row
// stands: the rows of a batch do not influence each other. Levels may fuse the multiplication, so
// they differ from scalar and from the exact value by at most
//   (k + 1) * 2^-23 * (|c_start| + sum_k |a_k| |b_k|).
#pragma once

#include <cstdint>

namespace fq {

enum class Epilogue { Store, Add, Relu };

using GemmF32 = void (*)(std::int64_t n, std::int64_t m, std::int64_t k, const float* a,
                         const float* b, float* c, Epilogue epilogue);

void gemm_f32_scalar(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                     float* c, Epilogue epilogue);
void gemm_f32_avx2(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                   float* c, Epilogue epilogue);
void gemm_f32_avx512(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                     float* c, Epilogue epilogue);

}  // namespace fq
