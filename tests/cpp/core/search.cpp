#include "core/search.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

#include "core/check.hpp"
#include "core/coarse.hpp"
#include "core/distance.hpp"
#include "core/qinco_decode.hpp"
#include "index.hpp"

using namespace fq;
using test::Call;
using test::Index;
using test::Result;
using test::run_search;

namespace {

// With margins for any number of results.
std::shared_ptr<EarlyExit> one_margin() {
  return std::make_shared<EarlyExit>(3, 16, Index::d, std::vector<idx_t>{1});
}

}  // namespace

TEST_CASE("search: with all lists and a full shortlist it is brute force over decoded vectors") {
  for (auto [metric, has_extra] : {std::pair{Metric::L2, false},
                                   {Metric::L2, true},
                                   {Metric::InnerProduct, false},
                                   {Metric::InnerProduct, true}}) {
    Index index(metric, true, has_extra);
    const bool adds = has_extra && metric == Metric::L2;
    const std::vector<float> x = index.decoded(*index.weights);
    const idx_t k = 10;
    for (bool filtered : {false, true}) {
      const RangeFilter range(0, Index::n * 4);
      Call args = index.call(k, Index::nlist + 3, Index::n);
      if (filtered) args.filter = &range;
      const Result got = run_search(args);
      for (idx_t i = 0; i < Index::nq; ++i) {
        TopK expected(k);
        for (idx_t j = 0; j < Index::n; ++j)
          if (!filtered || (index.ids[j] >= 0 && index.ids[j] < Index::n * 4))
            expected.push({exact_score(&index.q[i * Index::d], &x[j * Index::d], Index::d, metric) +
                               (adds ? index.extra[j] : 0),
                           index.ids[j], 0, 0});
        for (idx_t r = 0; r < k; ++r) {
          const Candidate& c = expected.sorted()[r];
          CHECK(got.I[i * k + r] == c.id);
          const float D = metric == Metric::L2 ? c.score : -c.score;
          if (has_extra)  // extras come back to within roundings
            CHECK(got.D[i * k + r] == doctest::Approx(D));
          else
            CHECK(got.D[i * k + r] == D);
        }
      }
    }
    std::vector<float> stored(Index::d);
    for (idx_t j : {0, 7, 399}) {
      index.engine->reconstruct_n(index.ids[j], 1, stored.data(), {1});
      for (idx_t c = 0; c < Index::d; ++c) CHECK(stored[c] == doctest::Approx(x[j * Index::d + c]));
    }
  }
}

TEST_CASE("search: the same for any thread count, batch split and origin of the coarse lists") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (idx_t nshort : {0, 1, 30}) {
      const Index index(metric);
      const idx_t k = 7, nprobe = 2;
      const Call args = index.call(k, nprobe, nshort);
      const Result all = run_search(args);
      for (int n_threads : {2, 5}) CHECK(run_search(args, n_threads) == all);
      Result split;
      for (idx_t i = 0; i < Index::nq; ++i) {
        Call one = args;
        one.n = 1;
        one.q += i * Index::d;
        const Result r = run_search(one);
        split.D.insert(split.D.end(), r.D.begin(), r.D.end());
        split.I.insert(split.I.end(), r.I.begin(), r.I.end());
      }
      CHECK(split == all);

      std::vector<idx_t> list_no(Index::nq * nprobe);
      std::vector<float> distance(Index::nq * nprobe);
      assign({Index::nlist, Index::d, index.centroids.data()}, Index::nq, index.q.data(), nprobe,
             metric, list_no.data(), distance.data(), {2});
      Call preassigned = args;
      preassigned.coarse_list_no = list_no.data();
      CHECK(run_search(preassigned) == all);
      preassigned.coarse_score = distance.data();
      CHECK(run_search(preassigned) == all);
    }
}

