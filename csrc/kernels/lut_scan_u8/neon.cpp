// The table of one step is held in 16 registers, four look-ups of 64 entries: one that is out of
// range leaves what an earlier one found.
#include <arm_neon.h>

#include "kernels/lut_scan_u8/contract.hpp"

namespace fq {
namespace {

inline uint8x16_t lookup(const uint8x16x4_t* t, uint8x16_t code) {
  uint8x16_t value = vqtbl4q_u8(t[0], code);
  value = vqtbx4q_u8(value, t[1], vsubq_u8(code, vdupq_n_u8(64)));
  value = vqtbx4q_u8(value, t[2], vsubq_u8(code, vdupq_n_u8(128)));
  return vqtbx4q_u8(value, t[3], vsubq_u8(code, vdupq_n_u8(192)));
}

// Eight bits from the sums of eight codes and what their row of the biases says.
inline std::uint64_t survivors8(uint16x8_t sum, const std::uint8_t* row, float offset, float scale,
                                float slope, float constant, float threshold) {
  const uint16x8_t eight = vreinterpretq_u16_u8(vld1q_u8(row));
  auto four = [&](uint16x4_t s, uint16x4_t half) {
    const float32x4_t b =
        vaddq_f32(vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(half), 16)), vdupq_n_f32(offset));
    const float32x4_t product = vmulq_n_f32(vcvtq_f32_u32(vmovl_u16(s)), scale);
    const float32x4_t bound =
        vaddq_f32(product, vaddq_f32(vmulq_n_f32(b, slope), vdupq_n_f32(constant)));
    const uint32x4_t weight = {1, 2, 4, 8};
    return std::uint64_t{vaddvq_u32(vandq_u32(vcleq_f32(bound, vdupq_n_f32(threshold)), weight))};
  };
  return four(vget_low_u16(sum), vget_low_u16(eight)) |
         four(vget_high_u16(sum), vget_high_u16(eight)) << 4;
}

// One block.
std::uint64_t scan(const std::uint8_t* block, int M, const std::uint8_t* lut, const BiasRows& bias,
                   float scale, float slope, float constant, float threshold) {
  uint16x8_t sum[8];
  for (int g = 0; g < 8; ++g) sum[g] = vdupq_n_u16(0);
  for (int m = 0; m < M; ++m, block += 64, lut += 256) {
    uint8x16x4_t t[4];
    for (int r = 0; r < 4; ++r) t[r] = vld1q_u8_x4(lut + 64 * r);
    for (int g = 0; g < 4; ++g) {
      const uint8x16_t value = lookup(t, vld1q_u8(block + 16 * g));
      sum[2 * g] = vaddw_u8(sum[2 * g], vget_low_u8(value));
      sum[2 * g + 1] = vaddw_high_u8(sum[2 * g + 1], value);
    }
  }
  std::uint64_t bits = 0;
  for (int g = 0; g < 8; ++g)
    bits |= survivors8(sum[g], bias.rows + 16 * g, bias.offset, scale, slope, constant, threshold)
            << (8 * g);
  return bits;
}

}  // namespace

void lut_scan_u8_neon(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                      const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                      float constant, float threshold, std::uint64_t* survivors) {
  for (; n > 0; n -= 64, blocks += block_bytes, bias.rows += bias.block_bytes) {
    const std::uint64_t exist = n < 64 ? (std::uint64_t{1} << n) - 1 : ~std::uint64_t{0};
    *survivors++ = scan(blocks, M, lut, bias, scale, slope, constant, threshold) & exist;
  }
}

}  // namespace fq
