#include "core/lut.hpp"

#include <doctest/doctest.h>

#include "core/check.hpp"
#include "support.hpp"

using namespace fq;

TEST_CASE("lut: coarse score + tables + bias is the distance to centroid + sum of codewords") {
  test::Rng rng;
  for (idx_t d : {1, 5, 17, 32}) {
    const int M = 3, K = 16;
    const idx_t nlist = 4, n = 50;
    const auto codebooks = rng.floats(M * K * d), centroids = rng.floats(nlist * d);
    const auto q = rng.floats(d);
    const auto codes = rng.codes(n * M, K);
    std::vector<idx_t> list_no;
    for (idx_t i = 0; i < n; ++i) list_no.push_back(rng.integer(-1, nlist - 1));
    const AdditiveTables tables(M, K, d, codebooks.data());
    std::vector<float> l2(M * K), ip(M * K), bias(n);
    tables.compute(1, q.data(), Metric::L2, l2.data());
    tables.compute(1, q.data(), Metric::InnerProduct, ip.data());
    tables.bias(nlist, centroids.data(), n, list_no.data(), codes.data(), bias.data(), {2});
    for (idx_t i = 0; i < n; ++i) {
      if (list_no[i] < 0) {
        CHECK(bias[i] == 0);
        continue;
      }
      double distance = 0, similarity = 0, coarse_l2 = 0, coarse_ip = 0;
      for (idx_t j = 0; j < d; ++j) {
        const double c = centroids[list_no[i] * d + j];
        double x = c;
        for (int m = 0; m < M; ++m) x += codebooks[(m * K + codes[i * M + m]) * d + j];
        distance += (q[j] - x) * (q[j] - x);
        similarity += q[j] * x;
        coarse_l2 += (q[j] - c) * (q[j] - c);
        coarse_ip += q[j] * c;
      }
      double sum_l2 = coarse_l2 + bias[i], sum_ip = -coarse_ip;
      for (int m = 0; m < M; ++m) {
        sum_l2 += l2[m * K + codes[i * M + m]];
        sum_ip += ip[m * K + codes[i * M + m]];
      }
      CHECK(sum_l2 == doctest::Approx(distance).epsilon(1e-4));
      CHECK(sum_ip == doctest::Approx(-similarity).epsilon(1e-4));
    }
    auto bad = codes;
    bad[0] = 16;
    list_no[0] = 0;
    CHECK_THROWS_AS(
        tables.bias(nlist, centroids.data(), n, list_no.data(), bad.data(), bias.data(), {1}),
        CheckError);
  }
  CHECK_THROWS_AS(AdditiveTables(1, 17, 1, nullptr), CheckError);
}
