#include "core/rate.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "index.hpp"

using namespace fq;
using test::Call;
using test::Index;
using test::Result;
using test::run_search;

namespace {

// An index, tables for the first codes of it, and an engine of these codes alone.
struct Pair : Index {
  int m;
  std::shared_ptr<AdditiveTables> first_tables;
  std::shared_ptr<const QincoWeights> first_weights;

  Pair(int m_, Metric of, bool ivf = true, bool has_extra_ = false)
      : Index(of, ivf, has_extra_),
        m(m_),
        first_tables(std::make_shared<AdditiveTables>(m, 16, d, rng.floats(m * 16 * d).data())) {
    test::Model first = model;
    first.steps.resize(static_cast<std::size_t>(ivf ? m : m - 1));
    first.n_steps = static_cast<int>(first.steps.size());
    first_weights = std::make_shared<QincoWeights>(first.weights());
  }

  void add_to(Engine& to, idx_t begin, idx_t end) const {
    std::vector<std::uint8_t> cut;
    for (idx_t i = begin; i < end; ++i)
      cut.insert(cut.end(), &codes[i * 3], &codes[i * 3] + to.M());
    to.add(end - begin, &list_no[begin], cut.data(), &extra[begin], &ids[begin], {1});
  }
  std::shared_ptr<Engine> cut() const {
    Engine::Parts from = parts();
    from.M = m;
    from.tables = first_tables;
    from.weights = first_weights;
    return std::make_shared<Engine>(from);
  }
  Call first_call(idx_t nshort) const {
    Call call = this->call(7, 3, nshort);
    call.n_codes = m;
    return call;
  }
};

// All that can be asked of a search by the first codes of one, and of the other.
void check_same(const Engine& rated, const Engine& cut, Call call) {
  const auto extras_of = [&](idx_t n) { return rated.has_extra() ? n : 0; };
  for (idx_t nshort : {0, 7, 60}) {
    call.nshort = nshort;
    Call whole = call;
    whole.n_codes = 0;
    whole.engine = &cut;
    call.engine = &rated;
    const Result expected = run_search(whole), got = run_search(call, 3);
    CHECK(got.I == expected.I);
    for (std::size_t i = 0; i < got.D.size(); ++i)
      CHECK(got.D[i] == doctest::Approx(expected.D[i]).epsilon(1e-5));
    if (!rated.has_extra()) CHECK(got == expected);

    const float radius = expected.D[static_cast<std::size_t>(call.k) - 2] + 1e-3f;
    const auto hits = rated.range_search(call, radius, {2});
    const auto expected_hits = cut.range_search(whole, radius, {1});
    std::size_t n_hits = 0;
    for (std::size_t i = 0; i < hits.size(); ++i) {
      CHECK(hits[i].I == expected_hits[i].I);
      n_hits += hits[i].I.size();
    }
    CHECK(n_hits > 0);
  }
  // The codes behind the results.
  call.nshort = 0;
  const auto n = static_cast<std::size_t>(call.n * call.k);
  const auto m = static_cast<std::size_t>(call.n_codes);
  const auto found = [&](const Engine& engine, int n_codes) {
    call.n_codes = n_codes;
    std::vector<float> D(n), length(static_cast<std::size_t>(extras_of(call.n)) * call.k);
    std::vector<idx_t> I(n), list_no(n);
    std::vector<std::uint8_t> codes(n * m);
    engine.search(call, call.k, D.data(), I.data(), {1},
                  {list_no.data(), nullptr, codes.data(), length.data()});
    return std::tuple{I, list_no, codes, length};
  };
  const auto expected = found(cut, 0), got = found(rated, static_cast<int>(m));
  CHECK(std::get<0>(got) == std::get<0>(expected));
  CHECK(std::get<1>(got) == std::get<1>(expected));
  CHECK(std::get<2>(got) == std::get<2>(expected));
  for (std::size_t i = 0; i < std::get<3>(got).size(); ++i)
    CHECK(std::get<3>(got)[i] == doctest::Approx(std::get<3>(expected)[i]));
}

}  // namespace

