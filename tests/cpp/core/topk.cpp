#include "core/topk.hpp"

#include <doctest/doctest.h>

#include <limits>

#include "support.hpp"

using namespace fq;

TEST_CASE("topk: the same k smallest in any order of arrival, ties by id, list_no, offset") {
  test::Rng rng;
  std::vector<Candidate> all;
  for (idx_t i = 0; i < 1000; ++i)  // few distinct scores and ids: many ties at every level
    all.push_back({static_cast<float>(rng.integer(0, 9)), rng.integer(0, 9), rng.integer(0, 9), i});
  auto expected = all;
  std::sort(expected.begin(), expected.end());
  auto key = [](const Candidate& c) { return std::tuple(c.score, c.id, c.list_no, c.offset); };
  for (idx_t k : {1, 2, 63, 64, 65, 999, 1000, 1001})
    for (int trial = 0; trial < 3; ++trial) {
      std::shuffle(all.begin(), all.end(), rng.engine);
      TopK best(k);
      for (const Candidate& c : all)
        if (c.score <= best.threshold()) best.push(c);
      const auto& got = best.sorted();
      REQUIRE(got.size() == static_cast<std::size_t>(std::min<idx_t>(k, 1000)));
      for (std::size_t i = 0; i < got.size(); ++i) CHECK(key(got[i]) == key(expected[i]));
    }
}

TEST_CASE("topk: NaN never enters") {
  TopK best(3);
  best.push({std::numeric_limits<float>::quiet_NaN(), 1, 0, 0});
  best.push({std::numeric_limits<float>::infinity(), 2, 0, 0});
  REQUIRE(best.sorted().size() == 1);
  CHECK(best.sorted()[0].id == 2);
}
