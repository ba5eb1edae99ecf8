#include "core/qinco_encode.hpp"

#include <doctest/doctest.h>

#include <utility>

#include "core/check.hpp"
#include "core/distance.hpp"
#include "core/qinco_decode.hpp"
#include "support.hpp"

using namespace fq;

namespace {

std::vector<std::uint8_t> encoded(const QincoWeights& weights, const std::vector<float>& x,
                                  const std::vector<idx_t>& list_no, int A, int B,
                                  int n_threads = 1, const AdditiveTerm* term = nullptr) {
  const idx_t n = static_cast<idx_t>(x.size()) / weights.d();
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * weights.M()), 99);
  encode(weights, n, x.data(), weights.ivf() ? list_no.data() : nullptr, A, B, term, codes.data(),
         {n_threads});
  return codes;
}

// Mean squared error of what the codes decode to.
double error(const QincoWeights& weights, const std::vector<float>& x,
             const std::vector<idx_t>& list_no, const std::vector<std::uint8_t>& codes) {
  std::vector<float> decoded(x.size());
  const idx_t n = static_cast<idx_t>(list_no.size());
  decode(weights, n, list_no.data(), codes.data(), weights.M(), weights.M(), decoded.data(), {1});
  return exact_score(x.data(), decoded.data(), static_cast<idx_t>(x.size()), Metric::L2) /
         static_cast<double>(n);
}

}  // namespace

TEST_CASE("encode: all codewords and enough hypotheses find the best of all codes") {
  for (bool ivf : {true, false})
    for (idx_t d_e : {12, 20})
      for (float weight : {0.0f, 0.5f}) {  // of the error of tables
        test::Rng rng;
        const test::Model model(rng, ivf, true, 12, d_e, ivf ? 2 : 1);
        const QincoWeights weights = model.weights();
        const idx_t n = 9;
        const auto x = rng.floats(n * 12, 2);
        const auto codebooks = rng.floats(2 * 16 * 12, 1), bases = rng.floats(5 * 12, 1);
        const AdditiveTables tables(2, 16, 12, codebooks.data());
        const AdditiveTerm term{&tables, bases.data(), weight};
        const std::vector<idx_t> list_no(n, 3);
        const auto codes = encoded(weights, x, list_no, 16, 16, 1, weight > 0 ? &term : nullptr);
        for (idx_t i = 0; i < n; ++i) {
          double best = 1e30, found = 0;
          for (int code = 0; code < 256; ++code) {
            const std::uint8_t both[2] = {static_cast<std::uint8_t>(code / 16),
                                          static_cast<std::uint8_t>(code % 16)};
            const auto y = model.decode(3, both, 2);
            double e = 0;
            for (idx_t j = 0; j < 12; ++j) {
              const float of_tables = bases[(ivf ? 3 : 0) * 12 + j] + codebooks[both[0] * 12 + j] +
                                      codebooks[(16 + both[1]) * 12 + j] - x[i * 12 + j];
              e += (y[j] - x[i * 12 + j]) * (y[j] - x[i * 12 + j]) + weight * of_tables * of_tables;
            }
            best = std::min(best, e);
            if (both[0] == codes[i * 2] && both[1] == codes[i * 2 + 1]) found = e;
          }
          CHECK(found == doctest::Approx(best).epsilon(1e-5));
        }
      }
}

TEST_CASE("encode: the codes of a vector depend neither on the batch nor on the threads") {
  for (bool ivf : {true, false}) {
    test::Rng rng;
    const test::Model model(rng, ivf, true, 12, 20, 3);
    const QincoWeights weights = model.weights();
    const idx_t n = 77;
    const auto x = rng.floats(n * 12, 2);
    std::vector<idx_t> list_no;
    for (idx_t i = 0; i < n; ++i) list_no.push_back(i % 5);
    const auto codes = encoded(weights, x, list_no, 4, 3);
    CHECK(encoded(weights, x, list_no, 4, 3, 2) == codes);
    for (idx_t i = 0; i < n; ++i) {
      const auto one =
          encoded(weights, {x.begin() + i * 12, x.begin() + (i + 1) * 12}, {list_no[i]}, 4, 3);
      CHECK(std::equal(one.begin(), one.end(), codes.begin() + i * weights.M()));
    }
  }
}