TEST_CASE("search: without re-ranking D is the additive distance") {
  const Index index(Metric::L2);
  Call args = index.call(1, Index::nlist, 0);
  Engine::Parts tables_only = index.parts();
  tables_only.weights = nullptr;
  const auto engine = index.filled(tables_only);
  args.engine = engine.get();
  const Result got = run_search(args);
  std::vector<float> lut(3 * 16), bias(Index::n);
  index.tables->bias(Index::nlist, index.centroids.data(), Index::n, index.list_no.data(),
                     index.codes.data(), bias.data(), {1});
  bias = test::rounded(bias);
  for (idx_t i = 0; i < Index::nq; ++i) {
    const float* q = &index.q[i * Index::d];
    index.tables->compute(1, q, Metric::L2, lut.data());
    float best = FLT_MAX;
    for (idx_t j = 0; j < Index::n; ++j) {
      float sum = 0;
      for (int m = 0; m < 3; ++m) sum += lut[m * 16 + index.codes[j * 3 + m]];
      const float* centroid = &index.centroids[index.list_no[j] * Index::d];
      best = std::min(best, exact_score(q, centroid, Index::d, Metric::L2) + sum + bias[j]);
    }
    CHECK(got.D[i] == best);
  }
}

TEST_CASE("search: lists are chosen by the centroids, distances are to the bases") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    const Index index(metric);
    // The bases are what the codec starts from; the centroids lie the other way round.
    std::vector<float> centroids(index.centroids.rbegin(), index.centroids.rend());
    Engine::Parts parts = index.parts();
    parts.centroids = centroids.data();
    parts.bases = index.centroids.data();
    const auto engine = index.filled(parts);
    Call args = index.call(5, 2, 0);
    Call expected = args;  // by an engine of one kind of centroids, told which lists to visit
    args.engine = engine.get();
    std::vector<idx_t> list_no(Index::nq * 2);
    std::vector<float> distance(Index::nq * 2);
    assign({Index::nlist, Index::d, centroids.data()}, Index::nq, index.q.data(), 2, metric,
           list_no.data(), distance.data(), {1});
    expected.coarse_list_no = list_no.data();
    CHECK(run_search(args) == run_search(expected));
    args.coarse_list_no = list_no.data();
    args.coarse_score = distance.data();  // to the centroids: of no use
    CHECK(run_search(args) == run_search(expected));
  }
}

TEST_CASE("search: padding, skipped lists and queries that are not finite") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    const float padding = metric == Metric::L2 ? FLT_MAX : -FLT_MAX;
    const idx_t k = Index::n + 5;
    const Result clean = run_search(index.call(k, Index::nlist, 10));
    index.q[3 * Index::d + 2] = std::numeric_limits<float>::quiet_NaN();
    index.q[4 * Index::d] = std::numeric_limits<float>::infinity();
    const Result got = run_search(index.call(k, Index::nlist, 10));
    for (idx_t i = 0; i < Index::nq; ++i)
      for (idx_t r = 0; r < k; ++r) {
        const bool bad = i == 3 || i == 4, pad = bad || r >= Index::n;
        CHECK(got.I[i * k + r] == (pad ? -1 : clean.I[i * k + r]));
        CHECK(got.D[i * k + r] == (pad ? padding : clean.D[i * k + r]));
      }

    std::vector<idx_t> none(Index::nq, -1);
    Call args = index.call(2, 1, 10);
    args.coarse_list_no = none.data();
    const Result empty = run_search(args);
    for (float D : empty.D) CHECK(D == padding);
    for (idx_t I : empty.I) CHECK(I == -1);

    Call no_queries = index.call(2, 1, 10);
    no_queries.n = 0;
    CHECK(run_search(no_queries).D.empty());
  }
}