TEST_CASE("rate: a search by the first codes is one of an engine of these codes") {
  for (int m : {1, 2})
    for (bool ivf : {true, false})
      for (auto [metric, has_extra] : {std::pair{Metric::L2, false},
                                       {Metric::L2, true},
                                       {Metric::InnerProduct, false},
                                       {Metric::InnerProduct, true}}) {
        Pair index(m, metric, ivf, has_extra);
        Engine& engine = *index.engine;
        const Result before = run_search(index.call(7, 3, 60));
        CHECK_THROWS_AS(run_search(index.first_call(0)), StateError);
        CHECK(engine.rate_fitted(m) == -1);
        CHECK(engine.rates_nbytes() == 0);
        const auto cut = index.cut();
        index.add_to(*cut, 0, Index::n);
        engine.set_rate(index.first_tables, 123, {2});
        CHECK(engine.rate_fitted(m) == 123);
        const std::size_t bias = metric == Metric::L2 || has_extra ? Index::n * kBiasBytes : 0;
        CHECK(engine.rates_nbytes() >= bias + index.first_tables->nbytes());
        check_same(engine, *cut, index.first_call(0));

        // Neither margins nor a student, which are those of whole codes, have a part in it; the
        // table of the first step has.
        const auto exit = std::make_shared<EarlyExit>(3, 16, Index::d, std::vector<idx_t>{1});
        exit->add_checkpoint(0, {0.0f}, nullptr, 0.0f, 0.0f);
        engine.set_ranking(exit, index.student(), {});
        if (ivf || m > 1) engine.precompute_table({});
        check_same(engine, *cut, index.first_call(0));
        engine.set_ranking(nullptr, nullptr, {});

        // What is added later has what it needs too, one by one and many at once.
        index.add_to(engine, 0, 1);
        index.add_to(engine, 1, Index::n);
        index.add_to(*cut, 0, Index::n);
        check_same(engine, *cut, index.first_call(0));

        engine.reset({});
        cut->reset({});
        CHECK(engine.rate_fitted(m) == 0);
        CHECK(run_search(index.first_call(60)).I == std::vector<idx_t>(Index::nq * 7, -1));
        index.add_to(engine, 0, Index::n);
        index.add_to(*cut, 0, Index::n);
        check_same(engine, *cut, index.first_call(0));
        CHECK(run_search(index.call(7, 3, 60)) == before);
      }
}

TEST_CASE("rate: tables that do not fit, and changes inside a reading, are refused") {
  Pair index(2, Metric::L2);
  Engine& engine = *index.engine;
  const auto tables = [&](int M, int K, idx_t d) {
    return std::make_shared<AdditiveTables>(M, K, d, std::vector<float>(9 * 32 * 32).data());
  };
  for (const auto& wrong : {tables(3, 16, Index::d), tables(2, 32, Index::d), tables(2, 16, 11)})
    CHECK_THROWS_AS(engine.set_rate(wrong, 1, {}), CheckError);
  CHECK_THROWS_AS(engine.set_rate(nullptr, 1, {}), CheckError);
  CHECK_THROWS_AS(engine.set_rate(index.first_tables, -1, {}), CheckError);
  CHECK(engine.lock().may_write());
  {
    const SharedLock::Reading reading(engine.lock(), {});
    CHECK(!engine.lock().may_write());
    CHECK_THROWS_AS(engine.set_rate(index.first_tables, 1, {}), StateError);
    std::thread([&] {  // and one that waits can be interrupted
      CHECK_THROWS_AS(engine.set_rate(index.first_tables, 1, {1, [] { return true; }}),
                      Interrupted);
    })
        .join();
  }
  CHECK(engine.rate_fitted(2) == -1);
  Call call = index.first_call(20);
  for (int n_codes : {-1, 4}) {
    call.n_codes = n_codes;
    CHECK_THROWS_AS(run_search(call), CheckError);
    CHECK_THROWS_AS(engine.range_search(call, 1, {}), CheckError);
  }

  // An add that is refused leaves no bias behind, and an import no rate.
  engine.set_rate(index.first_tables, 1, {});
  const Result before = run_search(index.first_call(20));
  std::vector<idx_t> list_no(index.list_no);
  list_no.back() = Index::nlist;
  CHECK_THROWS_AS(engine.add(Index::n, list_no.data(), index.codes.data(), nullptr, nullptr, {}),
                  CheckError);
  CHECK(run_search(index.first_call(20)) == before);
  const std::vector<idx_t> none(Index::nlist);
  engine.import_from(none.data(), 0, {}, 0, {});
  CHECK(engine.rate_fitted(2) == -1);
}