TEST_CASE("encode: rounding to bf16 costs little error, for every shape of network") {
  for (bool ivf : {true, false})
    for (bool skip : {true, false})
      for (idx_t d_e : {12, 20}) {
        test::Rng rng;
        test::Model model(rng, ivf, skip, 12, d_e, 3);
        for (idx_t L : {0, 1, 2}) {
          model.L = L;
          const QincoWeights exact = model.weights(), rounded = model.weights(true);
          const auto x = rng.floats(500 * 12, 2);
          const std::vector<idx_t> list_no(500, 1);
          const double e = error(exact, x, list_no, encoded(exact, x, list_no, 4, 8));
          const double e_rounded = error(exact, x, list_no, encoded(rounded, x, list_no, 4, 8));
          CHECK(e_rounded == doctest::Approx(e).epsilon(0.02));
          CHECK(encoded(rounded, x, list_no, 4, 8) == encoded(rounded, x, list_no, 4, 8, 3));
        }
      }
}

TEST_CASE("encode: more search does not find worse codes") {
  test::Rng rng;
  const test::Model model(rng, true, true, 12, 20, 4);
  const QincoWeights weights = model.weights();
  const auto x = rng.floats(300 * 12, 2);
  const std::vector<idx_t> list_no(300, 1);
  double before = 1e30;
  for (auto [A, B] : {std::pair{1, 1}, {4, 2}, {8, 8}, {16, 32}}) {
    const double e = error(weights, x, list_no, encoded(weights, x, list_no, A, B));
    CHECK(e < before);
    before = e;
  }
}

TEST_CASE("encode: of equal codewords the first is taken") {
  for (bool ivf : {true, false})
    for (int n_different : {8, 1})
      for (auto [A, B] : {std::pair{1, 1}, {3, 1}, {1, 4}, {4, 4}, {16, 16}}) {
        CAPTURE(n_different);
        CAPTURE(B);
        test::Rng rng;
        test::Model model(rng, ivf, true, 12, 20, 3);
        auto repeat = [&](std::vector<float>& rows) {
          for (std::size_t i = 0; i < rows.size(); ++i)
            rows[i] = rows[i / 12 % static_cast<std::size_t>(n_different) * 12 + i % 12];
        };
        for (auto& step : model.steps) {
          repeat(step.codebook);
          repeat(step.preselect);
        }
        if (!ivf) repeat(model.base);
        const idx_t n = 20;
        for (const std::uint8_t code :
             encoded(model.weights(), rng.floats(n * 12, 2), std::vector<idx_t>(n, 1), A, B))
          CHECK(code < n_different);
      }
}

TEST_CASE("encode: bad arguments are refused") {
  test::Rng rng;
  test::Model model(rng, true, true, 12, 20, 2);
  const QincoWeights weights = model.weights();
  const auto x = rng.floats(12);
  CHECK_THROWS_AS(encoded(weights, x, {5}, 4, 2), CheckError);
  CHECK_THROWS_AS(encoded(weights, x, {-1}, 4, 2), CheckError);
  CHECK_THROWS_AS(encoded(weights, x, {0}, 0, 2), CheckError);
  CHECK_THROWS_AS(encoded(weights, x, {0}, 17, 2), CheckError);
  CHECK_THROWS_AS(encoded(weights, x, {0}, 4, 0), CheckError);
  std::vector<std::uint8_t> codes(2);
  CHECK_THROWS_AS(encode(weights, 1, x.data(), nullptr, 4, 2, nullptr, codes.data(), {1}),
                  CheckError);
  for (auto& step : model.steps) step.preselect.clear();
  CHECK_THROWS_AS(encoded(model.weights(), x, {0}, 4, 2), CheckError);
}
