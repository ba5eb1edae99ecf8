#include <bit>
#include <cstdint>

#include "kernels/lut_scan_u8/contract.hpp"

namespace fq {

void lut_scan_u8_scalar(const std::uint8_t* blocks, std::int64_t block_bytes, std::int64_t n, int M,
                        const std::uint8_t* lut, BiasRows bias, float scale, float slope,
                        float constant, float threshold, std::uint64_t* survivors) {
  constexpr int kBlock = 64;
  for (; n > 0; n -= kBlock, blocks += block_bytes, bias.rows += bias.block_bytes) {
    const int rows = n < kBlock ? static_cast<int>(n) : kBlock;
    int sums[kBlock];
    for (int i = 0; i < kBlock; i += 4) {  // four sums that stay in registers
      const std::uint8_t *code = blocks + i, *table = lut;
      int a = 0, b = 0, c = 0, d = 0;
      for (int m = 0; m < M; ++m, code += kBlock, table += 256) {
        a += table[code[0]];
        b += table[code[1]];
        c += table[code[2]];
        d += table[code[3]];
      }
      sums[i] = a, sums[i + 1] = b, sums[i + 2] = c, sums[i + 3] = d;
    }
    int below[kBlock];
    for (int i = 0; i < rows; ++i) {
      const std::uint8_t* half = bias.rows + 2 * i;
      const std::uint32_t bits = std::uint32_t{half[0]} << 16 | std::uint32_t{half[1]} << 24;
      const float b = std::bit_cast<float>(bits) + bias.offset;
      below[i] = static_cast<float>(sums[i]) * scale + (b * slope + constant) <= threshold;
    }
    std::uint64_t word = 0;
    for (int i = 0; i < rows; ++i) word |= static_cast<std::uint64_t>(below[i]) << i;
    *survivors++ = word;
  }
}

}  // namespace fq
