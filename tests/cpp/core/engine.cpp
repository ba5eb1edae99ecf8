#include "core/engine.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <thread>

#include "core/check.hpp"
#include "core/coarse.hpp"
#include "core/parallel.hpp"
#include "core/qinco_encode.hpp"
#include "index.hpp"

using namespace fq;
using test::Call;
using test::Index;
using test::Result;
using test::run_search;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int A = 8, B = 4;

struct Contents {
  std::vector<idx_t> sizes, ids;
  std::vector<std::uint8_t> codes;
  std::vector<float> bias;
  idx_t ntotal;
  bool operator==(const Contents&) const = default;
};

Contents contents(const Engine& engine) {
  const SharedLock::Reading reading(engine.lock(), {});
  const InvertedLists& lists = engine.lists();
  const auto n = static_cast<std::size_t>(lists.ntotal());
  Contents c{{}, {}, {}, {}, engine.ntotal()};
  for (idx_t l = 0; l < lists.nlist(); ++l) c.sizes.push_back(lists.list(l).size());
  c.ids.resize(n);
  c.bias.resize(n);
  c.codes.resize(n * static_cast<std::size_t>(engine.code_size()));
  lists.export_codes(0, lists.ntotal(), c.codes.data());
  lists.export_bias(0, lists.ntotal(), c.bias.data());
  lists.export_ids(0, lists.ntotal(), c.ids.data());
  return c;
}

void put(Engine& engine, const Contents& c) {
  const auto rows = [&](idx_t first, idx_t n, std::uint8_t* codes, float* bias, idx_t* ids) {
    std::copy_n(&c.codes[static_cast<std::size_t>(first * engine.code_size())],
                n * engine.code_size(), codes);
    std::copy_n(&c.bias[static_cast<std::size_t>(first)], n, bias);
    std::copy_n(&c.ids[static_cast<std::size_t>(first)], n, ids);
  };
  engine.import_from(c.sizes.data(), static_cast<idx_t>(c.ids.size()), rows, c.ntotal, {});
}

// Vectors near the centroids, some of which cannot be stored.
std::vector<float> vectors(Index& index, idx_t n, bool some_bad = true) {
  std::vector<float> x = index.rng.floats(n * Index::d, 2);
  if (some_bad)
    for (idx_t i = 3; i < n; i += 10)
      x[i * Index::d + i % Index::d] = i % 3 == 0 ? kNaN : i % 3 == 1 ? -kInf : 3e19f;
  return x;
}

bool is_bad(idx_t i) { return i % 10 == 3; }

}  // namespace

