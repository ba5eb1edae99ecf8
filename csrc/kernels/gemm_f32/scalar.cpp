#include "kernels/gemm_f32/contract.hpp"

namespace fq {

void gemm_f32_scalar(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                     float* c, Epilogue epilogue) {
  constexpr int kWidth = 16;  // columns of a panel
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  for (std::int64_t j = 0; j < m; j += kWidth, b += kWidth * k)
    for (std::int64_t i = 0; i < n; ++i) {
      const float* factors = a + i * k;
      float* out = c + i * m + j;
      float sum[kWidth] = {};
      if (adds)
        for (int v = 0; v < kWidth; ++v) sum[v] = out[v];
      for (std::int64_t l = 0; l < k; ++l) {
#pragma GCC unroll 1  // or GCC unrolls it before it would vectorise it
        for (int v = 0; v < kWidth; ++v) sum[v] += factors[l] * b[l * kWidth + v];
      }
      for (int v = 0; v < kWidth; ++v) out[v] = clips && !(sum[v] > 0) ? 0.0f : sum[v];
    }
}

}  // namespace fq
