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
  std::vector<const float*> terms;  // rows to be added up
  std::vector<bf16> x_rounded, z_rounded, h_rounded;
};

// The normalised starting vectors of n rows, x: (n, weights.base().cols). list_no: (n), needed with
// an IVF; without, code 0 selects them. Not checked, as the next.
void decode_start(const QincoWeights& weights, idx_t n, const idx_t* list_no,
                  const std::uint8_t* codes, idx_t stride, float* x);

// From the x̂ of the first n_done codes to that of the first n_codes, in place; n <= kDecodeBlock,
// n_done >= 1 without an IVF. list_no: (n), needed with n_done == 0. in_bf16: with factors rounded,
// which weights.in_bf16() allows.
void decode_steps(const QincoWeights& weights, bool in_bf16, idx_t n, const idx_t* list_no,
                  const std::uint8_t* codes, idx_t stride, int n_done, int n_codes, float* x,
                  DecodeScratch& scratch);

// codes: (n, M), of which the first n_codes are used; without an IVF the first selects the base
// vector. list_no: (n), -1 gives a row of NaN; without an IVF it may be null and only its sign
// counts. out: (n, d), in the original space, by float32. The result of a row does not depend on
// the others.
void decode(const QincoWeights& weights, idx_t n, const idx_t* list_no, const std::uint8_t* codes,
            idx_t M, int n_codes, float* out, const Execution& run);

}  // namespace fq
