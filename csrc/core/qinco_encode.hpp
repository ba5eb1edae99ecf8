// Vectors -> codes: the beam search of QINCo2 (Vallaeys et al., ICLR 2025, section 3.2).
#pragma once

#include <cstdint>

#include "core/lut.hpp"
#include "core/qinco_weights.hpp"
#include "core/types.hpp"

namespace fq {

// What counts beside the error of the last hypotheses, so that tables of additive codebooks lose
// less of what the codes know: weight * |base + sum of the codebooks' entries - x|^2.
struct AdditiveTerm {
  const AdditiveTables* tables;
  const float* bases;  // (n_base, d) with an IVF, else (1, d)
  float weight;
};

// Of each vector B hypotheses go on from step to step. The network sees A * B candidates: where the
// paper pre-selects A codewords for every hypothesis, these are the best of all hypotheses and
// codewords together, by the error that the pre-selection codebook promises. The same error costs
// less than half the work so: poor hypotheses give rise to few candidates.
//
// x: (n, d) in the original space, finite. list_no: (n), for a model with an IVF; else null, and
// the first code is searched like the others. A = K: all codewords; a smaller A needs pre-selection
// codebooks. B: up to 4096. codes: (n, M). The codes of a vector do not depend on the others.
// term: null for none.
void encode(const QincoWeights& weights, idx_t n, const float* x, const idx_t* list_no, int A,
            int B, const AdditiveTerm* term, std::uint8_t* codes, const Execution& run);

}  // namespace fq
