#include "kernels/gemm_f32/contract.hpp"

namespace fq {

void gemm_f32_scalar(std::int64_t n, std::int64_t m, std::int64_t k, const float* a, const float* b,
                     float* c, Epilogue epilogue) {
  for (std::int64_t i = 0; i < n; ++i, a += k, c += m) {
    if (epilogue != Epilogue::Add)
      for (std::int64_t j = 0; j < m; ++j) c[j] = 0;
    for (std::int64_t l = 0; l < k; ++l)
      for (std::int64_t j = 0; j < m; ++j) c[j] += a[l] * b[l * m + j];
    if (epilogue == Epilogue::Relu)
      for (std::int64_t j = 0; j < m; ++j) c[j] = c[j] > 0 ? c[j] : 0;
  }
}

}  // namespace fq