TEST_CASE("search: bad arguments") {
  const Index index(Metric::L2);
  const std::vector<idx_t> beyond(Index::nq, Index::nlist);
  auto refused = [&](auto change) {
    Call args = index.call(1, 1, 1);
    change(args);
    CHECK_THROWS_AS(run_search(args), CheckError);
  };
  refused([](Call& a) { a.nprobe = 0; });
  refused([](Call& a) { a.nshort = -1; });
  refused([](Call& a) { a.k = 0; });
  refused([](Call& a) { a.exit_margin = -1; });
  refused([](Call& a) { a.exit_margin = std::numeric_limits<float>::quiet_NaN(); });
  refused([&](Call& a) { a.coarse_list_no = beyond.data(); });
  const std::vector<float> scores(Index::nq);
  refused([&](Call& a) { a.coarse_score = scores.data(); });
  Engine::Parts tables_only = index.parts();
  tables_only.weights = nullptr;
  const auto engine = index.filled(tables_only);
  refused([&](Call& a) { a.engine = engine.get(); });
}

TEST_CASE("search: weights in bf16 choose, float32 says how far") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    Call args = index.call(3, 4, 100);
    const Result exact = run_search(args);
    Engine::Parts rounded = index.parts();
    rounded.weights = std::make_shared<QincoWeights>(index.model.weights(true));
    const auto engine = index.filled(rounded);
    args.engine = engine.get();
    CHECK(run_search(args) == exact);  // eight more than k make up for the rounding
    CHECK(run_search(args, 3) == exact);
    Call one = args;
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
    const auto early = one_margin();
    early->add_checkpoint(0, {2.0f}, nullptr);
    early->add_checkpoint(1, {0.01f}, index.rng.floats(2 * 16 * Index::d, 0.3f).data());
    early->add_checkpoint(2, {0.01f}, index.rng.floats(1 * 16 * Index::d, 0.3f).data());
    Call args = index.call(7, 3, 60);
    const Result all = run_search(args);
    index.engine->set_ranking(early, nullptr, {});
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
    for (float margin : {1e9f, std::numeric_limits<float>::infinity()}) {
      args.exit_margin = margin;
      CHECK(run_search(args) == all);
    }
    args.exit_margin = -1;
    CHECK_THROWS_AS(run_search(args), CheckError);
  }
}

TEST_CASE("search: early exit takes the margin of the number of results") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (int n_codes : {0, 1}) {
      Index index(metric);
      const auto early = std::make_shared<EarlyExit>(3, 16, Index::d, std::vector<idx_t>{1, 10});
      const auto tail = index.rng.floats(2 * 16 * Index::d, 0.3f);
      early->add_checkpoint(n_codes, {1e9f, 0.0f}, n_codes == 0 ? nullptr : tail.data());
      index.engine->set_ranking(early, nullptr, {});
      for (idx_t k : {1, 10}) {
        const idx_t n_kept = k == 1 ? 60 : k;  // after n_codes steps
        search_stats.n_steps = 0;
        run_search(index.call(k, 3, 60));
        CHECK(search_stats.n_steps == Index::nq * (60 * n_codes + n_kept * (3 - n_codes)));
      }
    }
}

TEST_CASE("search: the checkpoint of the tables is one apart, alone or before others") {
  EarlyExit with(3, 16, 4, {1}), without(3, 16, 4, {1});
  with.add_checkpoint(0, {2.0f}, nullptr);
  CHECK_THROWS_AS(with.add_checkpoint(0, {2.0f}, nullptr), CheckError);
  CHECK(with.margin(*with.tables(), 1, 1) == 2);
  CHECK(with.checkpoints().empty());
  for (EarlyExit* exit : {&with, &without}) {
    exit->add_checkpoint(3, {1.0f}, nullptr);
    CHECK_THROWS_AS(exit->add_checkpoint(0, {2.0f}, nullptr), CheckError);
    CHECK(exit->checkpoints().size() == 1);
  }
  CHECK(!without.tables());
  Index index(Metric::L2);
  const auto alone = one_margin();
  alone->add_checkpoint(0, {0.0f}, nullptr);
  Call args = index.call(7, 3, 60);
  index.engine->set_ranking(alone, nullptr, {});
  search_stats.n_steps = search_stats.n_reranked = 0;
  run_search(args);
  CHECK(search_stats.n_steps == 3 * args.n * args.k);  // the nearest k of the tables
  CHECK(search_stats.n_reranked == args.n * 60);
}

