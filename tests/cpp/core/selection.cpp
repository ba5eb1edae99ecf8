#include "core/selection.hpp"

#include <doctest/doctest.h>

#include <set>
#include <stdexcept>

#include "support.hpp"

using namespace fq;

namespace {

struct SetFilter : IdFilter {
  std::set<idx_t> ids;
  bool cheap = false;
  mutable std::atomic<int> asked{0};
  bool accepts(idx_t id) const override { return ids.count(id) > 0; }
  bool is_cheap() const override { return cheap; }
  void accept(const ListIds& list, std::uint64_t* words) const override {
    ++asked;
    accept_each(list, words, [this](idx_t id) { return accepts(id); });
  }
};

constexpr double kManyVisits = 1e9;

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
    const IdFilter* const filters[] = {&set, &range};
    for (const IdFilter* filter : filters) {
      const Selection selection(filter, 2, kManyVisits, false);
      const std::uint64_t* words = selection.words(1, list);
      for (idx_t i = 0; i < (n + 63) / 64 * 64; ++i)
        CHECK((words[i / 64] >> i % 64 & 1) == (i < n && ids[i] >= -7 && ids[i] < 20));
      CHECK(selection.words(1, list) == words);
    }
    CHECK(set.asked == 1);
  }
  const Selection all(nullptr, 5, kManyVisits, true);
  CHECK(all.words(3, list_of({1})) == nullptr);
  CHECK(all.accepts(1));
}

TEST_CASE("selection: with few visits, words where entries are counted or a cheap filter is rare") {
  std::vector<idx_t> ids(1000);
  for (idx_t i = 0; i < 1000; ++i) ids[i] = i;
  const ListIds list = list_of(ids);
  SetFilter rare, frequent;
  rare.ids = {3, 500};
  for (idx_t i = 0; i < 1000; i += 3) frequent.ids.insert(i);
  for (SetFilter* filter : {&rare, &frequent}) {
    for (bool cheap : {false, true}) {
      filter->cheap = cheap;
      const Selection few(filter, 2, 1, false), counted(filter, 2, 1, true);
      CHECK((few.words(0, list) != nullptr) == cheap);  // it has to be asked to know
      CHECK((few.words(1, list) != nullptr) == (cheap && filter == &rare));
      CHECK(few.accepts(3));
      CHECK_FALSE(few.accepts(4));
      CHECK(counted.words(0, list)[0] == counted.words(1, list)[0]);
    }
  }
}

TEST_CASE("selection: bitmaps and ranges of ids of every width") {
  const std::vector<std::uint8_t> bits{0b10000001, 0, 0b00000100};  // 0, 7 and 18
  const BitmapFilter bitmap(bits.size(), bits.data());
  for (idx_t wide : {idx_t{23}, idx_t{1} << 33, idx_t{1} << 50, idx_t{-1}}) {
    const std::vector<idx_t> ids{0, 1, 7, 8, 18, 24, wide};
    ListIds list;
    list.reserve(7, ListIds::width_for(wide, 6));
    list.reserve(7, 4);
    for (idx_t id : ids) list.push_back(id);
    std::uint64_t word = 0;
    bitmap.accept(list, &word);
    CHECK(word == 0b0010101);
    RangeFilter(7, 19).accept(list, &word);
    CHECK(word == 0b0011100);
    RangeFilter(wide, wide + 1).accept(list, &word);
    CHECK(word == 0b1000000);
  }
  ListIds offsets;  // no bytes at all
  for (idx_t i = 0; i < 20; ++i) offsets.push_back(i);
  std::uint64_t word = 0;
  bitmap.accept(offsets, &word);
  CHECK(word == ((1u << 18) | 129u));
}

TEST_CASE("selection: a filter that throws is asked again by the next call") {
  struct Failing : IdFilter {
    mutable int asked = 0;
    bool accepts(idx_t) const override { return true; }
    void accept(const ListIds&, std::uint64_t* words) const override {
      if (asked++ == 0) throw std::runtime_error("not now");
      words[0] = 5;
    }
  } filter;
  const Selection selection(&filter, 1, kManyVisits, false);
  const ListIds list = list_of({1, 2, 3});
  CHECK_THROWS_AS(selection.words(0, list), std::runtime_error);
  CHECK(selection.words(0, list)[0] == 5);
}