TEST_CASE("engine: the parts fit together and are finite, or they are refused") {
  Index index(Metric::L2);
  const std::vector<float> zeros(4 * 16 * Index::d);
  auto refused = [&](auto change) {
    Engine::Parts parts = index.parts();
    change(parts);
    CHECK_THROWS_AS(Engine{parts}, CheckError);
  };
  using Parts = Engine::Parts;
  auto tables = [&](int M, idx_t d) {
    return std::make_shared<AdditiveTables>(M, 16, d, zeros.data());
  };
  auto weights = [&](const test::Model& model) {
    return std::make_shared<QincoWeights>(model.weights());
  };
  refused([&](Parts& p) { p.nlist = 0; });
  refused([&](Parts& p) { p.M = 4; });
  refused([&](Parts& p) { p.nbits = 5; });
  refused([&](Parts& p) { p.tables = nullptr; });
  refused([&](Parts& p) { p.tables = tables(2, Index::d); });
  refused([&](Parts& p) { p.tables = tables(3, Index::d - 1); });  // than of the weights
  refused([&](Parts& p) { p.weights = weights({index.rng, true, true, 12, 20, 2}); });
  refused([&](Parts& p) { p.weights = weights({index.rng, true, true, 12, 20, 3, 5}); });
  refused([&](Parts& p) { p.weights = weights({index.rng, true, true, 12, 20, 3, 4, 6}); });
  refused([&](Parts& p) { p.weights = weights({index.rng, true, true, 11, 20, 3}); });
  const auto other_exit = std::make_shared<EarlyExit>(4, 16, Index::d, std::vector<idx_t>{1});
  const auto other_student = weights({index.rng, false, true, 12, 20, 2});
  refused([&](Parts& p) { p.early_exit = other_exit; });
  refused([&](Parts& p) { p.student = other_student; });
  refused([&](Parts& p) { p.student = p.weights, p.weights = nullptr; });
  CHECK_THROWS_AS(index.engine->set_ranking(other_exit, nullptr, {}), CheckError);
  CHECK_THROWS_AS(index.engine->set_ranking(nullptr, other_student, {}), CheckError);

  for (float bad : {kNaN, kInf}) {
    std::vector<float> centroids = index.centroids, codebooks = zeros;
    centroids.back() = bad;
    refused([&](Parts& p) { p.centroids = centroids.data(); });
    codebooks[5] = bad;
    CHECK_THROWS_WITH_AS(AdditiveTables(3, 16, Index::d, codebooks.data()),
                         "codebooks: expected finite values", CheckError);
    auto spoiled = [&](auto member) {
      test::Model model = index.model;
      member(model).back() = bad;
      CHECK_THROWS_AS(model.weights(), CheckError);
    };
    spoiled([](test::Model& m) -> auto& { return m.mean; });
    spoiled([](test::Model& m) -> auto& { return m.base; });
    for (auto part :
         {&test::Model::Step::codebook, &test::Model::Step::in, &test::Model::Step::concat,
          &test::Model::Step::bias, &test::Model::Step::up, &test::Model::Step::down,
          &test::Model::Step::out, &test::Model::Step::preselect})
      spoiled([&](test::Model& m) -> auto& { return m.steps[0].*part; });
  }
}

TEST_CASE("engine: it keeps its parts") {
  Result expected, got;
  std::shared_ptr<Engine> engine;
  std::vector<float> q;
  {
    Index index(Metric::L2);
    const auto exit = std::make_shared<EarlyExit>(3, 16, Index::d, std::vector<idx_t>{1});
    exit->add_checkpoint(0, {2.0f}, nullptr);
    index.engine->set_ranking(exit, index.student(), {});
    index.engine->precompute_table({});
    CHECK(index.engine->table_nbytes() == Index::nlist * 16 * 16 * 4);
    expected = run_search(index.call(5, 3, 40));
    engine = index.engine;
    q = index.q;
  }
  Call call{{Index::nq, q.data()}, engine.get(), 5};
  call.nprobe = 3;
  call.nshort = 40;
  CHECK(run_search(call) == expected);
  engine->drop_table({});
  CHECK(engine->table_nbytes() == 0);
  CHECK(run_search(call) == expected);
}

TEST_CASE("engine: encodes what can be stored as the encoder does, in lists by its own metric") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (bool ivf : {true, false})
      for (bool some_bad : {false, true}) {
        Index index(metric, ivf);
        const idx_t n = 9000, d = Index::d;  // more than a block
        const std::vector<float> x = vectors(index, n, some_bad);
        std::vector<idx_t> list_no(n), expected_list(n);
        std::vector<float> distance(n);
        std::vector<std::uint8_t> codes(n * 3), expected(3);
        index.engine->encode(n, x.data(), nullptr, A, B, 0, list_no.data(), codes.data(), {2});
        assign({Index::nlist, d, index.centroids.data()}, n, x.data(), 1, metric,
               expected_list.data(), distance.data(), {1});
        for (idx_t i = 0; i < n; i += i < 100 ? 1 : 97) {
          if (some_bad && is_bad(i)) {
            CHECK(list_no[i] == -1);
            for (int m = 0; m < 3; ++m) CHECK(codes[i * 3 + m] == 0);
            continue;
          }
          CHECK(list_no[i] == expected_list[i]);
          encode(*index.weights, 1, &x[i * d], ivf ? &list_no[i] : nullptr, A, B, nullptr,
                 expected.data(), {1});
          CHECK(std::equal(expected.begin(), expected.end(), &codes[i * 3]));
        }
      }
}

