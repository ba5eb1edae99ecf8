#include "core/qinco_decode.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "core/check.hpp"
#include "support.hpp"

using namespace fq;

TEST_CASE("decode: the papers' formula, for any block, thread count and prefix") {
  struct Shape {
    bool ivf, skip;
    idx_t d, d_e;
  };
  for (const Shape& s : {Shape{true, true, 10, 24}, Shape{false, true, 16, 16},
                         Shape{false, false, 7, 7}, Shape{true, true, 33, 8}}) {
    test::Rng rng;
    const test::Model model(rng, s.ivf, s.skip, s.d, s.d_e, 3);
    const QincoWeights weights = model.weights();
    CHECK(weights.M() == model.M());
    const idx_t n = 300, M = model.M();
    const auto codes = rng.codes(n * M, 16);
    std::vector<idx_t> list_no;
    for (idx_t i = 0; i < n; ++i) list_no.push_back(rng.integer(-1, s.ivf ? 4 : 0));
    const auto size = static_cast<std::size_t>(n * s.d);
    for (int n_codes = s.ivf ? 0 : 1; n_codes <= M; ++n_codes) {
      std::vector<float> x(size), x2(size), x1(size);
      decode(weights, n, list_no.data(), codes.data(), M, n_codes, x.data(), {1});
      decode(weights, n, list_no.data(), codes.data(), M, n_codes, x2.data(), {3});
      for (idx_t i = 0; i < n; ++i)
        decode(weights, 1, &list_no[i], &codes[i * M], M, n_codes, &x1[i * s.d], {1});
      double worst = 0;
      for (idx_t i = 0; i < n; ++i) {
        if (list_no[i] < 0) {
          CHECK(std::isnan(x[i * s.d]));
          CHECK(std::isnan(x[i * s.d + s.d - 1]));
          continue;
        }
        const auto expected = model.decode(list_no[i], &codes[i * M], n_codes);
        for (idx_t j = 0; j < s.d; ++j) {
          worst = std::max(worst, std::abs(expected[j] - x[i * s.d + j]));
          CHECK(x[i * s.d + j] == x1[i * s.d + j]);
          CHECK(x[i * s.d + j] == x2[i * s.d + j]);
        }
      }
      CHECK(worst < 1e-4);
    }
  }
}

TEST_CASE("decode and weights: bad arguments") {
  test::Rng rng;
  const test::Model model(rng, true, true, 10, 24, 2);
  const QincoWeights w = model.weights();
  std::vector<float> x(20);
  std::vector<idx_t> list_no{0, 4};
  std::vector<std::uint8_t> codes{1, 2, 3, 15};
  auto run = [&](int n_codes) {
    decode(w, 2, list_no.data(), codes.data(), 2, n_codes, x.data(), {1});
  };
  run(2);
  CHECK_THROWS_AS(run(3), CheckError);
  CHECK_THROWS_AS(run(-1), CheckError);
  CHECK_THROWS_AS(decode(w, 2, nullptr, codes.data(), 2, 2, x.data(), {1}), CheckError);
  codes[3] = 16;
  CHECK_THROWS_WITH_AS(run(2), "codes[1, 1]: expected below 16, got 16", CheckError);
  list_no[1] = 5;
  CHECK_THROWS_AS(run(2), CheckError);
  list_no[1] = -1;  // a missing row may hold anything
  run(2);

  QincoWeights other = w;
  test::Model wide(rng, true, true, 10, 25, 1);
  const auto& s = wide.steps[0];
  CHECK_THROWS_WITH_AS(other.add_step({s.codebook.data(), {16, 10}}, {s.in.data(), {25, 10}},
                                      {s.concat.data(), {25, 35}}, {}, {s.up.data(), {2, 28, 25}},
                                      {s.down.data(), {2, 25, 28}}, {s.out.data(), {10, 25}}),
                       "concat_weight: expected shape (24, 34), got (25, 35)", CheckError);
  CHECK(other.M() == 2);
}
