#include "kernels/gemm_f32/contract.hpp"

namespace fq {

void pack_gemm_f32(std::int64_t out, std::int64_t in, std::int64_t stride, const float* w,
                   std::int64_t k, float* b) {
  for (std::int64_t first = 0; first < out; first += 16)
    for (std::int64_t l = 0; l < k; ++l)
      for (std::int64_t o = first; o < first + 16; ++o)
        *b++ = o < out && l < in ? w[o * stride + l] : 0.0f;
}

}  // namespace fq
