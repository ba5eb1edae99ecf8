#include <doctest/doctest.h>

#include <cstring>

#include "core/distance.hpp"
#include "dispatch/dispatch.hpp"
#include "support.hpp"

using namespace fq;

TEST_CASE("sum_rows: the bits of scalar, at every number of terms; NaN and -0 are clipped") {
  test::Rng rng;
  for (SimdLevel level : available_levels())
    for (idx_t n : {0, 1, 3})
      for (idx_t n_terms : {1, 2, 3, 4, 9})
        for (idx_t cols : {0, 16, 48, 128})
          for (bool clip : {false, true}) {
            CAPTURE(level_name(level));
            CAPTURE(n_terms);
            CAPTURE(cols);
            auto table = rng.floats(5 * cols);
            if (cols > 0) table[0] = std::numeric_limits<float>::quiet_NaN();
            if (cols > 0) table[1] = table[cols + 1] = -0.0f;
            std::vector<const float*> rows;
            for (idx_t i = 0; i < n * n_terms; ++i)
              rows.push_back(table.data() + (i < 2 ? i : rng.integer(0, 4)) * cols);
            std::vector<float> out(static_cast<std::size_t>(n * cols + 1), 42), expected = out;
            sum_rows_kernel(level)(n, n_terms, cols, rows.data(), out.data(), clip);
            sum_rows_scalar(n, n_terms, cols, rows.data(), expected.data(), clip);
            for (std::size_t i = 0; i < out.size(); ++i)
              if (!(std::isnan(out[i]) && std::isnan(expected[i])))
                CHECK(std::memcmp(&out[i], &expected[i], sizeof(float)) == 0);
          }
}

TEST_CASE("sum_rows: a row may be added to") {
  test::Rng rng;
  for (SimdLevel level : available_levels()) {
    const idx_t n = 3, cols = 32;
    auto x = rng.floats(n * cols);
    const auto start = x, more = rng.floats(cols);
    std::vector<const float*> rows;
    for (idx_t i = 0; i < n; ++i) rows.insert(rows.end(), {&x[i * cols], more.data()});
    sum_rows_kernel(level)(n, 2, cols, rows.data(), x.data(), false);
    for (idx_t i = 0; i < n * cols; ++i) CHECK(x[i] == start[i] + more[i % cols]);
  }
}

TEST_CASE("score_rows: the bits of exact_score, for any d, and nothing beyond is read") {
  test::Rng rng;
  for (SimdLevel level : available_levels())
    for (idx_t d : {1, 7, 8, 9, 15, 16, 17, 31, 40, 100, 128})
      for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
        CAPTURE(level_name(level));
        CAPTURE(d);
        const idx_t n = 5;
        const auto q = rng.floats(d), x = rng.floats(n * d);
        float out[n + 1] = {42, 42, 42, 42, 42, 42};
        score_rows_kernel(level)(n, d, q.data(), x.data(), metric == Metric::InnerProduct, out);
        for (idx_t i = 0; i < n; ++i) {
          const float expected = exact_score(q.data(), x.data() + i * d, d, metric);
          CHECK(std::memcmp(&out[i], &expected, sizeof(float)) == 0);
        }
        CHECK(out[n] == 42);
      }
}

TEST_CASE("squared_norms: the bits of sum_terms") {
  test::Rng rng;
  for (SimdLevel level : available_levels())
    for (idx_t cols : {0, 16, 48, 128}) {
      const idx_t n = 3;
      const auto x = rng.floats(n * cols);
      float out[n + 1] = {42, 42, 42, 42};
      squared_norms_kernel(level)(n, cols, x.data(), out);
      for (idx_t i = 0; i < n; ++i) {
        const float* row = x.data() + i * cols;
        CHECK(out[i] == sum_terms(cols, [=](idx_t j) { return row[j] * row[j]; }));
      }
      CHECK(out[n] == 42);
    }
}
