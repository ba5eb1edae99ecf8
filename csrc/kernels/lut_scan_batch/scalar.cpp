#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/lut_scan_batch/contract.hpp"

namespace fq {

void lut_scan_batch_scalar(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n,
                           int M, const std::uint8_t* lut, BiasRows bias, float factor,
                           const std::int16_t* slope, const std::int16_t* limit,
                           std::uint32_t* survivors) {
  constexpr int kBlock = 64;
  constexpr float kMost = 32767;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint8_t* code = blocks + i / kBlock * block_bytes + i % kBlock;
    const std::uint8_t* half = bias.rows + i / kBlock * bias.block_bytes + 2 * (i % kBlock);
    const std::uint32_t bits = std::uint32_t{half[0]} << 16 | std::uint32_t{half[1]} << 24;
    float product = std::bit_cast<float>(bits) * factor;
    product = product < kMost ? product : kMost;  // NaN: the second
    product = product > -kMost ? product : -kMost;
    const int key = static_cast<int>(std::nearbyint(product));
    std::uint16_t sum[kBatch] = {};
    const std::uint8_t* table = lut;
    for (int m = 0; m < M; ++m, table += 256 * kBatch) {
      const std::uint8_t* row = table + kBatch * code[m * kBlock];
      for (int j = 0; j < kBatch; ++j) sum[j] = static_cast<std::uint16_t>(sum[j] + row[j]);
    }
    std::uint32_t word = 0;
    for (int j = 0; j < kBatch; ++j) {
      const int step = (key * slope[j] + (1 << 14)) >> 15;
      word |= static_cast<std::uint32_t>(std::min(sum[j] + step, 32767) <= limit[j]) << j;
    }
    *survivors++ = word;
  }
}

}  // namespace fq
