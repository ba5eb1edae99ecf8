#include "kernels/gemm_bf16/bf16.hpp"

namespace fq {

void gemm_bf16_scalar(std::int64_t n, std::int64_t m, std::int64_t k, const bf16* a, const bf16* b,
                      float* c, bf16* rounded, Epilogue epilogue) {
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < m; ++j) {
      const bf16* column = b + j / 16 * 16 * k + j % 16 * 2;
      float v = adds ? c[i * m + j] : 0.0f;
      for (std::int64_t l = 0; l < k; ++l)
        v += to_float(a[i * k + l]) * to_float(column[l / 2 * 32 + l % 2]);
      if (clips && !(v > 0)) v = 0;
      if (c) c[i * m + j] = v;
      if (rounded) rounded[i * m + j] = to_bf16(v);
    }
}

void round_bf16_scalar(std::int64_t n, const float* x, bf16* y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = to_bf16(x[i]);
}

}  // namespace fq
