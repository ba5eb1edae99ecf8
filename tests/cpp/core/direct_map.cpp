#include "core/direct_map.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "core/check.hpp"
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
  void check(const DirectMap& map) const {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto found = map.find(ids[i]);
      CHECK(found.has_value() == (list_no[i] != -1));
      if (found) {
        CHECK(found->list_no == list_no[i]);
        CHECK(found->offset == offset[i]);
      }
    }
    for (idx_t id : {idx_t{-1}, static_cast<idx_t>(ids.size()), idx_t{1} << 62})
      CHECK(!map.find(id));
  }
};

}  // namespace

TEST_CASE("direct map: what is appended is found, as in a map made at once; -1 has no entry") {
  test::Rng rng;
  for (int first_hole : {0, 1, 57, 1000}) {
    Stored stored;
    DirectMap map(stored.lists, 0);
    idx_t first = 0;
    for (idx_t n : {1, 0, 1, 3, 50, 100}) {
      std::vector<idx_t> list_no, ids;
      for (idx_t i = first; i < first + n; ++i) {
        list_no.push_back(i >= first_hole && (i - first_hole) % 4 == 0 ? -1 : rng.integer(0, 6));
        ids.push_back(i);
      }
      stored.add(list_no, ids);
      map.reserve(n, list_no.data(), first);
      map.append(n, list_no.data(), stored.offset.data() + first, first);
      first += n;
      stored.check(map);
      stored.check(DirectMap(stored.lists, first));
    }
    CHECK(map.allocated() <= (first_hole == 1000 ? 8 : 16) * 155 * 3 / 2);
  }
}

TEST_CASE("direct map: a huge number costs nothing") {
  Stored stored;
  const idx_t huge = idx_t{1} << 60;
  stored.add({3, 5}, {0, huge});
  const DirectMap map(stored.lists, huge + 1);
  CHECK(map.allocated() <= 100);
  CHECK(map.find(huge)->list_no == 5);
  CHECK(!map.find(huge - 1));
}

TEST_CASE("direct map: ids that are not distinct numbers below ntotal are refused") {
  for (const std::vector<idx_t>& ids : {std::vector<idx_t>{0, 0}, {-1, 0}, {0, 2}}) {
    Stored stored;
    stored.add({1, 4}, ids);
    CHECK_THROWS_WITH_AS(DirectMap(stored.lists, 2),
                         "a direct map needs the sequential ids that `add` gives", StateError);
  }
}
