#include "core/direct_map.hpp"

#include <doctest/doctest.h>

#include <map>
#include <utility>
#include <vector>

#include "support.hpp"

using namespace fq;

namespace {

// Stores vectors in lists of their own choice, -1: not at all, and numbers them by `ids`.
struct Stored {
  InvertedLists lists{7, 1, 8};
  std::vector<idx_t> list_no, ids, offset;

  void add(const std::vector<idx_t>& to, const std::vector<idx_t>& as) {
    const auto n = static_cast<idx_t>(to.size());
    std::vector<idx_t> offsets(to.size());
    lists.add(n, to.data(), std::vector<std::uint8_t>(to.size()).data(),
              std::vector<float>(to.size()).data(), as.data(), 0, offsets.data());
    list_no.insert(list_no.end(), to.begin(), to.end());
    ids.insert(ids.end(), as.begin(), as.end());
    offset.insert(offset.end(), offsets.begin(), offsets.end());
  }
  // Takes out what `goes` says of the ids, and says it to the map.
  void remove(DirectMap& map, const std::map<idx_t, bool>& goes) {
    std::vector<Removal> removals;
    for (idx_t l = 0; l < lists.nlist(); ++l) {
      const idx_t size = lists.list(l).size();
      std::vector<std::uint64_t> words(static_cast<std::size_t>((size + 63) / 64));
      for (idx_t o = 0; o < size; ++o)
        if (goes.at(lists.list(l).ids[o]))
          words[static_cast<std::size_t>(o / 64)] |= std::uint64_t{1} << (o % 64);
      Removal removal(l, size, std::move(words));
      if (removal.n_removed() > 0) removals.push_back(std::move(removal));
    }
    lists.prepare_removal(removals);
    for (const Removal& removal : removals) map.remove(lists, removal);
    map.release_unused();
    lists.remove(removals, 2);
  }
  // Of each id that is stored the last position, and nothing else.
  void check(const DirectMap& map) const {
    std::map<idx_t, std::pair<idx_t, idx_t>> expected;
    for (idx_t l = 0; l < lists.nlist(); ++l)
      for (idx_t o = 0; o < lists.list(l).size(); ++o) expected[lists.list(l).ids[o]] = {l, o};
    CHECK(map.size() == static_cast<idx_t>(expected.size()));
    for (const auto& [id, at] : expected) {
      const auto found = map.find(id);
      REQUIRE(found.has_value());
      CHECK(std::pair(found->list_no, found->offset) == at);
    }
    for (const idx_t id : ids) CHECK(map.find(id).has_value() == (expected.count(id) == 1));
    for (const idx_t id : {idx_t{-2}, idx_t{1} << 61}) CHECK(!map.find(id));
  }
};

std::size_t n_bytes(idx_t per_vector, idx_t n) { return static_cast<std::size_t>(per_vector * n); }

}  // namespace

TEST_CASE("direct map: what is appended is found, as in a map made at once; -1 has no entry") {
  test::Rng rng;
  for (int first_hole : {0, 1, 57, 1000}) {
    Stored stored;
    DirectMap map(stored.lists);
    idx_t first = 0;
    for (idx_t n : {1, 0, 1, 3, 50, 100}) {
      std::vector<idx_t> list_no, ids;
      for (idx_t i = first; i < first + n; ++i) {
        list_no.push_back(i >= first_hole && (i - first_hole) % 4 == 0 ? -1 : rng.integer(0, 6));
        ids.push_back(i);
      }
      stored.add(list_no, ids);
      map.reserve(n, list_no.data(), nullptr, first);
      map.append(n, list_no.data(), stored.offset.data() + first, nullptr, first);
      first += n;
      stored.check(map);
      stored.check(DirectMap(stored.lists));
    }
    CHECK(map.allocated() <= n_bytes(8, 155) * 3 / 2);
  }
}

TEST_CASE("direct map: any ids, at no more than what is stored justifies") {
  const idx_t huge = idx_t{1} << 60;
  test::Rng rng;
  for (int kind = 0; kind < 5; ++kind) {
    CAPTURE(kind);
    Stored stored;
    DirectMap map(stored.lists);
    std::vector<idx_t> list_no, ids;
    const idx_t n = 3000;
    for (idx_t i = 0; i < n; ++i) {
      list_no.push_back(rng.integer(0, 6));
      const idx_t some[] = {i, i == n / 2 ? huge : i, i << 40, i * 3 - 7, rng.integer(0, n / 2)};
      ids.push_back(some[kind]);
    }
    stored.add(list_no, ids);
    for (idx_t at = 0; at < n; at += 500) {
      map.reserve(500, &list_no[at], &ids[at], 0);
      map.append(500, &list_no[at], &stored.offset[at], &ids[at], 0);
    }
    stored.check(map);
    const DirectMap anew(stored.lists);
    stored.check(anew);
    CHECK(anew.allocated() <= n_bytes(kind == 0 ? 8 : 43, n) + 1024);
    // Until nothing is left, and what comes back then.
    for (int keep : {9, 5, 2, 0}) {
      std::map<idx_t, bool> goes;  // all of duplicates
      for (const idx_t id : stored.ids) goes[id] = rng.integer(0, 9) >= keep;
      stored.remove(map, goes);
      stored.check(map);
      CHECK(map.allocated() <= n_bytes(86, stored.lists.ntotal()) + 1024);
    }
    CHECK(map.size() == 0);
    stored.add({1, 2}, {5, huge});
    map.reserve(2, &stored.list_no[n], &stored.ids[n], 0);
    map.append(2, &stored.list_no[n], &stored.offset[n], &stored.ids[n], 0);
    CHECK(map.find(huge)->list_no == 2);
    CHECK(map.find(5)->list_no == 1);
  }
}