TEST_CASE("search: a student drops what its margins allow and nothing more, the rest is exact") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    const auto student = index.student();
    const idx_t k = 3, n = Index::n, d = Index::d;
    const std::vector<float> x = index.decoded(*index.weights);
    const std::vector<float> x_student = index.decoded(*student);
    Call args = index.call(k, Index::nlist, n);
    const Result all = run_search(args);
    const auto early = one_margin();
    early->add_checkpoint(3, {0.2f}, nullptr);
    index.engine->set_ranking(early, student, {});
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
    const auto more = one_margin();
    more->add_checkpoint(0, {2.0f}, nullptr);
    more->add_checkpoint(1, {1.0f}, index.rng.floats(2 * 16 * d, 0.3f).data());
    more->add_checkpoint(3, {0.2f}, nullptr);
    index.engine->set_ranking(more, student, {});
    args.nshort = 60;
    const Result batch = run_search(args);
    CHECK(run_search(args, 3) == batch);
    Call one = args;
    one.n = 1;
    for (idx_t i = 0; i < Index::nq; ++i, one.q += d) {
      const Result alone = run_search(one);
      CHECK(std::equal(alone.D.begin(), alone.D.end(), batch.D.begin() + i * k));
    }
    args.nshort = n;
    args.exit_margin = 1e9f;
    CHECK(run_search(args) == all);
  }
}

TEST_CASE("search: with a table of the first step, the same from fewer networks") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (bool ivf : {true, false})
      for (bool in_bf16 : {false, true}) {
        CAPTURE(ivf);
        CAPTURE(in_bf16);
        Index index(metric, ivf);
        Engine::Parts parts = index.parts();
        parts.weights = std::make_shared<QincoWeights>(index.model.weights(in_bf16));
        const auto engine = index.filled(parts);
        const auto student = index.student();
        const auto early = one_margin();
        early->add_checkpoint(0, {2.0f}, nullptr);
        // Without an IVF, one that comes before the first network.
        early->add_checkpoint(1, {0.5f}, index.rng.floats(2 * 16 * Index::d, 0.3f).data());
        early->add_checkpoint(2, {0.2f}, index.rng.floats(1 * 16 * Index::d, 0.3f).data());
        for (idx_t nshort : {9, 150})
          for (bool exit : {false, true})
            for (bool with_student : {false, true}) {
              Call args = index.call(3, 3, nshort);
              args.engine = engine.get();
              engine->set_ranking(exit ? early : nullptr, with_student ? student : nullptr, {});
              auto run = [&] {
                search_stats.n_steps = search_stats.n_steps_saved = 0;
                return run_search(args);
              };
              engine->drop_table({});
              const Result expected = run();
              const idx_t n_steps = search_stats.n_steps, n_saved = search_stats.n_steps_saved;
              engine->precompute_table({2});
              CHECK(run() == expected);
              CHECK(search_stats.n_steps + search_stats.n_steps_saved == n_steps + n_saved);
              // In float32 at once: what is too short to be ranked in bf16, by itself or after a
              // student.
              const bool exits = exit && (with_student || nshort == 150);  // 9 of 3 are too few
              const bool used = !in_bf16 || (exits ? !with_student : nshort == 150);
              CHECK((search_stats.n_steps < n_steps) == used);
            }
      }
}

