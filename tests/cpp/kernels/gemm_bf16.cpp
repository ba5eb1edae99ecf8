#include <doctest/doctest.h>

#include <algorithm>

#include "dispatch/dispatch.hpp"
#include "kernels/gemm_bf16/bf16.hpp"
#include "support.hpp"

using namespace fq;

namespace {

std::vector<bf16> rounded(const std::vector<float>& x) {
  std::vector<bf16> y;
  for (float v : x) y.push_back(to_bf16(v));
  return y;
}

std::vector<bf16> packed(const std::vector<float>& w, idx_t out, idx_t in, idx_t k) {
  std::vector<bf16> b(static_cast<std::size_t>((out + 15) / 16 * 16 * k));
  pack_gemm_bf16(out, in, in, w.data(), k, b.data());
  return b;
}

// y is x rounded, but that a subnormal may be zero.
bool is_rounded(float x, bf16 y) {
  return y == to_bf16(x) || (std::abs(x) < 0x1p-126f && to_float(y) == 0);
}

// Every element within the bound of the contract, and the same whichever outputs are asked for.
void check_product(GemmBf16 gemm, idx_t n, idx_t m, idx_t k, float scale, Epilogue epilogue,
                   test::Rng& rng) {
  const auto w = rng.floats(m * k, scale), start = rng.floats(n * m, scale);
  const auto a = rounded(rng.floats(n * k, scale)), b = packed(w, m, k, k);
  auto c = start;
  const bool adds = epilogue == Epilogue::Add || epilogue == Epilogue::AddRelu;
  const bool clips = epilogue == Epilogue::Relu || epilogue == Epilogue::AddRelu;
  std::vector<bf16> y(c.size());
  gemm(n, m, k, a.data(), b.data(), c.data(), y.data(), epilogue);
  double excess = -1;
  bool all_rounded = true;
  for (idx_t i = 0; i < n; ++i)
    for (idx_t j = 0; j < m; ++j) {
      double exact = adds ? start[i * m + j] : 0, size = std::abs(exact);
      double inputs = 0;
      for (idx_t l = 0; l < k; ++l) {
        const double x = to_float(a[i * k + l]), z = to_float(to_bf16(w[j * k + l]));
        exact += x * z;
        size += std::abs(x * z);
        inputs += std::abs(x) + std::abs(z) + 2;
      }
      if (clips) exact = std::max(exact, 0.0);
      const double bound =
          static_cast<double>(k + 1) * std::ldexp(size, -23) + std::ldexp(inputs, -126);
      excess = std::max(excess, std::abs(c[i * m + j] - exact) - bound);
      all_rounded = all_rounded && is_rounded(c[i * m + j], y[i * m + j]);
    }
  CHECK(excess <= 0);
  CHECK(all_rounded);
  auto again = start;
  gemm(n, m, k, a.data(), b.data(), again.data(), nullptr, epilogue);
  CHECK(again == c);
  if (adds) return;
  std::vector<bf16> alone(y.size());
  gemm(n, m, k, a.data(), b.data(), nullptr, alone.data(), epilogue);
  CHECK(alone == y);
}

}  // namespace

TEST_CASE("gemm_bf16: error bound at sizes around the tiles") {
  test::Rng rng;
  for (SimdLevel level : available_levels())
    for (idx_t n : {0, 1, 2, 5, 6, 7, 8, 11, 12, 13})
      for (idx_t m : {0, 16, 32, 48, 64, 80, 112, 128})
        for (idx_t k : {0, 2, 14, 16, 18, 96})
          for (Epilogue epilogue :
               {Epilogue::Store, Epilogue::Add, Epilogue::Relu, Epilogue::AddRelu}) {
            CAPTURE(level_name(level));
            CAPTURE(n);
            CAPTURE(m);
            CAPTURE(k);
            check_product(gemm_bf16_kernel(level), n, m, k, 1, epilogue, rng);
          }
}

