#include "core/coarse.hpp"

#include <doctest/doctest.h>

#include <cfloat>
#include <cmath>
#include <limits>

#include "core/distance.hpp"
#include "support.hpp"

using namespace fq;

namespace {

// Every row against the exact scores of all centroids, for batches of all kinds.
void check_assign(const std::vector<float>& centroids, const std::vector<float>& x, idx_t d) {
  const idx_t nlist = static_cast<idx_t>(centroids.size()) / d;
  const Centroids rows(nlist, d, centroids.data());
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (idx_t n : {1, 3, 4, 15, 16, 17, 40, 150})
      for (idx_t nprobe : {idx_t{1}, idx_t{7}, nlist / 4, nlist / 4 + 1, nlist + 2}) {
        CAPTURE(n);
        CAPTURE(nprobe);
        const float sign = metric == Metric::L2 ? 1.0f : -1.0f;
        std::vector<idx_t> list_no(n * nprobe), expected_list_no;
        std::vector<float> distance(n * nprobe), expected_distance;
        assign(rows, n, x.data(), nprobe, metric, list_no.data(), distance.data(), {2});
        for (idx_t i = 0; i < n; ++i) {
          TopK best(nprobe);
          for (idx_t l = 0; l < nlist && is_usable(&x[i * d], d); ++l)
            best.push({exact_score(&x[i * d], &centroids[l * d], d, metric), l, 0, 0});
          for (const Candidate& c : best.sorted()) {
            expected_list_no.push_back(c.id);
            expected_distance.push_back(sign * c.score);
          }
          expected_list_no.resize((i + 1) * nprobe, -1);
          expected_distance.resize((i + 1) * nprobe, sign * FLT_MAX);
        }
        CHECK(list_no == expected_list_no);
        CHECK(distance == expected_distance);
      }
}

// Where assign_block ends the others in order.
void check_order(const std::vector<float>& centroids, const std::vector<float>& x, idx_t d) {
  const idx_t nlist = static_cast<idx_t>(centroids.size()) / d;
  const Centroids rows(nlist, d, centroids.data());
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (idx_t nq : {3, 16, 40})
      for (idx_t nprobe : {idx_t{7}, nlist / 4 + 1, nlist + 2}) {
        CAPTURE(nq);
        CAPTURE(nprobe);
        CoarseScratch scratch;
        ListOrder order;
        std::vector<idx_t> list_no(nq * nprobe);
        std::vector<float> scores(nq * nprobe);
        assign_block(rows, nq, x.data(), nprobe, metric, scratch, list_no.data(), scores.data());
        for (idx_t i = 0; i < nq; ++i) {
          const float* q = &x[i * d];
          if (!is_usable(q, d)) continue;
          order.reset(rows, nq, x.data(), i, metric, scratch, &list_no[i * nprobe], nprobe);
          std::vector<std::pair<float, idx_t>> got, expected;
          while (const auto next = order.next()) got.push_back(*next);
          for (idx_t l = 0; l < nlist; ++l)
            if (const float score = exact_score(q, &centroids[l * d], d, metric);
                !std::isnan(score))
              expected.emplace_back(score, l);
          std::sort(expected.begin(), expected.end());
          const auto n_given = std::min(nprobe, static_cast<idx_t>(expected.size()));
          expected.erase(expected.begin(), expected.begin() + n_given);
          CHECK(got == expected);
        }
      }
}

}  // namespace

TEST_CASE("coarse: the best by exact scores, whatever the batch") {
  test::Rng rng;
  const idx_t d = 19, n = 150, nlist = 1100;
  auto centroids = rng.floats(nlist * d), x = rng.floats(n * d);
  SUBCASE("random, and a query that is not finite") {
    x[5 * d + 3] = std::numeric_limits<float>::quiet_NaN();
    x[6 * d] = std::numeric_limits<float>::infinity();
    x[7 * d] = 3e38f;  // finite, but not its norm
  }
  SUBCASE("centroids that are not finite") {
    centroids[700 * d] = std::numeric_limits<float>::quiet_NaN();
    SUBCASE("NaN alone") {}
    SUBCASE("and infinite") { centroids[20 * d] = std::numeric_limits<float>::infinity(); }
  }
  SUBCASE("duplicates") {
    for (idx_t l = 0; l < nlist / 2; ++l)
      std::copy_n(&centroids[l * d], d, &centroids[(nlist - 1 - l) * d]);
  }
  SUBCASE("differences lost beside large numbers") {
    for (float& v : centroids) v = 1000 + 1e-3f * v;
    for (float& v : x) v = 1000 + 1e-3f * v;
  }
  SUBCASE("all zero") { std::fill(centroids.begin(), centroids.end(), 0.0f); }
  SUBCASE("underflow") {
    for (float& v : centroids) v *= 1e-21f;
    for (float& v : x) v *= 1e-21f;
  }
  check_assign(centroids, x, d);
  check_order(centroids, x, d);
}
