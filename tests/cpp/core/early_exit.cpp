#include "core/early_exit.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/check.hpp"

using namespace fq;

namespace {
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
}  // namespace

TEST_CASE("early exit: a margin for every number of results") {
  EarlyExit exit(3, 16, 4, {1, 10, 100});
  exit.add_checkpoint(0, {8.0f, 4.0f, 2.0f}, nullptr);
  auto margin = [&](idx_t k) { return exit.margin(*exit.tables(), k, 1); };
  CHECK(margin(1) == 8);
  CHECK(margin(3) == doctest::Approx(8 - 4 * std::log10(3.0)));
  CHECK(margin(10) == 4);
  CHECK(margin(100) == 2);
  CHECK(margin(5000) == 2);
  CHECK(exit.margin(*exit.tables(), 10, 0.5f) == 2);
  EarlyExit others(3, 16, 4, {5, 20, 30});
  others.add_checkpoint(3, {6.0f, 4.0f, 3.0f}, nullptr);
  const EarlyExit::Checkpoint& c = others.checkpoints()[0];
  CHECK(others.margin(c, 1, 1) == 6);
  CHECK(others.margin(c, 5, 1) == 6);
  CHECK(others.margin(c, 10, 1) == doctest::Approx(5));
  CHECK(others.margin(c, 20, 1) == 4);
  CHECK(others.margin(c, 31, 1) == 3);
}

TEST_CASE("early exit: margins are of distances, and of similarities per length of the query") {
  const float q[] = {0, 3, -4};
  CHECK(exit_bound(9, 0.5f, q, 3, Metric::L2) == 3.5f * 3.5f);
  CHECK(exit_bound(-1, 0.5f, q, 3, Metric::L2) == 0.25f);  // rounded below zero
  CHECK(exit_bound(-7, 0.5f, q, 3, Metric::InnerProduct) == -7 + 0.5f * 5);
  CHECK(exit_bound(-7, kInf, q, 3, Metric::InnerProduct) == kInf);
  for (float score : {0.1f, 0.3f, 1e-30f, 12345.678f})
    CHECK(exit_bound(score, 0, q, 3, Metric::L2) >= score);
}

TEST_CASE("early exit: an infinite margin is one for every factor, and only where it stands") {
  EarlyExit exit(3, 16, 4, {1, 10, 100, 1000, 10000});
  exit.add_checkpoint(0, {1.0f, 2.0f, kInf, kInf, 3.0f}, nullptr);
  for (float factor : {0.0f, 1.0f, 3e38f}) {
    auto margin = [&](idx_t k) { return exit.margin(*exit.tables(), k, factor); };
    CHECK(margin(1) == factor * 1);
    CHECK(margin(10) == factor * 2);
    for (idx_t k : {11, 99, 100, 500, 1000, 5000, 9999}) CHECK(margin(k) == kInf);
    CHECK(margin(10000) == factor * 3);
  }
  const float zero[4] = {};
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    CHECK(exit_bound(0, kInf, zero, 4, metric) == kInf);
}

TEST_CASE("early exit: the bound of a range") {
  const float q[4] = {3, 0, 0, 4};
  EarlyExit::Checkpoint c{0, {0.0f}, {}, 2, 0.5f};
  CHECK(range_bound(16, c, 1, q, 4, Metric::L2) == 18);
  CHECK(range_bound(64, c, 3, q, 4, Metric::L2) == 76);
  CHECK(range_bound(-1, c, 1, q, 4, Metric::L2) == 1);
  CHECK(range_bound(-16, c, 1, q, 4, Metric::InnerProduct) == -13.5f);
  CHECK(range_bound(-16, c, 0, q, 4, Metric::InnerProduct) == -16);
  const float long_q[4] = {3e38f, 0, 0, 0}, zero[4] = {};
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    CHECK(range_bound(5, c, 0, long_q, 4, metric) == 5);
    c.range_b = 0;
    CHECK(range_bound(kInf, c, 1, q, 4, metric) == kInf);
    CHECK(range_bound(-kInf, c, 1, q, 4, metric) == -kInf);
    c.range_b = kInf;
    CHECK(range_bound(0, c, 0, zero, 4, metric) == kInf);
    c.range_a = kInf, c.range_b = 0;
    CHECK(range_bound(0, c, 0, zero, 4, metric) == kInf);
    c.range_a = 2, c.range_b = 0.5f;
  }
}

TEST_CASE("early exit: bad arguments") {
  for (const std::vector<idx_t>& ks : {std::vector<idx_t>{}, {0, 1}, {1, 1}, {10, 1}})
    CHECK_THROWS_AS(EarlyExit(3, 16, 4, ks), CheckError);
  CHECK_THROWS_AS(EarlyExit(0, 16, 4, {1}), CheckError);
  EarlyExit exit(3, 16, 4, {1, 10});
  std::vector<float> tail(16 * 4);
  exit.add_checkpoint(2, {1.0f, 0.0f}, tail.data());
  CHECK_THROWS_AS(exit.add_checkpoint(2, {0.0f, 0.0f}, tail.data()), CheckError);
  CHECK_THROWS_AS(exit.add_checkpoint(4, {0.0f, 0.0f}, nullptr), CheckError);
  for (const std::vector<float>& margins :
       {std::vector<float>{}, {1.0f}, {1.0f, 1.0f, 1.0f}, {1.0f, -1.0f}, {1.0f, kNaN}})
    CHECK_THROWS_AS(exit.add_checkpoint(3, margins, nullptr), CheckError);
  for (float bad : {-1.0f, kNaN}) {
    CHECK_THROWS_AS(exit.add_checkpoint(3, {0.0f, 0.0f}, nullptr, bad, 0), CheckError);
    CHECK_THROWS_AS(exit.add_checkpoint(3, {0.0f, 0.0f}, nullptr, 0, bad), CheckError);
  }
  EarlyExit other(3, 16, 4, {1});
  for (float bad : {kInf, -kInf, kNaN}) {
    tail[17] = bad;
    CHECK_THROWS_WITH_AS(other.add_checkpoint(2, {0.0f}, tail.data()),
                         "tail: expected finite values", CheckError);
  }
}
