#include "core/lut.hpp"

#include "core/check.hpp"
#include "core/inverted_lists.hpp"
#include "core/parallel.hpp"
#include "dispatch/dispatch.hpp"

namespace fq {

AdditiveTables::AdditiveTables(int M, int K, idx_t d, const float* codebooks)
    : M_(M), K_(K), d_(d) {
  check_code_shape(M, 8);
  check(K >= 16 && K <= 256 && (K & (K - 1)) == 0,
        "codebooks: expected K to be a power of two from 16 to 256, got ", K);
  check(d >= 1, "codebooks: expected d of at least 1, got ", d);
  const idx_t rows = idx_t{M} * K;
  codebooks_.assign(codebooks, codebooks + rows * d);
  transposed_.resize(codebooks_.size());
  for (idx_t r = 0; r < rows; ++r)
    for (idx_t j = 0; j < d; ++j) transposed_[j * rows + r] = -codebooks[r * d + j];
}

void AdditiveTables::compute(idx_t nq, const float* q, Metric metric, float* lut) const {
  const idx_t m = idx_t{M_} * K_;
  gemm_f32_kernel()(nq, m, d_, q, transposed_.data(), lut, Epilogue::Store);
  if (metric == Metric::L2)
    for (idx_t i = 0; i < nq * m; ++i) lut[i] *= 2;
}

void AdditiveTables::bias(idx_t nlist, const float* centroids, idx_t n, const idx_t* list_no,
                          const std::uint8_t* codes, float* bias, const Execution& run) const {
  constexpr idx_t kBlock = 256;
  auto one = [&](idx_t i, std::vector<double>& r) {
    bias[i] = 0;
    if (list_no[i] == -1) return;
    if (list_no[i] < 0 || list_no[i] >= nlist)
      check(false, "list_no[", i, "]: expected -1 to ", nlist - 1, ", got ", list_no[i]);
    r.assign(static_cast<std::size_t>(d_), 0.0);
    for (int m = 0; m < M_; ++m) {
      const int code = codes[i * M_ + m];
      if (code >= K_) check(false, "codes[", i, ", ", m, "]: expected below ", K_, ", got ", code);
      const float* word = codebooks_.data() + (idx_t{m} * K_ + code) * d_;
      for (idx_t j = 0; j < d_; ++j) r[j] += word[j];
    }
    const float* centroid = centroids + list_no[i] * d_;
    double sum = 0;
    for (idx_t j = 0; j < d_; ++j) sum += r[j] * (2.0 * centroid[j] + r[j]);
    bias[i] = static_cast<float>(sum);
  };
  parallel_for((n + kBlock - 1) / kBlock, run, [&](idx_t block, int) {
    std::vector<double> r;
    const idx_t end = std::min(n, (block + 1) * kBlock);
    for (idx_t i = block * kBlock; i < end; ++i) one(i, r);
  });
}

}  // namespace fq
