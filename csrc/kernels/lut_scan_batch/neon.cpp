// A code's row of a table is two loads that serve all queries: nothing is shuffled.
#include <arm_neon.h>

#include "kernels/lut_scan_batch/contract.hpp"

namespace fq {
namespace {

constexpr int kBlock = 64;

inline int16x4_t keys4(uint16x4_t halves, float factor) {
  const float32x4_t most = vdupq_n_f32(32767.0f);
  const float32x4_t b = vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(halves), 16));
  const float32x4_t product = vminnmq_f32(vmulq_n_f32(b, factor), most);  // NaN: the second
  return vmovn_s32(vcvtnq_s32_f32(vmaxq_f32(product, vnegq_f32(most))));
}

void keys_of(const std::uint8_t* row, float factor, std::int16_t* keys) {
  for (int i = 0; i < kBlock; i += 8) {
    const uint16x8_t halves = vreinterpretq_u16_u8(vld1q_u8(row + 2 * i));
    vst1q_s16(keys + i, vcombine_s16(keys4(vget_low_u16(halves), factor),
                                     keys4(vget_high_u16(halves), factor)));
  }
}

}  // namespace

void lut_scan_batch_neon(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                         int M, const std::uint8_t* lut, BiasRows bias, float factor,
                         const std::int16_t* slope, const std::int16_t* limit,
                         std::uint32_t* survivors) {
  const uint16x8_t weight = {1, 2, 4, 8, 16, 32, 64, 128};
  for (; n > 0; n -= kBlock, blocks += block_bytes, bias.rows += bias.block_bytes) {
    std::int16_t keys[kBlock];
    keys_of(bias.rows, factor, keys);
    const int rows = n < kBlock ? static_cast<int>(n) : kBlock;
    for (int i = 0; i < rows; ++i) {
      uint16x8_t sum[4] = {vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0)};
      const std::uint8_t *code = blocks + i, *table = lut;
      for (int m = 0; m < M; ++m, code += kBlock, table += 256 * kBatch) {
        const uint8x16_t a = vld1q_u8(table + kBatch * *code);
        const uint8x16_t b = vld1q_u8(table + kBatch * *code + 16);
        sum[0] = vaddw_u8(sum[0], vget_low_u8(a));
        sum[1] = vaddw_high_u8(sum[1], a);
        sum[2] = vaddw_u8(sum[2], vget_low_u8(b));
        sum[3] = vaddw_high_u8(sum[3], b);
      }
      std::uint32_t word = 0;
      for (int g = 0; g < 4; ++g) {
        const int16x8_t step = vqrdmulhq_n_s16(vld1q_s16(slope + 8 * g), keys[i]);
        const int16x8_t x = vqaddq_s16(vreinterpretq_s16_u16(sum[g]), step);
        const uint16x8_t below = vcleq_s16(x, vld1q_s16(limit + 8 * g));
        word |= std::uint32_t{vaddvq_u16(vandq_u16(below, weight))} << (8 * g);
      }
      *survivors++ = word;
    }
  }
}

}  // namespace fq
