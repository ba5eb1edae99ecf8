#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "dispatch/dispatch.hpp"
#include "kernels/gemm_bf16/bf16.hpp"
#include "support.hpp"

using namespace fq;

TEST_CASE("lut_scan_batch: the formula, and every level bit-exact with scalar") {
  test::Rng rng;
  const float inf = std::numeric_limits<float>::infinity();
  for (int M : {1, 2, 7, 8, 16, 33, 128})
    for (std::int64_t n : {0, 1, 15, 16, 17, 63, 64, 65, 128, 130}) {
      CAPTURE(M);
      CAPTURE(n);
      const std::int64_t n_blocks = (n + 63) / 64;
      // Codes of more steps than are added, in part. Exactly as large as what may be read, so that
      // a sanitizer sees a read beyond the end.
      const std::int64_t rows = M + n % 4;
      auto blocks = rng.codes(n_blocks * 64 * rows, 256);
      if (n > 0) blocks.resize(static_cast<std::size_t>((n_blocks - 1) * rows + M) * 64);
      blocks.shrink_to_fit();
      auto lut = rng.codes(idx_t{M} * 256 * kBatch, 256);
      if (M == 128) std::fill(lut.begin(), lut.end(), std::uint8_t{255});  // the largest sums
      const std::int64_t bias_bytes = n % 2 ? 128 : 192;
      std::vector<std::uint8_t> bias_rows(static_cast<std::size_t>(n_blocks * bias_bytes));
      auto bias = test::rounded(rng.floats(n_blocks * 64, 50));
      const float odd[] = {0.5f, 1.5f, -0.5f, 1e30f, -1e30f, inf, -inf, NAN};
      for (std::size_t i = 0; i < bias.size(); i += 3) bias[i] = odd[rng.integer(0, 7)];
      for (std::int64_t i = 0; i < n_blocks * 64; ++i) {
        const bf16 half = to_bf16(bias[static_cast<std::size_t>(i)]);
        std::memcpy(&bias_rows[static_cast<std::size_t>(i / 64 * bias_bytes + i % 64 * 2)], &half,
                    2);
      }
      if (n > 0) bias_rows.resize(static_cast<std::size_t>((n_blocks - 1) * bias_bytes + 128));
      bias_rows.shrink_to_fit();
      for (float factor : {1.0f, -3.7f, 32768.0f}) {
        std::int16_t slope[kBatch], limit[kBatch];
        for (int j = 0; j < kBatch; ++j)
          slope[j] = j % 3 == 0 ? std::int16_t{-32768}
                                : static_cast<std::int16_t>(rng.integer(-32768, 32767));
        auto x = [&](std::int64_t i, int j) {
          int sum = 0;
          for (int m = 0; m < M; ++m)
            sum += lut[(m * 256 + blocks[(i / 64 * rows + m) * 64 + i % 64]) * kBatch + j];
          const float product = bias[i] * factor;
          const double key =
              std::isnan(product) ? 32767 : std::nearbyint(std::clamp(product, -32767.f, 32767.f));
          const double step = std::floor(key * slope[j] / 32768 + 0.5);
          return std::min(sum + static_cast<int>(step), 32767);
        };
        for (int j = 0; j < kBatch; ++j)  // equal to some x: a survivor
          limit[j] = n == 0 ? std::int16_t{0}
                            : static_cast<std::int16_t>(
                                  std::max(x(rng.integer(0, n - 1), j) - int(j % 5 == 4), -32768));
        limit[7] = 32767;
        limit[8] = -32768;
        std::vector<std::uint32_t> expected, got(n + 1);
        for (std::int64_t i = 0; i < n; ++i) {
          expected.push_back(0);
          for (int j = 0; j < kBatch; ++j)
            expected.back() |= std::uint32_t{x(i, j) <= limit[j]} << j;
        }
        expected.push_back(42);  // behind the end: untouched
        for (SimdLevel level : available_levels()) {
          CAPTURE(level_name(level));
          std::fill(got.begin(), got.end(), 42);
          lut_scan_batch_kernel(level)(blocks.data(), 64 * rows, n, M, lut.data(),
                                       {bias_rows.data(), bias_bytes, 0.0f}, factor, slope, limit,
                                       got.data());
          CHECK(got == expected);
        }
      }
    }
}

TEST_CASE("interleave_luts") {
  test::Rng rng;
  for (int M : {1, 3}) {
    const auto size = static_cast<std::size_t>(M) * 256;
    std::vector<std::vector<std::uint8_t>> luts;
    std::vector<const std::uint8_t*> pointers;
    for (int j = 0; j < kBatch; ++j) luts.push_back(rng.codes(static_cast<idx_t>(size), 256));
    for (const auto& lut : luts) pointers.push_back(lut.data());
    std::vector<std::uint8_t> got(size * kBatch), expected;
    for (std::size_t c = 0; c < size; ++c)
      for (const auto& lut : luts) expected.push_back(lut[c]);
    interleave_luts(M, pointers.data(), got.data());
    CHECK(got == expected);
  }
}
