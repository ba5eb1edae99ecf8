#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "dispatch/dispatch.hpp"
#include "kernels/gemm_bf16/bf16.hpp"
#include "support.hpp"

using namespace fq;

TEST_CASE("lut_scan_u8: the formula, and every level bit-exact with scalar") {
  test::Rng rng;
  for (int M : {1, 2, 7, 8, 16, 33, 64, 256})
    for (std::int64_t n : {0, 1, 15, 16, 31, 32, 33, 63, 64, 65, 127, 128, 192, 193, 256, 300}) {
      CAPTURE(M);
      CAPTURE(n);
      const std::int64_t n_blocks = (n + 63) / 64;
      // Codes of more steps than are added, in part. Exactly as large as what may be read, so that
      // a sanitizer sees a read beyond the end.
      const std::int64_t rows = M + n % 4;
      auto blocks = rng.codes(n_blocks * 64 * rows, 256);
      if (n > 0) blocks.resize(static_cast<std::size_t>((n_blocks - 1) * rows + M) * 64);
      blocks.shrink_to_fit();
      auto lut = rng.codes(idx_t{M} * 256, 256);
      // Rows among others, or one after the other.
      const std::int64_t bias_bytes = n % 2 ? 128 : 192;
      std::vector<std::uint8_t> bias_rows(static_cast<std::size_t>(n_blocks * bias_bytes));
      const auto floats = rng.floats(n_blocks * 64, 50);
      const float offset = M % 3 ? 0.0f : 1.0f;
      std::vector<float> bias;
      for (std::int64_t i = 0; i < n_blocks * 64; ++i) {
        const bf16 half = to_bf16(floats[static_cast<std::size_t>(i)]);
        std::memcpy(&bias_rows[static_cast<std::size_t>(i / 64 * bias_bytes + i % 64 * 2)], &half,
                    2);
        bias.push_back(to_float(half) + offset);
      }
      if (n > 0) bias_rows.resize(static_cast<std::size_t>((n_blocks - 1) * bias_bytes + 128));
      bias_rows.shrink_to_fit();
      if (M == 256) std::fill(lut.begin(), lut.end(), std::uint8_t{255});  // the largest sums
      const float scale = 0.7f, slope = M % 2 ? 1.0f : -1.9f, constant = -3.1f;
      std::vector<float> bound;
      for (std::int64_t i = 0; i < n; ++i) {
        int sum = 0;
        for (int m = 0; m < M; ++m) sum += lut[m * 256 + blocks[(i / 64 * rows + m) * 64 + i % 64]];
        bound.push_back(static_cast<float>(sum) * scale + (bias[i] * slope + constant));
      }
      std::vector<float> thresholds{-std::numeric_limits<float>::infinity(),
                                    std::numeric_limits<float>::infinity(),
                                    std::numeric_limits<float>::quiet_NaN()};
      for (int trial = 0; trial < 3 && n > 0; ++trial)  // equal to a bound: a survivor
        thresholds.push_back(bound[rng.integer(0, n - 1)]);
      for (float threshold : thresholds) {
        std::vector<std::uint64_t> expected(n_blocks, 0), got(n_blocks + 1);
        for (std::int64_t i = 0; i < n; ++i)
          expected[i / 64] |= std::uint64_t{bound[i] <= threshold} << (i % 64);
        expected.push_back(42);  // behind the end: untouched
        for (SimdLevel level : available_levels()) {
          CAPTURE(level_name(level));
          std::fill(got.begin(), got.end(), 42);
          lut_scan_u8_kernel(level)(blocks.data(), 64 * rows, n, M, lut.data(),
                                    {bias_rows.data(), bias_bytes, offset}, scale, slope, constant,
                                    threshold, got.data());
          CHECK(got == expected);
        }
      }
    }
}
