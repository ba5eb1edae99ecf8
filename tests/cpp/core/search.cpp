#include "core/search.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <limits>
#include <thread>

#include "core/check.hpp"
#include "core/coarse.hpp"
#include "core/distance.hpp"
#include "core/qinco_decode.hpp"
#include "support.hpp"

using namespace fq;

namespace {

// A small index of random codes. The centroids in the original space are what the model's base
// decodes to; the additive codebooks are random, so the shortlist is deliberately bad.
struct Index {
  static constexpr idx_t nlist = 5, d = 12, n = 400, nq = 21;
  test::Rng rng;
  test::Model model;
  QincoWeights weights;
  InvertedLists lists;
  AdditiveTables tables;
  std::vector<float> centroids, q, bias;
  std::vector<idx_t> list_no, ids, offset;
  std::vector<std::uint8_t> codes;

  explicit Index(Metric metric, bool ivf = true)
      : model(rng, ivf, true, d, 20, ivf ? 3 : 2),
        weights(model.weights()),
        lists(nlist, 3, 4),
        tables(3, 16, d, rng.floats(3 * 16 * d, 0.3f).data()),
        centroids(nlist * d),
        q(rng.floats(nq * d, 2)),
        bias(n),
        offset(n),
        codes(rng.codes(n * 3, 16)) {
    for (idx_t i = 0; i < n; ++i) {
      list_no.push_back(rng.integer(0, nlist - 2));  // the last list stays empty
      ids.push_back(i * 7 - 100);
    }
    std::vector<idx_t> all{0, 1, 2, 3, 4};
    decode(weights, nlist, all.data(), codes.data(), 3, ivf ? 0 : 1, centroids.data(), {1});
    if (metric == Metric::L2)
      tables.bias(nlist, centroids.data(), n, list_no.data(), codes.data(), bias.data(), {1});
    lists.add(n, list_no.data(), codes.data(), bias.data(), ids.data(), offset.data());
  }

  SearchArgs args(idx_t k, idx_t nprobe, idx_t nshort, Metric metric) const {
    return {lists,    tables, &weights, centroids.data(), nullptr, nullptr, nq,
            q.data(), k,      nprobe,   nshort,           metric,  nullptr};
  }
};

struct Result {
  std::vector<float> D;
  std::vector<idx_t> I;
  bool operator==(const Result&) const = default;
};

Result run_search(const SearchArgs& args, int n_threads = 1) {
  const auto size = static_cast<std::size_t>(args.n * args.k);
  Result r{std::vector<float>(size), std::vector<idx_t>(size)};
  search(args, r.D.data(), r.I.data(), {n_threads, {}, 0});
  return r;
}

}  // namespace

TEST_CASE("search: with all lists and a full shortlist it is brute force over decoded vectors") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    std::vector<float> x(Index::n * Index::d);
    decode(index.weights, Index::n, index.list_no.data(), index.codes.data(), 3, 3, x.data(), {1});
    const idx_t k = 10;
    for (bool filtered : {false, true}) {
      const RangeFilter range(0, Index::n * 4);
      SearchArgs args = index.args(k, Index::nlist + 3, Index::n, metric);
      if (filtered) args.filter = &range;
      const Result got = run_search(args);
      for (idx_t i = 0; i < Index::nq; ++i) {
        TopK expected(k);
        for (idx_t j = 0; j < Index::n; ++j)
          if (!filtered || (index.ids[j] >= 0 && index.ids[j] < Index::n * 4))
            expected.push({exact_score(&index.q[i * Index::d], &x[j * Index::d], Index::d, metric),
                           index.ids[j], 0, 0});
        for (idx_t r = 0; r < k; ++r) {
          const Candidate& c = expected.sorted()[r];
          CHECK(got.I[i * k + r] == c.id);
          CHECK(got.D[i * k + r] == (metric == Metric::L2 ? c.score : -c.score));
        }
      }
    }
  }
}