void add(Engine& engine, idx_t n, const float* x, const idx_t* ids, const idx_t* chosen, int a,
         int b, const Execution& run) {
  std::vector<idx_t> list_no(static_cast<std::size_t>(n));
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * engine.M()));
  engine.encode(n, x, chosen, a, b, 0, list_no.data(), codes.data(), run);
  engine.add(n, list_no.data(), codes.data(), nullptr, ids, run);
}

TEST_CASE("engine: every row takes a number, and those that can be are stored") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct}) {
    Index index(metric);
    const idx_t n = 200;
    const std::vector<float> x = vectors(index, n);
    std::vector<idx_t> chosen, ids, list_no(n);
    for (idx_t i = 0; i < n; ++i) {
      chosen.push_back(i % 7 - 1 < Index::nlist ? i % 7 - 1 : 2);
      ids.push_back(5000 - i);
    }
    std::vector<std::uint8_t> codes(n * 3);
    for (bool with_lists : {false, true})
      for (bool with_ids : {false, true}) {
        const idx_t* lists_given = with_lists ? chosen.data() : nullptr;
        const idx_t* ids_given = with_ids ? ids.data() : nullptr;
        Engine one(index.parts()), other(index.parts());
        for (int times = 0; times < 2; ++times) {
          add(one, n, x.data(), ids_given, lists_given, A, B, {2});
          other.encode(n, x.data(), lists_given, A, B, 0, list_no.data(), codes.data(), {1});
          other.add(n, list_no.data(), codes.data(), nullptr, ids_given, {1});
        }
        CHECK(contents(one) == contents(other));
        CHECK(one.ntotal() == 2 * n);
        const Contents c = contents(one);
        std::set<idx_t> found(c.ids.begin(), c.ids.end());
        idx_t n_stored = 0;
        for (idx_t i = 0; i < n; ++i) {
          const bool stored = !is_bad(i) && !(with_lists && chosen[i] == -1);
          n_stored += stored;
          CHECK(found.count(with_ids ? ids[i] : i) == stored);
          CHECK(found.count(with_ids ? ids[i] : n + i) == stored);
          CHECK((list_no[i] == -1) == !stored);
        }
        CHECK(static_cast<idx_t>(c.ids.size()) == 2 * n_stored);
        if (metric == Metric::InnerProduct)
          for (float bias : c.bias) CHECK(bias == 0);
      }
  }
}

TEST_CASE("engine: what is refused, interrupted or cannot be encoded leaves nothing") {
  Index index(Metric::L2);
  Engine& engine = *index.engine;
  const Contents before = contents(engine);
  const idx_t n = 20000;
  const std::vector<float> x = vectors(index, n);
  std::vector<idx_t> list_no(n, 0);
  std::vector<std::uint8_t> codes(n * 3);
  CHECK_THROWS_AS(add(engine, n, x.data(), nullptr, nullptr, A, 0, {2}), CheckError);
  CHECK_THROWS_AS(add(engine, n, x.data(), nullptr, nullptr, A, 1 << 25, {2}), CheckError);
  CHECK_THROWS_AS(add(engine, n, x.data(), nullptr, nullptr, 17, B, {2}), CheckError);
  list_no[n - 1] = Index::nlist;
  CHECK_THROWS_AS(add(engine, n, x.data(), nullptr, list_no.data(), A, B, {2}), CheckError);
  CHECK_THROWS_AS(engine.add(n, list_no.data(), codes.data(), nullptr, nullptr, {2}), CheckError);
  list_no[n - 1] = 0;
  codes[3 * n - 1] = 16;
  CHECK_THROWS_WITH_AS(engine.add(n, list_no.data(), codes.data(), nullptr, nullptr, {2}),
                       "codes[19999, 2]: expected below 16, got 16", CheckError);
  CHECK_THROWS_AS(add(engine, n, x.data(), nullptr, nullptr, 16, 16, {2, [] { return true; }}),
                  Interrupted);
  {  // and while it waits
    const SharedLock::Reading reading(engine.lock(), {});
    std::thread([&] {
      CHECK_THROWS_AS(add(engine, 10, x.data(), nullptr, nullptr, A, B, {1, [] { return true; }}),
                      Interrupted);
    }).join();
  }
  CHECK(contents(engine) == before);

  Engine::Parts tables_only = index.parts();
  tables_only.weights = nullptr;
  Engine without(tables_only);
  CHECK_THROWS_AS(add(without, 1, x.data(), nullptr, nullptr, A, B, {}), StateError);
  CHECK_THROWS_AS(without.precompute_table({}), StateError);
  float out[Index::d];
  CHECK_THROWS_AS(without.reconstruct_n(0, 1, out, {}), StateError);
  CHECK(contents(without).ntotal == 0);
}