namespace {

std::vector<RangeHits> run_range(const Call& call, float radius, int n_threads = 1) {
  return call.engine->range_search(call, radius, {n_threads});
}

using Hits = std::vector<std::pair<float, idx_t>>;

Hits sorted(const RangeHits& hits) {
  Hits result;
  for (std::size_t r = 0; r < hits.I.size(); ++r) result.push_back({hits.D[r], hits.I[r]});
  std::sort(result.begin(), result.end());
  return result;
}

// What of a search for everything is within a radius, for a query.
Hits inside(const Result& all, idx_t query, float radius, Metric metric) {
  Hits result;
  for (idx_t r = query * Index::n; r < (query + 1) * Index::n; ++r)
    if (all.I[r] != -1 && (metric == Metric::L2 ? all.D[r] < radius : all.D[r] > radius))
      result.push_back({all.D[r], all.I[r]});
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace

TEST_CASE("range search: what a search finds inside, for any thread count") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (idx_t nshort : {idx_t{0}, idx_t{Index::n}}) {
      const Index index(metric);
      const Result all = run_search(index.call(Index::n, 3, nshort));
      const float radius = all.D[15];
      const auto hits = run_range(index.call(1, 3, nshort), radius);
      REQUIRE(hits.size() == Index::nq);
      const auto threaded = run_range(index.call(1, 3, nshort), radius, 4);
      for (idx_t i = 0; i < Index::nq; ++i) {
        CHECK(sorted(hits[i]) == inside(all, i, radius, metric));
        CHECK(sorted(threaded[i]) == sorted(hits[i]));
      }
    }
}

TEST_CASE("range search: everything, in more than one batch; and nothing") {
  for (idx_t nshort : {0, 1}) {
    const Index index(Metric::L2);
    const float everything = std::numeric_limits<float>::infinity();
    const Call call = index.call(1, Index::nlist, nshort);
    for (const RangeHits& hit : run_range(call, everything, 2)) CHECK(hit.I.size() == Index::n);
    for (float nothing : {-everything, -1.0f, std::numeric_limits<float>::quiet_NaN()})
      for (const RangeHits& hit : run_range(call, nothing)) CHECK(hit.I.empty());
  }
}

TEST_CASE("range search: margins that are not calibrated drop nobody, whatever they are times") {
  const float inf = std::numeric_limits<float>::infinity();
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (bool in_bf16 : {false, true}) {
      Index index(metric);
      const Result all = run_search(index.call(Index::n, Index::nlist, Index::n));
      const float radius = all.D[Index::n / 3];
      const std::vector<float> x = index.decoded(*index.weights);
      Engine::Parts parts = index.parts();
      parts.weights = std::make_shared<QincoWeights>(index.model.weights(in_bf16));
      const auto engine = index.filled(parts);
      Call call = index.call(1, Index::nlist, 1);
      call.engine = engine.get();
      for (bool with_student : {false, true})
        for (float a : {1.0f, inf})
          for (float b : {1.0f, inf}) {
            if (a != inf && b != inf) continue;
            const auto exit = one_margin();
            exit->add_checkpoint(0, {0.0f}, nullptr, a, b);
            exit->add_checkpoint(1, {0.0f}, index.rng.floats(2 * 16 * Index::d).data(), b, a);
            exit->add_checkpoint(3, {0.0f}, nullptr);
            engine->set_ranking(exit, with_student ? index.student() : nullptr, {});
            for (float factor : {0.0f, 1.0f, inf}) {
              call.exit_margin = factor;
              const auto hits = run_range(call, radius);
              for (idx_t i = 0; i < Index::nq; ++i) {
                Hits expected;
                for (idx_t j = 0; j < Index::n; ++j) {
                  const float s =
                      exact_score(&index.q[i * Index::d], &x[j * Index::d], Index::d, metric);
                  const float D = metric == Metric::L2 ? s : -s;
                  if (metric == Metric::L2 ? D < radius : D > radius)
                    expected.push_back({D, index.ids[j]});
                }
                std::sort(expected.begin(), expected.end());
                CHECK(sorted(hits[i]) == expected);
              }
            }
          }
      // Finite ones, times infinity.
      const auto exit = one_margin();
      exit->add_checkpoint(0, {0.0f}, nullptr, 0, 0);
      exit->add_checkpoint(2, {0.0f}, index.rng.floats(16 * Index::d).data(), 0, 0);
      engine->set_ranking(exit, nullptr, {});
      call.exit_margin = inf;
      const auto hits = run_range(call, radius);
      for (idx_t i = 0; i < Index::nq; ++i)
        CHECK(sorted(hits[i]) == inside(all, i, radius, metric));
    }
}

TEST_CASE("range search: drops what the margins allow and nothing more, the rest is exact") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (bool with_student : {false, true}) {
      Index index(metric);
      const idx_t n = Index::n, d = Index::d;
      const float sign = metric == Metric::L2 ? 1.0f : -1.0f;
      const auto student = with_student ? index.student() : nullptr;
      const std::vector<float> x = index.decoded(*index.weights);
      const std::vector<float> approximate =
          with_student ? index.decoded(*student) : std::vector<float>(x);
      const Result all = run_search(index.call(n, Index::nlist, n));
      const Result additive = run_search(index.call(n, Index::nlist, 0));
      const float radius = all.D[n / 3];
      const auto exit = one_margin();
      exit->add_checkpoint(0, {0.0f}, nullptr, 1.0f, 2.0f);
      exit->add_checkpoint(3, {0.0f}, nullptr, 0.5f, 0.25f);
      index.engine->set_ranking(exit, student, {});
      Call call = index.call(1, Index::nlist, 1);
      idx_t n_last = -1;
      for (float factor : {0.0f, 0.5f, 1.0f, 1e9f}) {
        call.exit_margin = factor;
        search_stats.n_reranked = search_stats.n_steps = search_stats.n_steps_saved = 0;
        const auto hits = run_range(call, radius);
        const auto threaded = run_range(call, radius, 3);
        if (!with_student)
          CHECK(search_stats.n_steps + search_stats.n_steps_saved == 3 * search_stats.n_reranked);
        idx_t n_hits = 0;
        for (idx_t i = 0; i < Index::nq; ++i) {
          const float* q = &index.q[i * d];
          float size = std::sqrt(std::max(radius, 0.0f));
          if (metric == Metric::InnerProduct) size = std::sqrt(-exact_score(q, q, d, metric));
          Hits expected;
          for (idx_t j = 0; j < n; ++j) {
            const auto at = std::find(&additive.I[i * n], &additive.I[i * n] + n, index.ids[j]);
            const float by_tables = sign * additive.D[at - additive.I.data()];
            if (by_tables > sign * radius + factor * std::max(1.0f, 2.0f * size)) continue;
            if (exact_score(q, &approximate[j * d], d, metric) >
                sign * radius + factor * std::max(0.5f, 0.25f * size))
              continue;
            const float score = exact_score(q, &x[j * d], d, metric);
            if (score < sign * radius) expected.push_back({sign * score, index.ids[j]});
          }
          std::sort(expected.begin(), expected.end());
          CHECK(sorted(hits[i]) == expected);
          CHECK(sorted(threaded[i]) == expected);
          n_hits += static_cast<idx_t>(expected.size());
        }
        CHECK(n_hits > n_last);  // every step lets more through
        n_last = n_hits;
      }
      idx_t n_all = 0;
      for (idx_t i = 0; i < Index::nq; ++i)
        n_all += static_cast<idx_t>(inside(all, i, radius, metric).size());
      CHECK(n_last == n_all);
    }
}