TEST_CASE("search: the same for any thread count, batch split and origin of the coarse lists") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (idx_t nshort : {0, 1, 30}) {
      const Index index(metric);
      const idx_t k = 7, nprobe = 2;
      const SearchArgs args = index.args(k, nprobe, nshort, metric);
      const Result all = run_search(args);
      for (int n_threads : {2, 5}) CHECK(run_search(args, n_threads) == all);
      Result split;
      for (idx_t i = 0; i < Index::nq; ++i) {
        SearchArgs one = args;
        one.n = 1;
        one.q += i * Index::d;
        const Result r = run_search(one);
        split.D.insert(split.D.end(), r.D.begin(), r.D.end());
        split.I.insert(split.I.end(), r.I.begin(), r.I.end());
      }
      CHECK(split == all);

      std::vector<idx_t> list_no(Index::nq * nprobe);
      std::vector<float> distance(Index::nq * nprobe);
      assign(Index::nlist, index.centroids.data(), Index::d, Index::nq, index.q.data(), nprobe,
             metric, list_no.data(), distance.data(), {2});
      SearchArgs preassigned = args;
      preassigned.coarse_list_no = list_no.data();
      CHECK(run_search(preassigned) == all);
      preassigned.centroids = nullptr;
      preassigned.coarse_score = distance.data();
      CHECK(run_search(preassigned) == all);
    }
}

TEST_CASE("search: without re-ranking D is the additive distance") {
  const Index index(Metric::L2);
  SearchArgs args = index.args(1, Index::nlist, 0, Metric::L2);
  args.weights = nullptr;
  const Result got = run_search(args);
  std::vector<float> lut(3 * 16);
  for (idx_t i = 0; i < Index::nq; ++i) {
    const float* q = &index.q[i * Index::d];
    index.tables.compute(1, q, Metric::L2, lut.data());
    float best = FLT_MAX;
    for (idx_t j = 0; j < Index::n; ++j) {
      float sum = 0;
      for (int m = 0; m < 3; ++m) sum += lut[m * 16 + index.codes[j * 3 + m]];
      const float* centroid = &index.centroids[index.list_no[j] * Index::d];
      best = std::min(best, exact_score(q, centroid, Index::d, Metric::L2) + sum + index.bias[j]);
    }
    CHECK(got.D[i] == best);
  }
}

TEST_CASE("search: padding, skipped lists and queries that are not finite") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    const float padding = metric == Metric::L2 ? FLT_MAX : -FLT_MAX;
    const idx_t k = Index::n + 5;
    const Result clean = run_search(index.args(k, Index::nlist, 10, metric));
    index.q[3 * Index::d + 2] = std::numeric_limits<float>::quiet_NaN();
    index.q[4 * Index::d] = std::numeric_limits<float>::infinity();
    const Result got = run_search(index.args(k, Index::nlist, 10, metric));
    for (idx_t i = 0; i < Index::nq; ++i)
      for (idx_t r = 0; r < k; ++r) {
        const bool bad = i == 3 || i == 4, pad = bad || r >= Index::n;
        CHECK(got.I[i * k + r] == (pad ? -1 : clean.I[i * k + r]));
        CHECK(got.D[i * k + r] == (pad ? padding : clean.D[i * k + r]));
      }

    std::vector<idx_t> none(Index::nq, -1);
    SearchArgs args = index.args(2, 1, 10, metric);
    args.coarse_list_no = none.data();
    const Result empty = run_search(args);
    for (float D : empty.D) CHECK(D == padding);
    for (idx_t I : empty.I) CHECK(I == -1);

    SearchArgs no_queries = index.args(2, 1, 10, metric);
    no_queries.n = 0;
    CHECK(run_search(no_queries).D.empty());
  }
}

TEST_CASE("search: bad arguments") {
  const Index index(Metric::L2);
  const std::vector<idx_t> beyond(Index::nq, Index::nlist);
  auto refused = [&](auto change) {
    SearchArgs args = index.args(1, 1, 1, Metric::L2);
    change(args);
    CHECK_THROWS_AS(run_search(args), CheckError);
  };
  refused([](SearchArgs& a) { a.nprobe = 0; });
  refused([](SearchArgs& a) { a.nshort = -1; });
  refused([](SearchArgs& a) { a.weights = nullptr; });
  refused([](SearchArgs& a) { a.centroids = nullptr; });
  refused([&](SearchArgs& a) { a.coarse_list_no = beyond.data(); });
  const AdditiveTables other(2, 16, Index::d, std::vector<float>(2 * 16 * Index::d).data());
  CHECK_THROWS_AS(run_search({index.lists, other, &index.weights, index.centroids.data(), nullptr,
                              nullptr, Index::nq, index.q.data(), 1, 1, 1, Metric::L2, nullptr}),
                  CheckError);
}

