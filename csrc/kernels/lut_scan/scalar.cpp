#include "core/bitpack.hpp"
#include "core/types.hpp"
#include "kernels/lut_scan/contract.hpp"

namespace fq {
namespace {

template <class Code>
void scan(int M, int K, const float* lut, float* out, Code code) {
  constexpr int kGroup = 8;  // sums that stay in registers, and independent of each other
  for (int i = 0; i < kScanBlock; i += kGroup) {
    float sum[kGroup] = {};
    const float* table = lut;
    for (int m = 0; m < M; ++m, table += K)
      for (int j = 0; j < kGroup; ++j) sum[j] += table[code(i + j, m)];
    for (int j = 0; j < kGroup; ++j) out[i + j] = sum[j];
  }
}

}  // namespace

void lut_scan_scalar(const std::uint8_t* block, int M, int nbits, const float* lut, float* out) {
  if (nbits == 8)  // a byte row is a step
    scan(M, 256, lut, out, [=](int i, int m) { return block[m * kScanBlock + i]; });
  else
    scan(M, 1 << nbits, lut, out,
         [=](int i, int m) { return read_step(block + i, kScanBlock, m, nbits); });
}

}  // namespace fq
