// Vectors -> codes: the beam search of QINCo2 (Vallaeys et al., ICLR 2025, section 3.2).
#pragma once

#include <cstdint>

#include "core/qinco_weights.hpp"
#include "core/types.hpp"

namespace fq {

// Of each vector B hypotheses go on from step to step. The network sees A * B candidates: where the
// paper pre-selects A codewords for every hypothesis, these are the best of all hypotheses and
// codewords together, by the error that the pre-selection codebook promises. The same error costs
// less than half the work so: poor hypotheses give rise to few candidates.
//
// x: (n, d) in the original space, finite. list_no: (n), for a model with an IVF; else null, and
// the first code is searched like the others. A = K: all codewords; a smaller A needs pre-selection
// codebooks. B: up to 4096. codes: (n, M). The codes of a vector do not depend on the others.
void encode(const QincoWeights& weights, idx_t n, const float* x, const idx_t* list_no, int A,
            int B, std::uint8_t* codes, const Execution& run);

}  // namespace fq
