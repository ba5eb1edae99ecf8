// One number to bf16 and back. Not for files with an instruction set: it is inline.
#pragma once

#include <bit>

#include "kernels/gemm_bf16/contract.hpp"

namespace fq {

inline float to_float(bf16 x) { return std::bit_cast<float>(std::uint32_t{x} << 16); }

inline bf16 to_bf16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  // The carry of a mantissa that rounds up is the next exponent, up to infinity; NaN stays NaN.
  const std::uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1);
  return static_cast<bf16>((x == x ? nearest : bits | 0x400000) >> 16);
}

}  // namespace fq
