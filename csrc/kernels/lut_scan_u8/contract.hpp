// lut_scan_u8: which codes of a run of scan blocks may score below a threshold, from 8-bit tables.
//
//   sum[i]   = lut[0][code(i, 0)] + ... + lut[M - 1][code(i, M - 1)]     an integer, i in 0..n-1
//   bias(i)  = bias.offset + the bfloat16 (the high half of a float) that its row holds
//   bound[i] = float(sum[i]) * scale + (bias(i) * slope + constant)      in float32, unfused
//
// Bit i % 64 of survivors[i / 64] says whether bound[i] <= threshold (false for NaN). The bits of
// the last word beyond n are zero.
//
// blocks: ceil(n / 64) scan blocks, block_bytes from one to the next, of which the first M rows of
//         64 bytes are read: row m holds step m of 64 codes, nbits 8. block_bytes: at least 64 * M.
// M:      1..256, so that a sum is at most 65,280 and 16 bits hold it.
// lut:    (M, 256).   survivors: (ceil(n / 64)), overwritten.   n >= 0.
// bias:   a row of 64 bfloat16, 128 bytes, for each block, all of which may be read.
// No alignment is asked for.
//
// Sums are exact and the float operations are in one order, so all levels are bit-exact with
// scalar.
#pragma once

#include <cstdint>

namespace fq {

struct BiasRows {
  const std::uint8_t* rows;
  std::int64_t block_bytes;  // from one to the next
  float offset;
};

using LutScanU8 = void (*)(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                           int M, const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                           float constant, float threshold, std::uint64_t* survivors);

void lut_scan_u8_scalar(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                        const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                        float constant, float threshold, std::uint64_t* survivors);
void lut_scan_u8_neon(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                      const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                      float constant, float threshold, std::uint64_t* survivors);
void lut_scan_u8_avx2(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                      const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                      float constant, float threshold, std::uint64_t* survivors);
void lut_scan_u8_avx512(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                        const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                        float constant, float threshold, std::uint64_t* survivors);
void lut_scan_u8_avx512_vbmi(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                             int M, const std::uint8_t* lut, BiasRows bias, float scale,
                             float slope, float constant, float threshold,
                             std::uint64_t* survivors);

}  // namespace fq