TEST_CASE("search: weights in bf16 choose, float32 says how far") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    SearchArgs args = index.args(3, 4, 100, metric);
    const Result exact = run_search(args);
    const QincoWeights rounded = index.model.weights(true);
    args.weights = &rounded;
    CHECK(run_search(args) == exact);  // eight more than k make up for the rounding
    CHECK(run_search(args, 3) == exact);
    SearchArgs one = args;
    one.n = 1;
    for (idx_t i = 0; i < args.n; ++i, one.q += Index::d) {
      const Result alone = run_search(one);
      CHECK(std::equal(alone.I.begin(), alone.I.end(), exact.I.begin() + i * args.k));
    }
  }
}

TEST_CASE("search: early exit drops what its margins allow, and keeps k with exact scores") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    EarlyExit early(3, 16, Index::d);
    early.add_checkpoint(0, {2.0f}, nullptr);
    early.add_checkpoint(1, {0.01f}, index.rng.floats(2 * 16 * Index::d, 0.3f).data());
    early.add_checkpoint(2, {0.01f}, index.rng.floats(1 * 16 * Index::d, 0.3f).data());
    SearchArgs args = index.args(7, 3, 60, metric);
    const Result all = run_search(args);
    args.early_exit = &early;
    const idx_t saved_before = search_stats.n_steps_saved;
    const Result some = run_search(args);
    CHECK(search_stats.n_steps_saved > saved_before);
    CHECK(run_search(args, 3) == some);
    for (idx_t i = 0; i < args.n; ++i)
      for (idx_t j = 0; j < args.k; ++j) {
        CHECK(some.I[i * 7 + j] != -1);
        for (idx_t l = 0; l < args.k; ++l)
          if (all.I[i * 7 + l] == some.I[i * 7 + j]) CHECK(all.D[i * 7 + l] == some.D[i * 7 + j]);
      }
    args.exit_margin = 1e9f;
    CHECK(run_search(args) == all);
    args.exit_margin = -1;
    CHECK_THROWS_AS(run_search(args), CheckError);
    CHECK_THROWS_AS(early.add_checkpoint(2, {0.0f}, nullptr), CheckError);
    CHECK_THROWS_AS(early.add_checkpoint(4, {0.0f}, nullptr), CheckError);
    CHECK_THROWS_AS(early.add_checkpoint(3, {}, nullptr), CheckError);
    CHECK_THROWS_AS(early.add_checkpoint(3, {1.0f, -1.0f}, nullptr), CheckError);
    const EarlyExit other(4, 16, Index::d);
    args.exit_margin = 1;
    args.early_exit = &other;
    CHECK_THROWS_AS(run_search(args), CheckError);
  }
}

TEST_CASE("search: the checkpoint of the tables is one apart, alone or before others") {
  EarlyExit with(3, 16, 4), without(3, 16, 4);
  with.add_checkpoint(0, {2.0f}, nullptr);
  CHECK_THROWS_AS(with.add_checkpoint(0, {2.0f}, nullptr), CheckError);
  CHECK(with.tables()->margin(1) == 2);
  CHECK(with.checkpoints().empty());
  for (EarlyExit* exit : {&with, &without}) {
    exit->add_checkpoint(3, {1.0f}, nullptr);
    CHECK_THROWS_AS(exit->add_checkpoint(0, {2.0f}, nullptr), CheckError);
    CHECK(exit->checkpoints().size() == 1);
  }
  CHECK(!without.tables());
  Index index(Metric::L2);
  EarlyExit alone(3, 16, Index::d);
  alone.add_checkpoint(0, {0.0f}, nullptr);
  SearchArgs args = index.args(7, 3, 60, Metric::L2);
  args.early_exit = &alone;
  search_stats.n_steps = search_stats.n_reranked = 0;
  run_search(args);
  CHECK(search_stats.n_steps == 3 * args.n * args.k);  // the nearest k of the tables
  CHECK(search_stats.n_reranked == args.n * 60);
}

