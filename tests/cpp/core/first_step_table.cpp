#include "core/first_step_table.hpp"

#include <doctest/doctest.h>

#include <memory>

#include "core/check.hpp"
#include "core/qinco_decode.hpp"
#include "support.hpp"

using namespace fq;

TEST_CASE("first step table: bit for bit what decoding gives, for any thread count") {
  for (bool ivf : {true, false})
    for (bool in_bf16 : {false, true}) {
      test::Rng rng;
      const test::Model model(rng, ivf, true, 20, 24, 2, 4, 19);
      const auto shared = std::make_shared<QincoWeights>(model.weights(in_bf16));
      const QincoWeights& weights = *shared;
      const idx_t dp = weights.base().cols, n = 100, M = model.M();
      const auto codes = rng.codes(n * M, 16);
      std::vector<idx_t> list_no;
      for (idx_t i = 0; i < n; ++i) list_no.push_back(rng.integer(0, 18));
      std::vector<float> expected(static_cast<std::size_t>(n * dp)), got(expected.size());
      DecodeScratch scratch;
      const int n_first = ivf ? 0 : 1;
      decode_start(weights, n, list_no.data(), codes.data(), M, expected.data());
      decode_steps(weights, in_bf16, n, list_no.data(), codes.data(), M, n_first, n_first + 1,
                   expected.data(), scratch);
      for (int n_threads : {1, 3}) {
        const FirstStepTable table(shared, {n_threads});
        CHECK(table.nbytes() == (ivf ? 19 : 16) * 16 * dp * 4);
        table.look_up(n, list_no.data(), codes.data(), M, got.data());
        CHECK(got == expected);
      }
    }
}

TEST_CASE("first step table: none without a network") {
  test::Rng rng;
  const auto weights =
      std::make_shared<QincoWeights>(test::Model(rng, false, true, 8, 8, 0).weights());
  CHECK_THROWS_AS(FirstStepTable(weights, {1}), StateError);
}