TEST_CASE("engine: what was exported can be imported, and nothing else") {
  Index index(Metric::L2);
  const Contents c = contents(*index.engine);
  Engine copy(index.parts());
  put(copy, c);
  CHECK(contents(copy) == c);
  Call call = index.call(5, 3, 40);
  const Result expected = run_search(call);
  call.engine = &copy;
  CHECK(run_search(call) == expected);
  auto refused = [&](auto change) {
    Contents bad = c;
    change(bad);
    CHECK_THROWS_AS(put(copy, bad), CheckError);
    CHECK(contents(copy) == c);
  };
  refused([](Contents& bad) { --bad.sizes[1]; });
  refused([](Contents& bad) { bad.ntotal = Index::n - 1; });
  refused([](Contents& bad) { bad.ntotal = std::numeric_limits<idx_t>::max(); });
  Contents more = c;
  more.ntotal = idx_t{1} << 31;
  put(copy, more);
  CHECK(copy.ntotal() == more.ntotal);
  copy.reset({});
  CHECK(copy.ntotal() == 0);
  CHECK(contents(copy).ids.empty());
}

TEST_CASE("engine: reconstructs by its direct map, and without one") {
  Index index(Metric::L2);
  Engine engine(index.parts());
  const idx_t n = 100, d = Index::d;
  const std::vector<float> x = vectors(index, n);
  std::vector<float> one(d), without(n * d), with(n * d);
  CHECK_THROWS_AS(engine.reconstruct(0, one.data(), {}), StateError);
  add(engine, n / 2, x.data(), nullptr, nullptr, A, B, {});
  engine.make_direct_map({});
  CHECK(engine.has_direct_map());
  add(engine, n / 2, &x[n / 2 * d], nullptr, nullptr, A, B, {});
  engine.reconstruct_n(0, n, with.data(), {2});
  for (idx_t i = 0; i < n; ++i) {
    if (is_bad(i)) {
      CHECK_THROWS_AS(engine.reconstruct(i, one.data(), {}), StateError);
      CHECK(std::isnan(with[i * d]));
      continue;
    }
    engine.reconstruct(i, one.data(), {});
    CHECK(std::equal(one.begin(), one.end(), &with[i * d]));
  }
  for (idx_t id : {idx_t{-1}, n, idx_t{1} << 40})
    CHECK_THROWS_AS(engine.reconstruct(id, one.data(), {}), StateError);
  CHECK_THROWS_AS(engine.reconstruct_n(0, -1, one.data(), {}), CheckError);
  CHECK_THROWS_AS(engine.reconstruct_n(std::numeric_limits<idx_t>::max(), 1, one.data(), {}),
                  CheckError);

  const Contents c = contents(engine);
  engine.clear_direct_map({});
  CHECK(!engine.has_direct_map());
  engine.reconstruct_n(0, n, without.data(), {});
  CHECK(std::equal(with.begin(), with.end(), without.begin(),
                   [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }));
  put(engine, c);
  engine.make_direct_map({});
  engine.reconstruct(n - 1, one.data(), {});
  CHECK(std::equal(one.begin(), one.end(), &with[(n - 1) * d]));
  engine.reset({});
  CHECK(engine.has_direct_map());
  CHECK_THROWS_AS(engine.reconstruct(0, one.data(), {}), StateError);
  add(engine, 1, x.data(), nullptr, nullptr, A, B, {});
  engine.reconstruct(0, one.data(), {});
  CHECK(std::equal(one.begin(), one.end(), with.begin()));
  put(engine, c);
  engine.reconstruct(n - 1, one.data(), {});
  CHECK(std::equal(one.begin(), one.end(), &with[(n - 1) * d]));
}