TEST_CASE("search: a margin for every number of results") {
  const EarlyExit::Checkpoint c{0, {8.0f, 4.0f, 2.0f}, {}};
  CHECK(c.margin(1) == 8);
  CHECK(c.margin(3) == doctest::Approx(8 - 4 * std::log10(3.0)));
  CHECK(c.margin(10) == 4);
  CHECK(c.margin(100) == 2);
  CHECK(c.margin(5000) == 2);
}

TEST_CASE("search: a student drops what its margins allow and nothing more, the rest is exact") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    test::Model small = index.model;
    for (auto& step : small.steps)
      for (float& c : step.codebook) c *= 0.9f;
    const QincoWeights student = small.weights();
    const idx_t k = 3, n = Index::n, d = Index::d;
    auto decoded = [&](const QincoWeights& weights) {
      std::vector<float> x(n * d);
      decode(weights, n, index.list_no.data(), index.codes.data(), 3, 3, x.data(), {1});
      return x;
    };
    const std::vector<float> x = decoded(index.weights), x_student = decoded(student);
    SearchArgs args = index.args(k, Index::nlist, n, metric);
    const Result all = run_search(args);
    EarlyExit early(3, 16, d);
    early.add_checkpoint(3, {0.2f}, nullptr);
    args.early_exit = &early;
    args.student = &student;
    search_stats.n_reranked = search_stats.n_steps = search_stats.n_steps_saved = 0;
    search_stats.n_student_steps = 0;
    const Result some = run_search(args);
    CHECK(search_stats.n_student_steps == 3 * n * Index::nq);
    CHECK(search_stats.n_steps_saved > n * Index::nq);
    CHECK(search_stats.n_steps + search_stats.n_steps_saved == 3 * search_stats.n_reranked);
    for (idx_t i = 0; i < Index::nq; ++i) {
      const float* q = &index.q[i * d];
      auto score = [&](const std::vector<float>& of, idx_t j) {
        return exact_score(q, &of[j * d], d, metric);
      };
      TopK by_student(k), expected(k);
      for (idx_t j = 0; j < n; ++j) by_student.push({score(x_student, j), j, 0, 0});
      const float bound = exit_bound(by_student.sorted()[k - 1].score, 0.2f, q, d, metric);
      for (idx_t j = 0; j < n; ++j)
        if (score(x_student, j) <= bound) expected.push({score(x, j), index.ids[j], 0, 0});
      for (idx_t r = 0; r < k; ++r) {
        CHECK(some.I[i * k + r] == expected.sorted()[r].id);
        CHECK(some.D[i * k + r] ==
              (metric == Metric::L2 ? 1.0f : -1.0f) * expected.sorted()[r].score);
      }
    }
    EarlyExit more(3, 16, d);
    more.add_checkpoint(0, {2.0f}, nullptr);
    more.add_checkpoint(1, {1.0f}, index.rng.floats(2 * 16 * d, 0.3f).data());
    more.add_checkpoint(3, {0.2f}, nullptr);
    args.early_exit = &more;
    args.nshort = 60;
    const Result batch = run_search(args);
    CHECK(run_search(args, 3) == batch);
    SearchArgs one = args;
    one.n = 1;
    for (idx_t i = 0; i < Index::nq; ++i, one.q += d) {
      const Result alone = run_search(one);
      CHECK(std::equal(alone.D.begin(), alone.D.end(), batch.D.begin() + i * k));
    }
    args.nshort = n;
    args.exit_margin = 1e9f;
    CHECK(run_search(args) == all);
    const QincoWeights other = test::Model(index.rng, false, true, d, 20, 2).weights();
    args.student = &other;
    CHECK_THROWS_AS(run_search(args), CheckError);
  }
}

