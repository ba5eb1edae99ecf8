// x̂ after the first network, for all that it can be.
//
// It depends on the base vector and one code alone: on (list, i_0) behind an IVF, on (i_0, i_1)
// without. So re-ranking can look it up, for n_base * K * d floats of memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/qinco_weights.hpp"
#include "core/types.hpp"

namespace fq {

class FirstStepTable {
 public:
  // The weights must have a step, and stay as they are. Computed as they rank, in bf16 where they
  // have it, by what decodes without a table: the same bits.
  FirstStepTable(std::shared_ptr<const QincoWeights> weights, const Execution& run);

  bool in_bf16() const { return weights_->in_bf16(); }
  idx_t nbytes() const { return static_cast<idx_t>(x_.size() * sizeof(float)); }

  // decode_start and the first of decode_steps, for n rows. Not checked.
  void look_up(idx_t n, const idx_t* list_no, const std::uint8_t* codes, idx_t stride,
               float* x) const;

 private:
  std::shared_ptr<const QincoWeights> weights_;
  std::vector<float> x_;  // (n_base, K, base().cols)
};

}  // namespace fq