TEST_CASE("engine: where results are, and what is there") {
  for (const bool corrects : {false, true}) {
    Index index(corrects ? Metric::InnerProduct : Metric::L2, true, corrects);
    const idx_t k = 9, n = Index::nq * k, d = Index::d;
    Engine& engine = *index.engine;
    Call call = index.call(k, 3, 40);
    std::vector<float> D(n), x(n * d), stored(d);
    std::vector<idx_t> I(n), list_no(n), offset(n), l(n), o(n);
    std::vector<std::uint8_t> codes(n * 3);
    engine.search(call, k, D.data(), I.data(), {}, {list_no.data(), offset.data()});
    for (const bool mapped : {false, true}) {
      if (mapped) engine.make_direct_map({});
      engine.locate(n, I.data(), l.data(), o.data(), {});
      CHECK(l == list_no);
      CHECK(o == offset);
    }
    engine.codes_at(n, list_no.data(), offset.data(), codes.data(), {});
    engine.reconstruct_at(n, list_no.data(), offset.data(), x.data(), {2});
    for (idx_t i = 0; i < n; ++i) {
      const idx_t row = (I[i] + 100) / 7;  // of the index's arrays
      CHECK(list_no[i] == index.list_no[row]);
      CHECK(std::equal(&codes[i * 3], &codes[i * 3] + 3, &index.codes[row * 3]));
      engine.reconstruct(I[i], stored.data(), {});
      CHECK(std::equal(stored.begin(), stored.end(), &x[i * d]));
    }
    const idx_t nowhere = -1, first = 0, beyond = Index::n, bad_list = Index::nlist;
    engine.reconstruct_at(1, &nowhere, &nowhere, x.data(), {});
    CHECK(std::isnan(x[0]));
    engine.locate(0, nullptr, nullptr, nullptr, {});
    for (const auto& [a, b] : {std::pair{first, beyond}, {first, nowhere}, {bad_list, first}}) {
      CHECK_THROWS_AS(engine.codes_at(1, &a, &b, codes.data(), {}), CheckError);
      CHECK_THROWS_AS(engine.reconstruct_at(1, &a, &b, x.data(), {}), CheckError);
    }
  }
}

TEST_CASE("engine: a direct map knows ids of one's own, of duplicates the last in list order") {
  Index index(Metric::L2);
  Engine mapped(index.parts()), made(index.parts());
  std::vector<idx_t> ids = index.ids;  // sparse, and negative ones
  for (idx_t i = 0; i < 50; ++i) ids[i] = ids[100 + i];
  mapped.make_direct_map({});
  for (Engine* engine : {&mapped, &made})
    for (idx_t begin = 0; begin < Index::n; begin += 100)
      engine->add(100, &index.list_no[begin], &index.codes[begin * 3], nullptr, &ids[begin], {});
  made.make_direct_map({});
  std::vector<float> one(Index::d), other(one), plain(one);
  for (const idx_t id : ids) {
    mapped.reconstruct(id, one.data(), {});
    made.reconstruct(id, other.data(), {});
    CHECK(one == other);
  }
  made.clear_direct_map({});
  for (const idx_t id : ids) {
    mapped.reconstruct(id, one.data(), {});
    made.reconstruct_n(id, 1, plain.data(), {});
    CHECK(one == plain);
  }
}

