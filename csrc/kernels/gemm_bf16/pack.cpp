#include "kernels/gemm_bf16/bf16.hpp"

namespace fq {

void pack_gemm_bf16(std::int64_t out, std::int64_t in, std::int64_t stride, const float* w,
                    std::int64_t k, bf16* b) {
  for (std::int64_t first = 0; first < out; first += 16)
    for (std::int64_t pair = 0; pair < k; pair += 2)
      for (std::int64_t o = first; o < first + 16; ++o)
        for (std::int64_t l = pair; l < pair + 2; ++l)
          *b++ = o < out && l < in ? to_bf16(w[o * stride + l]) : bf16{0};
}

}  // namespace fq
