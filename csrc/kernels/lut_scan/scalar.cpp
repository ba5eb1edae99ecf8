#include "core/types.hpp"
#include "kernels/lut_scan/contract.hpp"

namespace fq {
namespace {

// Adds n steps, their codes a byte each: (n, 64). `start`: the first ones.
void scan(const std::uint8_t* codes, int n, int K, const float* lut, bool start, float* out) {
  constexpr int kGroup = 8;  // sums that stay in registers, and independent of each other
  for (int i = 0; i < kScanBlock; i += kGroup) {
    float sum[kGroup];
    for (int j = 0; j < kGroup; ++j) sum[j] = start ? 0 : out[i + j];
    const float* table = lut;
    for (int m = 0; m < n; ++m, table += K)
      for (int j = 0; j < kGroup; ++j) sum[j] += table[codes[m * kScanBlock + i + j]];
    for (int j = 0; j < kGroup; ++j) out[i + j] = sum[j];
  }
}

// The codes of step m, a byte each.
void unpack(const std::uint8_t* block, int m, int nbits, std::uint8_t* codes) {
  const int bit = m * nbits, shift = bit & 7, mask = (1 << nbits) - 1;
  const std::uint8_t* low = block + (bit >> 3) * kScanBlock;
  // The next row exists only where the step really reaches into it.
  const std::uint8_t* high = shift + nbits > 8 ? low + kScanBlock : low;
  for (int i = 0; i < kScanBlock; ++i)
    codes[i] = static_cast<std::uint8_t>((low[i] | high[i] << 8) >> shift & mask);
}

}  // namespace

void lut_scan_scalar(const std::uint8_t* block, int M, int nbits, const float* lut, float* out) {
  if (nbits == 8) return scan(block, M, 256, lut, true, out);  // a byte row is a step
  constexpr int kChunk = 32;
  std::uint8_t codes[kChunk * kScanBlock];
  for (int first = 0; first < M; first += kChunk, lut += kChunk << nbits) {
    const int n = M - first < kChunk ? M - first : kChunk;
    for (int m = 0; m < n; ++m) unpack(block, first + m, nbits, codes + m * kScanBlock);
    scan(codes, n, 1 << nbits, lut, first == 0, out);
  }
}

}  // namespace fq