TEST_CASE("engine: one vector at a time into a million lists") {
  Index index(Metric::L2);
  const idx_t nlist = idx_t{1} << 20;
  const std::vector<float> centroids = index.rng.floats(nlist * Index::d);
  Engine::Parts parts = index.parts();
  parts.nlist = nlist;
  parts.centroids = centroids.data();
  parts.weights = nullptr;
  Engine engine(parts);
  engine.make_direct_map({});
  for (idx_t i = 0; i < Index::n; ++i) {
    const idx_t list_no = (i * 7919) % nlist;
    engine.add(1, &list_no, &index.codes[i * 3], nullptr, nullptr, {});
  }
  const Contents c = contents(engine);
  CHECK(c.ntotal == Index::n);
  CHECK(static_cast<idx_t>(c.ids.size()) == Index::n);
  std::uint8_t code[3];
  for (idx_t i = 0; i < Index::n; ++i) {
    const idx_t list_no = (i * 7919) % nlist;
    REQUIRE(engine.lists().list(list_no).size() == 1);
    CHECK(engine.lists().list(list_no).ids[0] == i);
    engine.lists().read_code(list_no, 0, engine.M(), code);
    CHECK(std::equal(code, code + 3, &index.codes[i * 3]));
  }
}

TEST_CASE("engine: a filter may search the engine that asks it, but not change it") {
  struct Searching : IdFilter {
    const Index* index;
    bool changes;
    Searching(const Index& i, bool c) : index(&i), changes(c) {}
    bool accepts(idx_t) const override {
      Call inner = index->call(1, 2, 4);
      inner.n = 1;
      CHECK(run_search(inner).I[0] != -1);
      if (changes) index->engine->add(0, nullptr, nullptr, nullptr, nullptr, {});
      return true;
    }
    void accept(const ListIds& ids, std::uint64_t* words) const override {
      accept_each(ids, words, [this](idx_t id) { return accepts(id); });
    }
  };
  const Index index(Metric::L2);
  const Contents before = contents(*index.engine);
  Call call = index.call(3, 3, 10);
  const Result expected = run_search(call);
  for (int n_threads : {1, 3}) {
    const Searching searching(index, false), changing(index, true);
    call.filter = &searching;
    CHECK(run_search(call, n_threads) == expected);
    call.filter = &changing;
    CHECK_THROWS_WITH_AS(run_search(call, n_threads),
                         "an index cannot be changed inside a search of its own", StateError);
  }
  CHECK(contents(*index.engine) == before);
}

TEST_CASE("engine: concurrent adds share no id, and searches beside them see whole states") {
  Index index(Metric::L2);
  Engine& engine = *index.engine;
  engine.reset({});
  engine.make_direct_map({});
  constexpr int kThreads = 3, kAdds = 20;
  const idx_t n = 30;
  const std::vector<float> x = vectors(index, n);
  std::atomic<int> running{kThreads}, wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < kAdds; ++i) add(engine, n, x.data(), nullptr, nullptr, A, B, {1});
      --running;
    });
  for (int t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      std::vector<float> rows(n * Index::d);
      do {
        Call call = index.call(50, Index::nlist, t ? 20 : 0);
        const Result result = run_search(call, 2);
        const idx_t ntotal = engine.ntotal();  // of then or later
        for (idx_t id : result.I) wrong += id < -1 || id >= ntotal || is_bad(id % n);
        const Contents c = contents(engine);
        wrong += c.ntotal % n != 0 || static_cast<idx_t>(c.ids.size()) != c.ntotal / n * (n - 3);
        engine.reconstruct_n(0, n, rows.data(), {1});
        for (const RangeHits& hits : engine.range_search(call, 30, {1}))
          for (idx_t id : hits.I) wrong += is_bad(id % n);
      } while (running > 0);
    });
  threads.emplace_back([&] {
    for (int i = 0; running > 0; ++i) {
      if (i % 2)
        engine.precompute_table({});
      else
        engine.drop_table({});
      engine.set_ranking(nullptr, i % 3 ? index.student() : nullptr, {});
    }
  });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(engine.ntotal() == kThreads * kAdds * n);
  const Contents c = contents(engine);
  const std::set<idx_t> ids(c.ids.begin(), c.ids.end());
  CHECK(ids.size() == c.ids.size());
  CHECK(static_cast<idx_t>(ids.size()) == kThreads * kAdds * (n - 3));
  std::vector<float> first(Index::d), another(Index::d);
  engine.reconstruct(0, first.data(), {});
  for (idx_t i = 0; i < kThreads * kAdds; ++i) {
    engine.reconstruct(i * n, another.data(), {});
    CHECK(another == first);
  }
}

