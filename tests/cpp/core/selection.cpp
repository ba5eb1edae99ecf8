#include "core/selection.hpp"

#include <doctest/doctest.h>

#include <set>
#include <stdexcept>

#include "support.hpp"

using namespace fq;

namespace {

struct SetFilter : IdFilter {
  std::set<idx_t> ids;
  mutable std::atomic<int> asked{0};
  void accept(const ListIds& list, std::uint64_t* words) const override {
    ++asked;
    accept_each(list, words, [this](idx_t id) { return ids.count(id) > 0; });
  }
};

ListIds list_of(const std::vector<idx_t>& ids) {
  ListIds list;
  list.reserve(static_cast<idx_t>(ids.size()), 8);
  for (idx_t id : ids) list.push_back(id);
  return list;
}

}  // namespace

TEST_CASE("selection: the bits of a filter, at every edge size") {
  test::Rng rng;
  for (idx_t n : {0, 1, 63, 64, 65, 200}) {
    CAPTURE(n);
    std::vector<idx_t> ids;
    SetFilter set;
    for (idx_t i = 0; i < n; ++i) {
      ids.push_back(rng.integer(-50, 50));
      if (ids.back() >= -7 && ids.back() < 20) set.ids.insert(ids.back());
    }
    const ListIds list = list_of(ids);
    const RangeFilter range(-7, 20);
    for (const IdFilter* filter :
         {static_cast<const IdFilter*>(&set), static_cast<const IdFilter*>(&range)}) {
      const Selection selection(filter, 2);
      const std::uint64_t* words = selection.words(1, list);
      for (idx_t i = 0; i < (n + 63) / 64 * 64; ++i)
        CHECK((words[i / 64] >> i % 64 & 1) == (i < n && ids[i] >= -7 && ids[i] < 20));
      CHECK(selection.words(1, list) == words);
    }
    CHECK(set.asked == 1);
  }
  CHECK(Selection(nullptr, 5).words(3, list_of({1})) == nullptr);
}

TEST_CASE("selection: a filter that throws is asked again by the next call") {
  struct Failing : IdFilter {
    mutable int asked = 0;
    void accept(const ListIds&, std::uint64_t* words) const override {
      if (asked++ == 0) throw std::runtime_error("not now");
      words[0] = 5;
    }
  } filter;
  const Selection selection(&filter, 1);
  const ListIds list = list_of({1, 2, 3});
  CHECK_THROWS_AS(selection.words(0, list), std::runtime_error);
  CHECK(selection.words(0, list)[0] == 5);
}
