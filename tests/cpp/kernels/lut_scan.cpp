#include <doctest/doctest.h>

#include "core/bitpack.hpp"
#include "dispatch/dispatch.hpp"
#include "support.hpp"

using namespace fq;

TEST_CASE("lut_scan: the formula, and every level bit-exact with scalar") {
  test::Rng rng;
  for (int nbits = 4; nbits <= 8; ++nbits)
    for (int M : {1, 2, 3, 5, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65}) {
      CAPTURE(nbits);
      CAPTURE(M);
      const int K = 1 << nbits, size = packed_size(M, nbits), all = M + M % 3;
      const auto lut = rng.floats(idx_t{M} * K);
      const auto codes = rng.codes(idx_t{kScanBlock} * all, K);  // of more steps than are added
      // Exactly as large as the contract says, so that a sanitizer sees a read beyond the end.
      std::vector<std::uint8_t> block(static_cast<std::size_t>(packed_size(all, nbits)) *
                                      kScanBlock);
      for (int i = 0; i < kScanBlock; ++i)
        for (int m = 0; m < all; ++m)
          write_step(block.data() + i, kScanBlock, m, nbits, codes[i * all + m]);
      block.resize(static_cast<std::size_t>(size) * kScanBlock);
      block.shrink_to_fit();
      std::vector<float> expected(kScanBlock, 0.0f), got(kScanBlock);
      for (int i = 0; i < kScanBlock; ++i)
        for (int m = 0; m < M; ++m) expected[i] += lut[m * K + codes[i * all + m]];
      for (SimdLevel level : available_levels()) {
        CAPTURE(level_name(level));
        lut_scan_kernel(level)(block.data(), M, nbits, lut.data(), got.data());
        CHECK(got == expected);
      }
    }
}