TEST_CASE("search: with a table of the first step, the same from fewer networks") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (bool ivf : {true, false})
      for (bool in_bf16 : {false, true}) {
        CAPTURE(ivf);
        CAPTURE(in_bf16);
        Index index(metric, ivf);
        const QincoWeights weights = index.model.weights(in_bf16);
        test::Model small = index.model;
        for (auto& step : small.steps)
          for (float& c : step.codebook) c *= 0.9f;
        const QincoWeights student = small.weights();
        const FirstStepTable table(weights, {1});
        EarlyExit early(3, 16, Index::d);
        early.add_checkpoint(0, {2.0f}, nullptr);
        // Without an IVF, one that comes before the first network.
        early.add_checkpoint(1, {0.5f}, index.rng.floats(2 * 16 * Index::d, 0.3f).data());
        early.add_checkpoint(2, {0.2f}, index.rng.floats(1 * 16 * Index::d, 0.3f).data());
        for (idx_t nshort : {9, 150})
          for (bool exit : {false, true})
            for (bool with_student : {false, true}) {
              SearchArgs args = index.args(3, 3, nshort, metric);
              args.weights = &weights;
              if (exit) args.early_exit = &early;
              if (with_student) args.student = &student;
              auto run = [&](const FirstStepTable* with) {
                args.table = with;
                search_stats.n_steps = search_stats.n_steps_saved = 0;
                return run_search(args);
              };
              const Result expected = run(nullptr);
              const idx_t n_steps = search_stats.n_steps, n_saved = search_stats.n_steps_saved;
              CHECK(run(&table) == expected);
              CHECK(search_stats.n_steps + search_stats.n_steps_saved == n_steps + n_saved);
              // In float32 at once: what is too short to be ranked in bf16, by itself or after a
              // student.
              const bool used = !in_bf16 || (exit ? !with_student : nshort == 150);
              CHECK((search_stats.n_steps < n_steps) == used);
            }
        SearchArgs args = index.args(3, 3, 9, metric);  // other weights, be they the same numbers
        args.table = &table;
        CHECK_THROWS_AS(run_search(args), CheckError);
      }
}

TEST_CASE("range search: what a search finds inside, for any thread count") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (idx_t nshort : {idx_t{0}, idx_t{Index::n}}) {
      const Index index(metric);
      const Result all = run_search(index.args(Index::n, 3, nshort, metric));
      const float radius = all.D[15];
      const auto hits = range_search(index.args(1, 3, nshort, metric), radius, {1});
      REQUIRE(hits.size() == Index::nq);
      const auto threaded = range_search(index.args(1, 3, nshort, metric), radius, {4});
      for (idx_t i = 0; i < Index::nq; ++i) {
        std::vector<std::pair<float, idx_t>> got, expected;
        for (idx_t r = 0; r < Index::n; ++r) {
          const float D = all.D[i * Index::n + r];
          if (metric == Metric::L2 ? D < radius : D > radius)
            expected.push_back({D, all.I[i * Index::n + r]});
        }
        for (std::size_t r = 0; r < hits[i].I.size(); ++r)
          got.push_back({hits[i].D[r], hits[i].I[r]});
        std::sort(got.begin(), got.end());
        std::sort(expected.begin(), expected.end());
        CHECK(got == expected);
        CHECK(threaded[i].I == hits[i].I);
        CHECK(threaded[i].D == hits[i].D);
      }
    }
}

TEST_CASE("range search: more than one batch inside, and the nshort next best decoded as well") {
  const Index index(Metric::L2);
  const float everything = std::numeric_limits<float>::infinity();
  const auto hits = range_search(index.args(1, Index::nlist, 5, Metric::L2), everything, {2});
  for (const RangeHits& hit : hits) CHECK(hit.I.size() == Index::n);
  // By their tables none is inside; the exact distance of the five decoded decides.
  const Result best = run_search(index.args(5, Index::nlist, 5, Metric::L2));
  const Result additive = run_search(index.args(1, Index::nlist, 0, Metric::L2));
  for (idx_t i = 0; i < Index::nq; ++i) {
    SearchArgs args = index.args(1, Index::nlist, 5, Metric::L2);
    args.n = 1;
    args.q += i * Index::d;
    const float radius = additive.D[i];
    idx_t n = 0;
    for (idx_t r = 0; r < 5; ++r) n += best.D[i * 5 + r] < radius;
    CHECK(static_cast<idx_t>(range_search(args, radius, {1})[0].I.size()) == n);
  }
}

TEST_CASE("search: concurrent calls do not disturb each other") {
  const Index index(Metric::L2);
  const RangeFilter range(0, Index::n * 3);
  auto run = [&](const IdFilter* filter) {
    SearchArgs args = index.args(7, 3, 30, Metric::L2);
    args.filter = filter;
    return run_search(args, 2);
  };
  const Result all = run(nullptr), some = run(&range);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i) wrong += t % 2 ? !(run(&range) == some) : !(run(nullptr) == all);
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}