TEST_CASE("engine: an extra of L2 is what the code does not explain of a bias") {
  test::Index index(Metric::L2, true, true);
  const Engine engine(index.parts());
  std::vector<float> bias(Index::n), extra(Index::n), of_code(Index::n);
  const idx_t* list_no = index.list_no.data();
  const std::uint8_t* codes = index.codes.data();
  engine.bias(Index::n, list_no, codes, index.extra.data(), bias.data(), {2});
  index.tables->bias(Index::nlist, index.centroids.data(), Index::n, list_no, codes, of_code.data(),
                     {1});
  bias[0] = of_code[0] - 1;  // by rounding
  engine.extras(Index::n, list_no, codes, bias.data(), extra.data(), {2});
  CHECK(extra[0] == 0);
  for (idx_t i = 1; i < Index::n; ++i) {
    CHECK(bias[i] == doctest::Approx(of_code[i] + index.extra[i]));
    CHECK(extra[i] == doctest::Approx(index.extra[i]).epsilon(1e-4));
  }
  index.extra[2] = -1;
  CHECK_THROWS_AS(engine.bias(Index::n, list_no, codes, index.extra.data(), bias.data(), {1}),
                  CheckError);
}

TEST_CASE("engine: a correction of length gives the lengths back, cut to what is sensible") {
  test::Index index(Metric::InnerProduct, true, true);
  index.extra[0] = 0;
  index.extra[1] = 1e30f;
  const Engine engine(index.parts());
  std::vector<float> ratio(Index::n), length(Index::n), norm(Index::n);
  const idx_t* list_no = index.list_no.data();
  const std::uint8_t* codes = index.codes.data();
  engine.bias(Index::n, list_no, codes, index.extra.data(), ratio.data(), {2});
  engine.extras(Index::n, list_no, codes, ratio.data(), length.data(), {2});
  index.tables->norms(Index::nlist, index.centroids.data(), Index::n, list_no, codes, norm.data(),
                      {1});
  CHECK(length[0] <= 1e-5f * norm[0]);
  CHECK(length[1] == doctest::Approx(16 * norm[1]));
  for (idx_t i = 2; i < Index::n; ++i) CHECK(length[i] == doctest::Approx(index.extra[i]));
  index.extra[2] = std::numeric_limits<float>::infinity();
  CHECK_THROWS_AS(engine.bias(Index::n, list_no, codes, index.extra.data(), ratio.data(), {1}),
                  CheckError);
  CHECK_THROWS_AS(engine.bias(1, list_no, codes, nullptr, ratio.data(), {1}), CheckError);
  CHECK_THROWS_AS(
      test::Index(Metric::L2).engine->extras(1, list_no, codes, ratio.data(), length.data(), {1}),
      StateError);

  Engine empty(index.parts());
  for (float bad : {0.0f, -1.0f, 0.05f, 3e6f}) {  // of a forged file
    const std::vector<idx_t> sizes{1, 0, 0, 0, 0};
    const auto rows = [bad](idx_t, idx_t, std::uint8_t* code, float* bias, idx_t* id) {
      code[0] = code[1] = 0, bias[0] = bad, id[0] = 0;
    };
    CHECK_THROWS_AS(empty.import_from(sizes.data(), 1, rows, 1, {1}), CheckError);
  }
}
