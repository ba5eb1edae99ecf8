#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <thread>
#include <tuple>

#include "core/check.hpp"
#include "core/engine.hpp"
#include "core/id_table.hpp"
#include "core/parallel.hpp"
#include "index.hpp"

using namespace fq;

namespace {

thread_local int n_allocations_left = -1;  // -1: as many as are wanted

void* allocate(std::size_t size) {
  if (n_allocations_left == 0) throw std::bad_alloc();
  if (n_allocations_left > 0) --n_allocations_left;
  if (void* p = std::malloc(size ? size : 1)) return p;
  throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {  // of std::stable_sort
  try {
    return allocate(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  void* p = allocate(0);
  std::free(p);
  const auto to = static_cast<std::size_t>(alignment);
  if (void* aligned = std::aligned_alloc(to, (size + to - 1) / to * to)) return aligned;
  throw std::bad_alloc();
}
void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace {

constexpr idx_t kMost = std::numeric_limits<idx_t>::max();

// What is stored, entry by entry in list order.
using Entry = std::tuple<idx_t, idx_t, std::vector<std::uint8_t>, float>;  // list, id, code, bias
struct Contents {
  std::vector<Entry> entries;
  idx_t ntotal;
  bool operator==(const Contents&) const = default;
};

Contents contents(const Engine& engine) {
  const SharedLock::Reading reading(engine.lock(), {});
  const InvertedLists& lists = engine.lists();
  Contents c{{}, engine.ntotal()};
  for (idx_t l = 0; l < lists.nlist(); ++l) {
    const InvertedLists::List& list = lists.list(l);
    for (idx_t o = 0; o < list.size(); ++o) {
      std::vector<std::uint8_t> code(static_cast<std::size_t>(engine.M()));
      lists.read_code(l, o, engine.M(), code.data());
      c.entries.emplace_back(l, list.ids[o], code, bias_at(lists.bias(l), o));
    }
  }
  return c;
}

idx_t id_of(const Entry& entry) { return std::get<1>(entry); }

template <class Goes>
Contents without(Contents c, Goes goes) {
  const auto n = std::erase_if(c.entries, [&](const Entry& e) { return goes(id_of(e)); });
  c.ntotal -= static_cast<idx_t>(n);
  return c;
}

std::vector<idx_t> find_all(const Engine& engine, const Contents& c) {
  std::vector<idx_t> found;
  std::vector<float> x(static_cast<std::size_t>(engine.d()));
  for (const Entry& entry : c.entries) {
    engine.reconstruct(id_of(entry), x.data(), {});  // throws where it is not found
    found.push_back(id_of(entry));
  }
  return found;
}

struct Every final : IdFilter {
  idx_t n;
  explicit Every(idx_t n_) : n(n_) {}
  bool accepts(idx_t id) const override { return id % n == 0; }
  void accept(const ListIds& ids, std::uint64_t* words) const override {
    accept_each(ids, words, [this](idx_t id) { return accepts(id); });
  }
};

}  // namespace

TEST_CASE("removal: what stays moves together, in its order") {
  test::Rng rng;
  for (idx_t size : {1, 63, 64, 65, 200})
    for (int kind = 0; kind < 6; ++kind) {
      std::vector<std::uint64_t> words(static_cast<std::size_t>((size + 63) / 64));
      BiasColumn items;
      std::vector<float> expected;
      items.reserve(size);
      for (idx_t i = 0; i < size; ++i) {
        const bool goes[] = {
            false, true, i == 0, i == size - 1, i >= 64 && i < 130, rng.integer(0, 2) == 0};
        if (goes[kind]) words[static_cast<std::size_t>(i / 64)] |= std::uint64_t{1} << (i % 64);
        items.push_back(static_cast<float>(i), 1);
        if (!goes[kind]) expected.push_back(static_cast<float>(i));
      }
      const Removal removal(0, size, words);
      CHECK(removal.n_kept() == static_cast<idx_t>(expected.size()));
      items.remove(removal);
      REQUIRE(items.size() == removal.n_kept());
      for (idx_t i = 0; i < items.size(); ++i)
        CHECK(bias_at(items.rows(1), i) == expected[static_cast<std::size_t>(i)]);
      CHECK(items.allocated() <= 4 * items.size() + 3 * kBiasRow);
    }
}

TEST_CASE("id table: as a map") {
  test::Rng rng;
  IdTable table;
  std::map<idx_t, std::uint64_t> expected;
  for (int i = 0; i < 20000; ++i) {
    const idx_t id = rng.integer(-200, 200) << (i % 2 * 40);
    if (i / 2000 % 2 == 0 ? rng.integer(0, 3) > 0 : rng.integer(0, 3) == 0) {
      table.reserve(table.size() + 1);
      table.put(id, expected[id] = static_cast<std::uint64_t>(i));
    } else {
      table.erase(id);
      expected.erase(id);
      if (i % 100 == 0) table.release_unused();
    }
    CHECK(table.size() == expected.size());
    const idx_t other = rng.integer(-200, 200) << (i % 2 * 40);
    const auto found = expected.find(other);
    REQUIRE((table.find(other) != nullptr) == (found != expected.end()));
    if (table.find(other)) CHECK(*table.find(other) == found->second);
  }
}

TEST_CASE("engine: removes what a filter accepts or what has the ids, and nothing else") {
  for (Metric metric : {Metric::L2, Metric::InnerProduct})
    for (bool with_ids : {false, true})
      for (bool mapped : {false, true})
        for (bool by_filter : {false, true}) {
          test::Index index(metric, true, metric == Metric::InnerProduct);
          Engine engine(index.parts());
          if (mapped) engine.make_direct_map({});
          const auto add = [&] {
            const idx_t* ids = with_ids ? index.ids.data() : nullptr;
            engine.add(test::Index::n, index.list_no.data(), index.codes.data(), index.extra.data(),
                       ids, {1});
          };
          add();
          for (idx_t n : {idx_t{1000}, idx_t{7}, idx_t{3}, idx_t{2}, idx_t{1}}) {
            const Every every(n);
            const Contents before = contents(engine);
            const Contents expected = without(before, [&](idx_t id) { return every.accepts(id); });
            std::vector<idx_t> ids{kMost, -kMost, 1};  // not there, but 1 perhaps
            if (!every.accepts(1)) ids.pop_back();
            for (const Entry& e : before.entries)
              for (int times = 0; times < 2 && every.accepts(id_of(e)); ++times)
                ids.push_back(id_of(e));
            const idx_t removed =
                by_filter ? engine.remove(&every, {2})
                          : engine.remove(static_cast<idx_t>(ids.size()), ids.data(), {2});
            CHECK(removed == before.ntotal - expected.ntotal);
            CHECK(contents(engine) == expected);
            if (mapped) find_all(engine, expected);
            // As what was put there like this.
            Engine fresh(index.parts());
            const auto rows = [&](idx_t first, idx_t count, std::uint8_t* codes, float* bias,
                                  idx_t* out) {
              const SharedLock::Reading reading(engine.lock(), {});
              engine.lists().export_codes(first, count, codes);
              engine.lists().export_bias(first, count, bias);
              engine.lists().export_ids(first, count, out);
            };
            std::vector<idx_t> sizes;
            for (idx_t l = 0; l < engine.nlist(); ++l)
              sizes.push_back(engine.lists().list(l).size());
            fresh.import_from(sizes.data(), engine.lists().ntotal(), rows, engine.ntotal(), {});
            test::Call call = index.call(5, 3, 40);
            call.engine = &engine;
            const test::Result result = run_search(call);
            call.engine = &fresh;
            CHECK(run_search(call) == result);
            if (n == 3) add();  // numbers come back, and duplicates with them
          }
          CHECK(engine.ntotal() == 0);
          const InvertedLists::Memory memory = engine.lists().memory();
          CHECK(memory.codes + memory.bias + memory.ids == 0);
          CHECK(engine.remove(nullptr, {}) == 0);
          add();
          CHECK(engine.remove(nullptr, {}) == test::Index::n);
        }
}

TEST_CASE("engine: without ids of its own, what follows moves up") {
  test::Index index(Metric::L2);
  Engine::Parts parts = index.parts();
  parts.nlist = 1;
  parts.weights = nullptr;
  for (bool holes : {false, true}) {
    Engine engine(parts);
    std::vector<idx_t> list_no, numbers;  // -1: not stored
    const auto add = [&] {
      list_no.clear();
      for (idx_t i = 0; i < test::Index::n; ++i) {
        list_no.push_back(holes && i % 5 == 2 ? -1 : 0);
        numbers.push_back(list_no.back() == -1 ? -1 : i);
      }
      engine.add(test::Index::n, list_no.data(), index.codes.data(), nullptr, nullptr, {1});
    };
    add();
    for (idx_t n : {1000, 10, 3}) {
      const Every every(n);
      std::vector<idx_t> left;
      for (std::size_t i = 0; i < numbers.size(); ++i)
        if (!every.accepts(static_cast<idx_t>(i))) left.push_back(numbers[i]);
      CHECK(engine.remove_numbers(&every, {2}) == static_cast<idx_t>(numbers.size() - left.size()));
      numbers = left;
      CHECK(engine.ntotal() == static_cast<idx_t>(numbers.size()));
      const Contents c = contents(engine);
      std::size_t next = 0;
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        if (numbers[i] == -1) continue;
        const auto& [list, id, code, bias] = c.entries.at(next++);
        CHECK(id == static_cast<idx_t>(i));
        CHECK(std::equal(code.begin(), code.end(), &index.codes[numbers[i] * 3]));
      }
      CHECK(next == c.entries.size());
      if (!holes) CHECK(engine.lists().memory().ids == 0);
      if (n == 10) add();
    }
    engine.make_direct_map({});
    CHECK_THROWS_AS(engine.remove_numbers(nullptr, {}), StateError);
  }
}

TEST_CASE("engine: a list that numbers by itself gets ids of its own once some have gone") {
  InvertedLists lists(1, 2, 4);
  const std::vector<idx_t> list_no(100);
  const std::vector<std::uint8_t> codes(200);
  const std::vector<float> bias(100);
  const auto remove = [&](idx_t begin, idx_t end) {
    const RangeFilter range(begin, end);
    const std::vector<Removal> removals = lists.select(&range, {});
    lists.prepare_removal(removals);
    lists.remove(removals, 1);
  };
  lists.add(100, list_no.data(), codes.data(), bias.data(), nullptr, 0, nullptr);
  remove(90, 100);
  CHECK(lists.list(0).ids.width() == 0);
  remove(10, 20);
  CHECK(lists.list(0).ids[9] == 9);
  CHECK(lists.list(0).ids[10] == 20);
  CHECK(lists.ntotal() == 80);
}

TEST_CASE("engine: takes all of another one, which is empty then") {
  for (bool mapped : {false, true})
    for (idx_t add_id : {idx_t{0}, idx_t{1000}, idx_t{1} << 45, idx_t{-50}}) {
      test::Index index(Metric::InnerProduct, true, true);
      Engine one(index.parts()), other(index.parts());
      const auto add = [&](Engine& engine, idx_t begin, idx_t n, idx_t up) {
        std::vector<idx_t> ids;
        for (idx_t i = 0; i < n; ++i) ids.push_back(2 * i + up);
        engine.add(n, &index.list_no[begin], &index.codes[begin * 3], &index.extra[begin],
                   ids.data(), {});
      };
      if (mapped) one.make_direct_map({}), other.make_direct_map({});
      for (int round = 0; round < 3; ++round) {
        if (round == 1) add(one, 0, 131, 1);  // round 0 merges into an empty one
        add(other, 131, 150, 50);
        const Contents before = contents(one), more = contents(other);
        Contents expected = before;
        for (auto [l, id, code, bias] : more.entries)
          expected.entries.emplace_back(l, id + add_id, code, bias);
        std::sort(expected.entries.begin(), expected.entries.end());
        expected.ntotal += more.ntotal;
        one.merge_from(other, add_id, {});
        Contents got = contents(one);
        std::sort(got.entries.begin(), got.entries.end());  // lists may sort by id
        CHECK(got == expected);
        CHECK(contents(other) == Contents{{}, 0});
        CHECK(other.has_direct_map() == mapped);
        if (mapped) find_all(one, expected);
      }
    }
}

TEST_CASE("engine: with random ids lists are sorted by them, and all that goes with them follows") {
  test::Rng rng;
  for (bool mapped : {false, true}) {
    test::Index index(Metric::L2);
    Engine engine(index.parts());
    if (mapped) engine.make_direct_map({});
    std::vector<float> first(2 * 16 * test::Index::d);
    for (float& x : first) x = rng.floats(1)[0];
    engine.set_rate(std::make_shared<AdditiveTables>(2, 16, test::Index::d, first.data()), 1, {});
    std::map<idx_t, std::vector<std::uint8_t>> expected;
    for (int round = 0; round < 60; ++round) {
      const idx_t n = round % 3 == 0 ? 1 : 80;
      std::vector<idx_t> list_no, ids;
      for (idx_t i = 0; i < n; ++i) {
        list_no.push_back(rng.integer(-1, 4));
        do ids.push_back(rng.integer(0, idx_t{1} << 40));
        while (expected.contains(ids.back()));
      }
      const auto codes = rng.codes(3 * n, 16);
      engine.add(n, list_no.data(), codes.data(), nullptr, ids.data(), {});
      for (idx_t i = 0; i < n; ++i)
        if (list_no[static_cast<std::size_t>(i)] != -1)
          expected[ids[static_cast<std::size_t>(i)]].assign(
              &codes[static_cast<std::size_t>(3 * i)], &codes[static_cast<std::size_t>(3 * i)] + 3);
      if (round % 10 == 9) {
        const Every every(3);
        engine.remove(&every, {});
        std::erase_if(expected, [&](const auto& e) { return every.accepts(e.first); });
      }
    }
    const Contents c = contents(engine);
    CHECK(c.entries.size() == expected.size());
    for (const auto& [list, id, code, bias] : c.entries) CHECK(code == expected.at(id));
    idx_t n_sorted = 0;
    for (idx_t l = 0; l < engine.nlist(); ++l) n_sorted += engine.lists().list(l).ids.n_sorted();
    CHECK(n_sorted > engine.lists().ntotal() / 2);
    // As if all had come at once: the map, and the biases of the rate.
    Engine fresh(index.parts());
    fresh.make_direct_map({});
    std::vector<idx_t> list_no, ids;
    std::vector<std::uint8_t> codes;
    for (const auto& [list, id, code, bias] : c.entries) {
      list_no.push_back(list), ids.push_back(id);
      codes.insert(codes.end(), code.begin(), code.end());
    }
    fresh.add(static_cast<idx_t>(ids.size()), list_no.data(), codes.data(), nullptr, ids.data(),
              {});
    fresh.set_rate(std::make_shared<AdditiveTables>(2, 16, test::Index::d, first.data()), 1, {});
    test::Call call = index.call(7, 3, 0);
    for (int n_codes : {0, 2}) {
      call.n_codes = n_codes;
      call.engine = &engine;
      const test::Result result = run_search(call);
      call.engine = &fresh;
      CHECK(run_search(call) == result);
    }
    if (mapped) {
      std::vector<float> one(test::Index::d), two(one);
      for (const idx_t id : find_all(engine, c)) {
        engine.reconstruct(id, one.data(), {});
        fresh.reconstruct(id, two.data(), {});
        CHECK(one == two);
      }
    }
  }
}

TEST_CASE("engine: other vectors for ids, in their list or in another") {
  test::Rng rng;
  for (auto [metric, has_extra] :
       {std::pair{Metric::L2, false}, {Metric::L2, true}, {Metric::InnerProduct, true}})
    for (bool wide : {false, true}) {
      test::Index index(metric, true, has_extra);
      Engine engine(index.parts()), fresh(index.parts());
      const auto tables = std::make_shared<AdditiveTables>(
          2, 16, test::Index::d, rng.floats(2 * 16 * test::Index::d).data());
      engine.set_rate(tables, 1, {});
      std::map<idx_t, std::tuple<idx_t, std::vector<std::uint8_t>, float>> expected;
      std::vector<idx_t> ids;
      for (idx_t i = 0; i < test::Index::n; ++i) {
        ids.push_back(wide ? rng.integer(0, idx_t{1} << 40) : i);
        expected[ids.back()] = {
            index.list_no[i], {&index.codes[3 * i], &index.codes[3 * i] + 3}, index.extra[i]};
      }
      engine.add(test::Index::n, index.list_no.data(), index.codes.data(), index.extra.data(),
                 ids.data(), {});
      std::vector<idx_t> list_no(1);
      CHECK_THROWS_AS(
          engine.update(1, ids.data(), list_no.data(), index.codes.data(), index.extra.data(), {}),
          StateError);
      engine.make_direct_map({});
      fresh.make_direct_map({});
      for (int round = 0; round < 5; ++round) {
        std::shuffle(ids.begin(), ids.end(), rng.engine);
        const idx_t n = round == 0 ? 1 : 150;
        const auto codes = rng.codes(3 * n, 16);
        std::vector<float> extra;  // representable ones
        list_no.clear();
        for (idx_t i = 0; i < n; ++i) {
          list_no.push_back(rng.integer(0, 4));
          extra.push_back(1 + static_cast<float>(i));
          expected[ids[i]] = {list_no.back(), {&codes[3 * i], &codes[3 * i] + 3}, extra.back()};
        }
        engine.update(n, ids.data(), list_no.data(), codes.data(), extra.data(), {});
      }
      CHECK(engine.ntotal() == test::Index::n);
      std::vector<std::uint8_t> codes;
      std::vector<float> extra;
      list_no.clear(), ids.clear();
      for (const auto& [id, entry] : expected) {
        ids.push_back(id), list_no.push_back(std::get<0>(entry));
        codes.insert(codes.end(), std::get<1>(entry).begin(), std::get<1>(entry).end());
        extra.push_back(std::get<2>(entry));
      }
      fresh.add(test::Index::n, list_no.data(), codes.data(), extra.data(), ids.data(), {});
      Contents got = contents(engine), wanted = contents(fresh);
      std::sort(got.entries.begin(), got.entries.end());
      std::sort(wanted.entries.begin(), wanted.entries.end());
      CHECK(got == wanted);
      CHECK(find_all(engine, got).size() == ids.size());
      if (!has_extra) fresh.set_rate(tables, 1, {});
      test::Call call = index.call(7, 3, 0);
      for (int n_codes = 0; n_codes <= (has_extra ? 0 : 2); n_codes += 2) {
        call.n_codes = n_codes;
        call.engine = &engine;
        const test::Result result = run_search(call);
        call.engine = &fresh;
        CHECK(run_search(call) == result);
      }
      std::vector<float> x(test::Index::d), y(x);
      for (const idx_t id : ids) {
        engine.reconstruct(id, x.data(), {});
        fresh.reconstruct(id, y.data(), {});
        CHECK(x == y);
      }
      // What is refused changes nothing.
      const Contents before = contents(engine);
      const std::vector<idx_t> twice{ids[0], ids[0]}, unknown{ids[0], -77}, lists{0, 1}, bad{0, 5};
      CHECK_THROWS_AS(engine.update(2, twice.data(), lists.data(), codes.data(), extra.data(), {}),
                      CheckError);
      CHECK_THROWS_AS(
          engine.update(2, unknown.data(), lists.data(), codes.data(), extra.data(), {}),
          StateError);
      CHECK_THROWS_AS(engine.update(2, ids.data(), bad.data(), codes.data(), extra.data(), {}),
                      CheckError);
      CHECK(contents(engine) == before);
    }
}

TEST_CASE("engine: what cannot be merged leaves both as they were") {
  test::Index index(Metric::L2), product(Metric::InnerProduct);
  Engine& engine = *index.engine;
  Engine other(index.parts());
  const std::vector<idx_t> list_no(3), ids{-5, 7, kMost - 10};
  const std::vector<std::uint8_t> codes(9);
  other.add(3, list_no.data(), codes.data(), nullptr, ids.data(), {});
  const Contents before = contents(engine), more = contents(other);
  for (idx_t add_id : {idx_t{11}, kMost, idx_t{-8}, -kMost, std::numeric_limits<idx_t>::min()})
    CHECK_THROWS_AS(engine.merge_from(other, add_id, {}), CheckError);
  CHECK_THROWS_AS(engine.merge_from(engine, 0, {}), CheckError);
  CHECK_THROWS_AS(engine.merge_from(*product.engine, 0, {}), CheckError);
  {
    const SharedLock::Reading reading(other.lock(), {});
    CHECK_THROWS_AS(engine.merge_from(other, 0, {}), StateError);
  }
  CHECK(contents(engine) == before);
  CHECK(contents(other) == more);
  engine.merge_from(other, 10, {});
  CHECK(contents(engine).entries.size() == before.entries.size() + 3);
}

TEST_CASE("engine: without memory, or interrupted, all is as it was") {
  const Every every(3);
  for (bool mapped : {false, true})
    for (int what = 0; what < (mapped ? 4 : 3); ++what) {
      int n_failures = 0;
      for (int n = 0;; ++n) {
        test::Index index(Metric::L2);
        Engine one(index.parts()), other(index.parts());
        const idx_t half = test::Index::n / 2;
        if (mapped) one.make_direct_map({});
        one.add(half, index.list_no.data(), index.codes.data(), nullptr, nullptr, {});
        other.add(half, &index.list_no[half], &index.codes[half * 3], nullptr, nullptr, {});
        const Contents before = contents(one), more = contents(other);
        const std::vector<idx_t> ids{5, 6, 7, 150};
        const Execution run;
        bool failed = false;
        n_allocations_left = n;
        try {
          if (what == 0) one.remove(&every, run);
          if (what == 1) one.remove(4, ids.data(), run);
          if (what == 2) one.merge_from(other, idx_t{1} << 50, run);
          if (what == 3)
            one.update(4, ids.data(), &index.list_no[half], &index.codes[half * 3], nullptr, run);
        } catch (const std::bad_alloc&) {
          failed = true;
        }
        n_allocations_left = -1;
        if (!failed) break;
        ++n_failures;
        CHECK(contents(one) == before);
        CHECK(contents(other) == more);
        if (mapped) find_all(one, before);
        CHECK(one.remove(&every, run) == (half + 2) / 3);  // nor is anything of it left behind
      }
      CHECK(n_failures > 0);
    }
  test::Index index(Metric::L2);
  const Contents before = contents(*index.engine);
  struct Slow final : IdFilter {
    bool accepts(idx_t) const override { return true; }
    void accept(const ListIds& ids, std::uint64_t* words) const override {
      std::this_thread::sleep_for(kPollInterval);
      accept_each(ids, words, [](idx_t) { return true; });
    }
  };
  const Slow slow;
  CHECK_THROWS_AS(index.engine->remove(&slow, {1, [] { return true; }}), Interrupted);
  CHECK(contents(*index.engine) == before);
}

TEST_CASE("engine: a filter of remove may search, but not change; what comes meanwhile counts") {
  struct Calling final : IdFilter {
    std::function<void()> call;
    bool accepts(idx_t id) const override { return id >= 0; }
    void accept(const ListIds& ids, std::uint64_t* words) const override {
      call();
      accept_each(ids, words, [](idx_t id) { return id >= 0; });
    }
  };
  test::Index index(Metric::L2);
  Engine& engine = *index.engine;
  Calling calling;
  calling.call = [&] { engine.remove(nullptr, {}); };
  CHECK_THROWS_AS(engine.remove(&calling, {}), StateError);
  std::thread adding;  // waits for the filter, and is not overlooked
  calling.call = [&] {
    run_search(index.call(1, 2, 4));
    if (!adding.joinable())
      adding = std::thread(
          [&] { engine.add(1, index.list_no.data(), index.codes.data(), nullptr, nullptr, {}); });
  };
  idx_t removed = engine.remove(&calling, {});
  adding.join();
  calling.call = [] {};
  removed += engine.remove(&calling, {});
  CHECK(removed == test::Index::n - 15 + 1);  // 15 ids are negative
  CHECK(engine.ntotal() == 15);
}

TEST_CASE("engine: searches, removals and merges to and fro beside each other") {
  test::Index index(Metric::L2);
  Engine one(index.parts()), other(index.parts());
  one.make_direct_map({});
  std::atomic<int> running{3}, wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      std::vector<idx_t> ids(20);
      for (int i = 0; i < 40; ++i) {
        for (idx_t j = 0; j < 20; ++j) ids[static_cast<std::size_t>(j)] = 100 * t + j;
        Engine& mine = t == 1 ? other : one;
        mine.add(20, index.list_no.data(), &index.codes[60 * t], nullptr, ids.data(), {});
        if (t == 2) mine.remove(5, ids.data() + i % 10, {2});
        if (t == 1) one.merge_from(other, 0, {});
        if (t == 0) other.merge_from(one, 0, {});
      }
      --running;
    });
  for (Engine* engine : {&one, &other})
    threads.emplace_back([&, engine] {
      do {
        test::Call call = index.call(50, test::Index::nlist, 20);
        call.engine = engine;
        for (const idx_t id : run_search(call, 2).I) wrong += id < -1 || id % 100 >= 20;
        const Contents c = contents(*engine);
        wrong += c.ntotal != static_cast<idx_t>(c.entries.size());
      } while (running > 0);
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  one.merge_from(other, 0, {});
  const Contents c = contents(one);
  find_all(one, c);
  for (const idx_t t : {0, 1})
    CHECK(std::count_if(c.entries.begin(), c.entries.end(),
                        [&](const Entry& e) { return id_of(e) / 100 == t; }) == 800);
}
