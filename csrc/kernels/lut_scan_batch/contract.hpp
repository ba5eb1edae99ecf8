// lut_scan_batch: which codes of a run of scan blocks may be near which of 32 queries, from 8-bit
// tables of all of them that lie beside each other.
//
//   sum[i][j]  = lut[0][code(i, 0)][j] + ... + lut[M - 1][code(i, M - 1)][j]  i in 0..n-1, j in
//   0..31 key(i)     = the integer nearest to b(i) * factor, ties to even, 32,767 at most either
//   way, and
//                32,767 for NaN; b(i) is the bfloat16 (the high half of a float) that its row holds
//   x[i][j]    = min(sum[i][j] + (key(i) * slope[j] + 2^14 >> 15), 32,767)
//
// Bit j of survivors[i] says whether x[i][j] <= limit[j]. So with a slope of -2^15, -key(i) is
// added to the sums of query j.
//
// blocks: ceil(n / 64) scan blocks, block_bytes from one to the next, of which the first M rows of
//         64 bytes are read: row m holds step m of 64 codes, nbits 8. block_bytes: at least 64 * M.
// M:      1..128, so that 16 bits hold a sum and its sign.
// lut:    (M, 256, 32).   slope, limit: (32).   survivors: (n), overwritten.   n >= 0.
// bias:   a row of 64 bfloat16, 128 bytes, for each block, all of which may be read; its offset
//         plays no part.
// No alignment is asked for, but a lut at a multiple of 64 is faster.
//
// All but b(i) * factor, one product in float32, are integers: all levels are bit-exact with
// scalar.
#pragma once

#include <cstdint>

#include "kernels/lut_scan_u8/contract.hpp"

namespace fq {

constexpr int kBatch = 32;  // queries

using LutScanBatch = void (*)(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                              int M, const std::uint8_t* lut, BiasRows bias, float factor,
                              const std::int16_t* slope, const std::int16_t* limit,
                              std::uint32_t* survivors);

void lut_scan_batch_scalar(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                           int M, const std::uint8_t* lut, BiasRows bias, float factor,
                           const std::int16_t* slope, const std::int16_t* limit,
                           std::uint32_t* survivors);
void lut_scan_batch_neon(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                         int M, const std::uint8_t* lut, BiasRows bias, float factor,
                         const std::int16_t* slope, const std::int16_t* limit,
                         std::uint32_t* survivors);
void lut_scan_batch_avx2(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                         int M, const std::uint8_t* lut, BiasRows bias, float factor,
                         const std::int16_t* slope, const std::int16_t* limit,
                         std::uint32_t* survivors);

// The tables of 32 queries, each (M, 256), -> lut: (M, 256, 32).
void interleave_luts(int M, const std::uint8_t* const* luts, std::uint8_t* lut);

}  // namespace fq
