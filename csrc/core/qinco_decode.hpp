// Codes -> vectors, with the neural codebooks.
#pragma once

#include <cstdint>
#include <vector>

#include "core/qinco_weights.hpp"
#include "core/types.hpp"

namespace fq {

constexpr idx_t kDecodeBlock = 128;  // rows that go through a step together: its weights stay hot

struct DecodeScratch {
  std::vector<float> x, z, h;
};

// n <= kDecodeBlock rows. codes: n rows of `stride` bytes, of which the first n_codes are used;
// without an IVF the first of them selects the base vector. list_no: (n), -1 gives a row of NaN;
// without an IVF it may be null and only its sign counts. out: (n, d), in the original space.
// The result of a row does not depend on the others. Not checked.
void decode_block(const QincoWeights& weights, idx_t n, const idx_t* list_no,
                  const std::uint8_t* codes, idx_t stride, int n_codes, DecodeScratch& scratch,
                  float* out);

// The same for any n, checked and in parallel. codes: (n, M).
void decode(const QincoWeights& weights, idx_t n, const idx_t* list_no, const std::uint8_t* codes,
            idx_t M, int n_codes, float* out, const Execution& run);

}  // namespace fq
