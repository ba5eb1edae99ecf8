#include <doctest/doctest.h>

#include <algorithm>

#include "dispatch/dispatch.hpp"
#include "support.hpp"

using namespace fq;

namespace {

std::vector<float> packed(const std::vector<float>& w, idx_t out, idx_t in, idx_t k) {
  std::vector<float> b(static_cast<std::size_t>((out + 15) / 16 * 16 * k));
  pack_gemm_f32(out, in, in, w.data(), k, b.data());
  return b;
}

// Every element within the bound of the contract.
void check_product(GemmF32 gemm, idx_t n, idx_t m, idx_t k, Epilogue epilogue, test::Rng& rng) {
  const auto a = rng.floats(n * k), w = rng.floats(m * k), start = rng.floats(n * m);
  const auto b = packed(w, m, k, k);
  auto c = start;
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  gemm(n, m, k, a.data(), b.data(), c.data(), epilogue);
  double excess = 0;
  for (idx_t i = 0; i < n; ++i)
    for (idx_t j = 0; j < m; ++j) {
      double exact = adds ? start[i * m + j] : 0, size = std::abs(exact);
      for (idx_t l = 0; l < k; ++l) {
        const double term = double{a[i * k + l]} * w[j * k + l];
        exact += term;
        size += std::abs(term);
      }
      if (clips) exact = std::max(exact, 0.0);
      const double bound = static_cast<double>(k + 1) * std::ldexp(size, -23);
      excess = std::max(excess, std::abs(c[i * m + j] - exact) - bound);
    }
  CHECK(excess <= 0);
}

}  // namespace

TEST_CASE("gemm_f32: the layout of b, and its padding") {
  test::Rng rng;
  const idx_t out = 18, in = 3, stride = 5, k = 4;
  const auto w = rng.floats(out * stride);
  std::vector<float> b(2 * 4 * 16, 42.0f), expected(b.size(), 0.0f);
  for (idx_t o = 0; o < out; ++o)
    for (idx_t l = 0; l < in; ++l) expected[(o / 16 * k + l) * 16 + o % 16] = w[o * stride + l];
  pack_gemm_f32(out, in, stride, w.data(), k, b.data());
  CHECK(b == expected);
}

TEST_CASE("gemm_f32: error bound at sizes around the tiles") {
  test::Rng rng;
  for (SimdLevel level : available_levels())
    for (idx_t n : {0, 1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 15, 16, 17})
      for (idx_t m : {0, 16, 32, 48, 80})
        for (idx_t k : {0, 1, 15, 16, 17, 100})
          for (Epilogue epilogue :
               {Epilogue::Store, Epilogue::Add, Epilogue::Relu, Epilogue::AddRelu}) {
            CAPTURE(level_name(level));
            CAPTURE(n);
            CAPTURE(m);
            CAPTURE(k);
            check_product(gemm_f32_kernel(level), n, m, k, epilogue, rng);
          }
}

TEST_CASE("gemm_f32: a row does not depend on the others") {
  test::Rng rng;
  const idx_t n = 19, m = 48, k = 33;
  const auto a = rng.floats(n * k), b = packed(rng.floats(m * k), m, k, k);
  for (SimdLevel level : available_levels()) {
    const GemmF32 gemm = gemm_f32_kernel(level);
    std::vector<float> all(static_cast<std::size_t>(n * m)), one(all.size());
    gemm(n, m, k, a.data(), b.data(), all.data(), Epilogue::Store);
    for (idx_t i = 0; i < n; ++i) gemm(1, m, k, &a[i * k], b.data(), &one[i * m], Epilogue::Store);
    CHECK(all == one);
  }
}
