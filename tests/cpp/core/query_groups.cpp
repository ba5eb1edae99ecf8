#include "core/query_groups.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "kernels/lut_scan_batch/contract.hpp"
#include "support.hpp"

using namespace fq;

TEST_CASE("query_groups: each query once, whatever its lists") {
  test::Rng rng;
  for (idx_t n : {0, 1, 31, 32, 33, 200})
    for (idx_t nprobe : {1, 5, 40}) {
      std::vector<idx_t> list_no, order(n, -1), all(n);
      for (idx_t i = 0; i < n * nprobe; ++i) list_no.push_back(rng.integer(-1, 49));
      for (idx_t i = 0; i < n; ++i) all[i] = i;
      group_queries(n, nprobe, list_no.data(), 50, order.data());
      std::sort(order.begin(), order.end());
      CHECK(order == all);
    }
}

TEST_CASE("query_groups: such as share their lists come together") {
  test::Rng rng;
  constexpr idx_t kTopics = 6, n = kTopics * kBatch, nprobe = 8, nlist = 300;
  std::vector<idx_t> topic, list_no, order(n);
  for (idx_t i = 0; i < n; ++i) topic.push_back(i % kTopics);
  std::shuffle(topic.begin(), topic.end(), rng.engine);
  for (idx_t t : topic)  // some of the topic's own lists, and one of any
    for (idx_t p = 0; p < nprobe; ++p)
      list_no.push_back(p == 3 ? rng.integer(0, nlist - 1) : t * 16 + 2 * p + rng.integer(0, 1));
  group_queries(n, nprobe, list_no.data(), nlist, order.data());
  for (idx_t i = 0; i < n; ++i) CHECK(topic[order[i]] == topic[order[i / kBatch * kBatch]]);
}