TEST_CASE("gemm_bf16: products that underflow") {
  test::Rng rng;
  for (SimdLevel level : available_levels())
    for (float scale : {0x1p-60f, 0x1p-64f, 0x1p-70f, 0x1p-130f}) {
      CAPTURE(level_name(level));
      CAPTURE(scale);
      check_product(gemm_bf16_kernel(level), 7, 80, 32, scale, Epilogue::Store, rng);
    }
}

TEST_CASE("gemm_bf16: a row does not depend on the others") {
  test::Rng rng;
  const idx_t n = 19, m = 112, k = 34;
  const auto a = rounded(rng.floats(n * k)), b = packed(rng.floats(m * k), m, k, k);
  for (SimdLevel level : available_levels()) {
    const GemmBf16 gemm = gemm_bf16_kernel(level);
    std::vector<float> all(static_cast<std::size_t>(n * m)), one(all.size());
    gemm(n, m, k, a.data(), b.data(), all.data(), nullptr, Epilogue::Store);
    for (idx_t i = 0; i < n; ++i)
      gemm(1, m, k, &a[i * k], b.data(), &one[i * m], nullptr, Epilogue::Store);
    CHECK(all == one);
  }
}

TEST_CASE("gemm_bf16: the layout of b, and its padding") {
  test::Rng rng;
  const idx_t out = 18, in = 3, stride = 5, k = 6;
  const auto w = rng.floats(out * stride);
  std::vector<bf16> b(2 * 3 * 16 * 2, 42), expected(b.size(), 0);
  for (idx_t o = 0; o < out; ++o)
    for (idx_t l = 0; l < in; ++l)
      expected[((o / 16 * k / 2 + l / 2) * 16 + o % 16) * 2 + l % 2] = to_bf16(w[o * stride + l]);
  pack_gemm_bf16(out, in, stride, w.data(), k, b.data());
  CHECK(b == expected);
}

TEST_CASE("round_bf16: to nearest, ties to even, at every length") {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<float, bf16>> cases = {
      {0.0f, 0x0000},
      {-0.0f, 0x8000},
      {1.0f, 0x3f80},
      {0x1.01p0f, 0x3f80},       // a tie, down to even
      {0x1.010002p0f, 0x3f81},   // just above it
      {0x1.03p0f, 0x3f82},       // a tie, up to even
      {-0x1.02fffep0f, 0xbf81},  // just below it
      {0x1.fffffep0f, 0x4000},   // the carry goes to the exponent
      {0x1.fffffep127f, 0x7f80},
      {inf, 0x7f80},
      {-inf, 0xff80},
      {0x1p-126f, 0x0080},
      {0x1p-130f, 0x0008},
  };
  test::Rng rng;
  for (SimdLevel level : available_levels()) {
    CAPTURE(level_name(level));
    const RoundBf16 round = round_bf16_kernel(level);
    for (const auto& [x, y] : cases) {
      CAPTURE(x);
      bf16 got = 42;
      round(1, &x, &got);
      CHECK((got == y || (std::abs(x) < 0x1p-126f && got == 0)));
      CHECK(to_bf16(x) == y);
    }
    for (std::uint32_t bits : {0x7fc00000u, 0x7f800001u, 0xffffffffu}) {  // NaNs
      const std::vector<float> x(17, std::bit_cast<float>(bits));
      std::vector<bf16> y(17);
      round(17, x.data(), y.data());
      for (bf16 v : y) CHECK(std::isnan(to_float(v)));
    }
    for (idx_t n : {0, 1, 7, 8, 9, 15, 16, 17, 31, 33}) {
      const auto x = rng.floats(n);
      std::vector<bf16> y(static_cast<std::size_t>(n + 1), 42);
      auto expected = rounded(x);
      expected.push_back(42);  // behind the end: untouched
      round(n, x.data(), y.data());
      CHECK(y == expected);
    }
  }
}
