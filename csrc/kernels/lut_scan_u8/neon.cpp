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

// Four bits from the sums of four codes.
inline std::uint64_t survivors4(uint16x4_t sum, const float* bias, float scale, float slope,
                                float constant, float threshold) {
  const float32x4_t product = vmulq_n_f32(vcvtq_f32_u32(vmovl_u16(sum)), scale);
  const float32x4_t bound =
      vaddq_f32(product, vaddq_f32(vmulq_n_f32(vld1q_f32(bias), slope), vdupq_n_f32(constant)));
  const uint32x4_t weight = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcleq_f32(bound, vdupq_n_f32(threshold)), weight));
}

// One block; bias holds 64 numbers.
std::uint64_t scan(const std::uint8_t* block, int M, const std::uint8_t* lut, const float* bias,
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
  for (int g = 0; g < 8; ++g, bias += 8) {
    bits |= survivors4(vget_low_u16(sum[g]), bias, scale, slope, constant, threshold) << (8 * g);
    bits |= survivors4(vget_high_u16(sum[g]), bias + 4, scale, slope, constant, threshold)
            << (8 * g + 4);
  }
  return bits;
}

}  // namespace

void lut_scan_u8_neon(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                      const std::uint8_t* lut, const float* bias, float scale, float slope,
                      float constant, float threshold, std::uint64_t* survivors) {
  for (; n >= 64; n -= 64, blocks += block_bytes, bias += 64)
    *survivors++ = scan(blocks, M, lut, bias, scale, slope, constant, threshold);
  if (n <= 0) return;
  float padded[64] = {};
  for (int i = 0; i < n; ++i) padded[i] = bias[i];
  *survivors = scan(blocks, M, lut, padded, scale, slope, constant, threshold) &
               ((std::uint64_t{1} << n) - 1);
}

}  // namespace fq
