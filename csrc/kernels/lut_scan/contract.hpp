// lut_scan: scores of one scan block from float tables.
//
//   out[i] = ((0 + lut[0][code(i, 0)]) + lut[1][code(i, 1)]) + ...        i in 0..63
//
// block: packed_size(M, nbits) rows of 64 bytes; row b holds byte b of the 64 packed codes, and
//        step m of a code starts at bit m * nbits, low bits first. nbits in 4..8. The codes may
//        have more steps than these M: what else is in their bytes does not count.
// lut:   (M, 2^nbits) float32.   out: (64) float32, overwritten. No alignment is asked for.
//
// Every level adds in step order, so all are bit-exact with scalar.
#pragma once

#include <cstdint>

namespace fq {

using LutScan = void (*)(const std::uint8_t* block, int M, int nbits, const float* lut, float* out);

void lut_scan_scalar(const std::uint8_t* block, int M, int nbits, const float* lut, float* out);
void lut_scan_avx2(const std::uint8_t* block, int M, int nbits, const float* lut, float* out);
void lut_scan_avx512(const std::uint8_t* block, int M, int nbits, const float* lut, float* out);

}  // namespace fq