TEST_CASE("rate: made beside adds, resets and searches, it has what is stored") {
  for (const bool resets : {false, true}) {
    Pair index(2, Metric::L2);
    Engine& engine = *index.engine;
    const auto other =
        std::make_shared<AdditiveTables>(2, 16, Index::d, index.rng.floats(32 * Index::d).data());
    engine.set_rate(other, 0, {});
    std::atomic<int> running{2}, wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 2; ++t)
      threads.emplace_back([&] {
        for (idx_t i = 0; i < 40; ++i) {
          index.add_to(engine, 10 * i, 10 * i + 10);
          if (resets && i == 20) engine.reset({});
        }
        --running;
      });
    threads.emplace_back([&] {
      do engine.set_rate(index.first_tables, 1, {1});
      while (running > 0);
    });
    threads.emplace_back([&] {
      while (running > 0) {
        const Result result = run_search(index.first_call(20));
        for (std::size_t i = 0; i < result.I.size(); ++i) wrong += result.I[i] < -100;
      }
    });
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
    const Result expected = run_search(index.first_call(20));
    Engine fresh(index.parts());  // the same entries, and their biases made at once
    std::vector<idx_t> sizes;
    for (idx_t l = 0; l < Index::nlist; ++l) sizes.push_back(engine.lists().list(l).size());
    const idx_t n = engine.lists().ntotal();
    fresh.import_from(sizes.data(), n,
                      [&](idx_t first, idx_t m, std::uint8_t* codes, float* bias, idx_t* ids) {
                        engine.lists().export_codes(first, m, codes);
                        engine.lists().export_bias(first, m, bias);
                        engine.lists().export_ids(first, m, ids);
                      },
                      engine.ntotal(), {});
    fresh.set_rate(index.first_tables, 1, {1});
    Call call = index.first_call(20);
    call.engine = &fresh;
    CHECK(run_search(call) == expected);
  }
}

TEST_CASE("rate: made while adds put lists in another order all the time") {
  Pair index(2, Metric::L2, true, false);
  Engine& engine = *index.engine;
  std::atomic<bool> done{false};
  std::thread adding([&] {
    test::Rng rng;
    while (!done) {
      std::vector<idx_t> ids;
      for (idx_t i = 0; i < Index::n; ++i) ids.push_back(rng.integer(0, idx_t{1} << 40));
      engine.add(Index::n, index.list_no.data(), index.codes.data(), index.extra.data(), ids.data(),
                 {});
      if (engine.ntotal() > 100 * Index::n) engine.reset({});
    }
  });
  engine.set_rate(index.first_tables, 1, {});
  done = true;
  adding.join();
  CHECK(engine.rate_fitted(2) >= 0);
}

TEST_CASE("rate: what is removed and merged takes what stands beside it along") {
  for (auto [metric, has_extra] : {std::pair{Metric::L2, false},
                                   {Metric::L2, true},
                                   {Metric::InnerProduct, true},
                                   {Metric::InnerProduct, false}}) {
    Pair index(2, metric, true, has_extra);
    Engine& engine = *index.engine;
    const auto cut = index.cut();
    index.add_to(*cut, 0, Index::n);
    engine.set_rate(index.first_tables, 10, {});
    const auto filter = [](idx_t first, idx_t step) {
      std::vector<idx_t> ids;
      for (idx_t i = first; i < Index::n; i += step) ids.push_back(i);
      return ids;
    };
    const std::vector<idx_t> some = filter(0, 3);
    std::vector<idx_t> ids;
    for (const idx_t i : some) ids.push_back(index.ids[static_cast<std::size_t>(i)]);
    const auto n_removed = static_cast<idx_t>(ids.size());
    CHECK(engine.remove(n_removed, ids.data(), {2}) == n_removed);
    CHECK(cut->remove(n_removed, ids.data(), {1}) == n_removed);
    check_same(engine, *cut, index.first_call(0));

    Engine other(index.parts());
    const auto other_cut = index.cut();
    index.add_to(other, 0, Index::n / 2);
    index.add_to(*other_cut, 0, Index::n / 2);
    other.set_rate(index.first_tables, 10, {});
    engine.merge_from(other, 1000, {});
    cut->merge_from(*other_cut, 1000, {});
    check_same(engine, *cut, index.first_call(0));
    CHECK(other.rate_fitted(2) == 0);  // that of nothing stored
    index.add_to(other, 0, Index::n);
    index.add_to(*other_cut, 0, Index::n);
    check_same(other, *other_cut, index.first_call(0));
  }
}