TEST_CASE("range search: a table of the first step changes nothing") {
  Index index(Metric::L2);
  const auto exit = one_margin();
  exit->add_checkpoint(0, {0.0f}, nullptr, 1.0f, 1.0f);
  exit->add_checkpoint(2, {0.0f}, index.rng.floats(16 * Index::d, 0.3f).data(), 1.0f, 1.0f);
  index.engine->set_ranking(exit, nullptr, {});
  const Call call = index.call(1, Index::nlist, 1);
  const float radius = run_search(index.call(50, Index::nlist, Index::n)).D[49];
  const auto without = run_range(call, radius);
  index.engine->precompute_table({});
  const auto with = run_range(call, radius);
  for (idx_t i = 0; i < Index::nq; ++i) CHECK(sorted(with[i]) == sorted(without[i]));
}

TEST_CASE("range search: it ends after max_codes selected codes, or with the list they are in") {
  for (idx_t nshort : {0, 1})
    for (bool whole_lists : {false, true})
      for (idx_t max_codes : {1, 50, 150, 1000}) {
        const Index index(Metric::L2);
        const RangeFilter even(0, Index::n * 4);
        Call call = index.call(Index::n, Index::nlist, nshort ? Index::n : 0);
        call.filter = &even;
        call.limits = {max_codes, whole_lists};
        const Result all = run_search(call);
        const float radius = std::numeric_limits<float>::infinity();
        const auto hits = run_range(call, radius);
        for (idx_t i = 0; i < Index::nq; ++i) {
          CHECK(sorted(hits[i]) == inside(all, i, radius, Metric::L2));
          if (!whole_lists) CHECK(static_cast<idx_t>(hits[i].I.size()) <= max_codes);
        }
      }
}

