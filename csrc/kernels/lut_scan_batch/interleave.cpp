#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/lut_scan_batch/contract.hpp"

namespace fq {

void interleave_luts(int M, const std::uint8_t* const* luts, std::uint8_t* lut) {
  // Squares of 8 x 8 bytes, transposed in words of 64 bits.
  constexpr int kSide = 8;
  std::uint64_t row[kSide];
  auto exchange = [&](int distance, std::uint64_t mask) {
    for (int j = 0; j < kSide; ++j) {
      if (j & distance) continue;
      const std::uint64_t swapped = (row[j] >> 8 * distance ^ row[j + distance]) & mask;
      row[j + distance] ^= swapped;
      row[j] ^= swapped << 8 * distance;
    }
  };
  for (int begin = 0; begin < kBatch; begin += kSide)
    for (std::ptrdiff_t c = 0; c < std::ptrdiff_t{M} * 256; c += kSide) {
      for (int j = 0; j < kSide; ++j) std::memcpy(&row[j], luts[begin + j] + c, kSide);
      exchange(1, 0x00ff00ff00ff00ff);
      exchange(2, 0x0000ffff0000ffff);
      exchange(4, 0x00000000ffffffff);
      for (int j = 0; j < kSide; ++j) std::memcpy(lut + (c + j) * kBatch + begin, &row[j], kSide);
    }
}

}  // namespace fq
