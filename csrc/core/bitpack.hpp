// Codes of `nbits` per step, packed low bits first (as FAISS's bitstring writer does): step m
// starts at bit m * nbits. `stride` is the distance between the bytes of one code: 1 in row-major
// codes, kScanBlock inside a scan block.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fq {

inline int packed_size(int M, int nbits) { return (M * nbits + 7) / 8; }

inline std::uint8_t read_step(const std::uint8_t* code, std::size_t stride, int m, int nbits) {
  const unsigned bit = static_cast<unsigned>(m * nbits), shift = bit & 7;
  const std::uint8_t* p = code + (bit >> 3) * stride;
  unsigned value = *p;
  // The next byte exists only where the step really reaches into it.
  if (shift + static_cast<unsigned>(nbits) > 8) value |= static_cast<unsigned>(p[stride]) << 8;
  return static_cast<std::uint8_t>((value >> shift) & ((1u << nbits) - 1));
}

// The target bits must be zero.
inline void write_step(std::uint8_t* code, std::size_t stride, int m, int nbits,
                       std::uint8_t value) {
  const unsigned bit = static_cast<unsigned>(m * nbits), shift = bit & 7;
  std::uint8_t* p = code + (bit >> 3) * stride;
  const unsigned shifted = static_cast<unsigned>(value) << shift;
  *p = static_cast<std::uint8_t>(*p | shifted);
  if (shift + static_cast<unsigned>(nbits) > 8)
    p[stride] = static_cast<std::uint8_t>(p[stride] | (shifted >> 8));
}

}  // namespace fq