TEST_CASE("search: for min_codes it goes on as if nprobe were as many lists as that takes") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (bool own_bases : {false, true}) {
      const Index index(metric);
      std::vector<float> centroids(index.centroids);
      if (own_bases) std::reverse(centroids.begin(), centroids.end());
      Engine::Parts parts = index.parts();
      parts.centroids = centroids.data();
      parts.bases = own_bases ? index.centroids.data() : nullptr;
      const auto engine = index.filled(parts);
      const RangeFilter few(0, Index::n), none(-2, -1);
      std::vector<idx_t> order(Index::nq * Index::nlist), given(Index::nq * 2);
      std::vector<float> distance(Index::nq * Index::nlist);
      assign({Index::nlist, Index::d, centroids.data()}, Index::nq, index.q.data(), Index::nlist,
             metric, order.data(), distance.data(), {1});
      for (idx_t i = 0; i < Index::nq; ++i) std::copy_n(&order[i * Index::nlist], 2, &given[i * 2]);
      for (const IdFilter* filter :
           {static_cast<const IdFilter*>(nullptr), static_cast<const IdFilter*>(&few),
            static_cast<const IdFilter*>(&none)})
        for (idx_t min_codes : {1, 20, 120, 250, 1 << 30})
          for (idx_t nshort : {0, 30})
            for (bool lists_given : {false, true}) {
              Call call = index.call(7, 2, nshort);
              call.engine = engine.get();
              call.filter = filter;
              call.limits.min_codes = min_codes;
              if (lists_given) call.coarse_list_no = given.data();
              search_stats.nlist = search_stats.ndis = 0;
              const Result got = run_search(call);
              const idx_t n_lists = search_stats.nlist, n_codes = search_stats.ndis;
              CHECK(run_search(call, 3) == got);
              const float radius = metric == Metric::L2 ? 30.0f : -5.0f;
              const auto hits = run_range(call, radius);

              idx_t all_lists = 0, all_codes = 0;
              for (idx_t i = 0; i < Index::nq; ++i) {
                idx_t nprobe = 0, n = 0;  // what it takes
                for (; nprobe < Index::nlist && (nprobe < 2 || n < min_codes); ++nprobe) {
                  const idx_t l = order[i * Index::nlist + nprobe];
                  idx_t size = 0;
                  for (idx_t j = 0; j < Index::n; ++j)
                    if (index.list_no[j] == l) {
                      ++size;
                      n += !filter || filter->accepts(index.ids[j]);
                    }
                  all_lists += size > 0;
                }
                all_codes += n;
                Call one = call;
                one.n = 1;
                one.q += i * Index::d;
                one.nprobe = nprobe;
                one.limits = {};
                one.coarse_list_no = nullptr;
                const Result expected = run_search(one);
                CHECK(std::equal(expected.D.begin(), expected.D.end(), got.D.begin() + i * 7));
                CHECK(std::equal(expected.I.begin(), expected.I.end(), got.I.begin() + i * 7));
                CHECK(sorted(run_range(one, radius)[0]) == sorted(hits[i]));
              }
              CHECK(n_lists == all_lists);
              CHECK(n_codes == all_codes);
            }
    }
}

TEST_CASE("search: concurrent calls do not disturb each other") {
  const Index index(Metric::L2);
  const RangeFilter range(0, Index::n * 3);
  auto run = [&](const IdFilter* filter) {
    Call args = index.call(7, 3, 30);
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
