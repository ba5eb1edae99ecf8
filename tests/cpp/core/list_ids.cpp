#include "core/list_ids.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "core/bias.hpp"
#include "support.hpp"

using namespace fq;

namespace {

constexpr idx_t kLow = std::numeric_limits<idx_t>::min(), kHigh = std::numeric_limits<idx_t>::max();

std::vector<idx_t> all_of(const ListIds& ids) {
  std::vector<idx_t> out(static_cast<std::size_t>(ids.size()));
  ids.read(0, ids.size(), out.data());
  for (idx_t i = 0; i < ids.size(); ++i) CHECK(ids[i] == out[static_cast<std::size_t>(i)]);
  idx_t next = 0;
  ids.for_each([&](idx_t i, idx_t id) {
    CHECK(i == next);
    CHECK(id == out[static_cast<std::size_t>(next++)]);
  });
  CHECK(next == ids.size());
  return out;
}

void push(ListIds& ids, idx_t id) {
  ids.reserve(ids.size() + 1, ListIds::width_for(id, ids.size()));
  ids.push_back(id);
}

Removal every(test::Rng& rng, idx_t size, idx_t nth) {
  std::vector<std::uint64_t> words(static_cast<std::size_t>((size + 63) / 64));
  for (idx_t i = 0; i < size; ++i)
    if (nth > 0 && rng.integer(1, nth) == 1)
      words[static_cast<std::size_t>(i / 64)] |= std::uint64_t{1} << (i % 64);
  return {0, size, words};
}

template <class T>
void remove_from(std::vector<T>& v, const Removal& removal) {
  idx_t i = 0;
  std::erase_if(v, [&](const T&) { return removal.removes(i++); });
}

}  // namespace

TEST_CASE("list ids: the narrowest width, widened by what comes") {
  const idx_t low = std::numeric_limits<idx_t>::min(), high = std::numeric_limits<idx_t>::max();
  const idx_t top4 = (idx_t{1} << 32) - 1, top5 = (idx_t{1} << 40) - 1;
  const std::vector<std::pair<idx_t, int>> cases{{3, 0},        {0, 4},    {top4, 4},
                                                 {top4 + 1, 5}, {top5, 5}, {top5 + 1, 8},
                                                 {-1, 8},       {low, 8},  {high, 8}};
  for (const auto& [id, width] : cases) {
    CAPTURE(id);
    ListIds ids;
    ids.reserve(3, 0);
    for (idx_t i = 0; i < 3; ++i) ids.push_back(i);
    CHECK(ids.width() == 0);
    CHECK(ids.allocated() == 0);
    CHECK(ListIds::width_for(id, 3) == width);
    ids.reserve(4, ListIds::width_for(id, 3));
    CHECK(ids.width() == width);
    ids.push_back(id);
    ids.reserve(5, 0);  // never narrower again
    CHECK(ids.width() == width);
    ids.push_back(4);
    REQUIRE(ids.size() == 5);
    const std::vector<idx_t> expected{0, 1, 2, id, 4};
    for (idx_t i = 0; i < 5; ++i) CHECK(ids[i] == expected[static_cast<std::size_t>(i)]);
  }
}

TEST_CASE("sorted ids: any of them by its place, of any range, duplicates too") {
  test::Rng rng;
  for (idx_t n : {1, 2, 63, 64, 65, 300, 5000})
    for (idx_t range : {idx_t{0}, idx_t{1}, n, 1000 * n, idx_t{1} << 40, kHigh})
      for (idx_t least : {idx_t{0}, idx_t{-7}, kLow}) {
        std::vector<idx_t> ids;
        for (idx_t i = 0; i < n; ++i)
          ids.push_back(static_cast<idx_t>(static_cast<std::uint64_t>(least) +
                                           static_cast<std::uint64_t>(rng.integer(0, range))));
        if (least == kLow && range == kHigh) ids.back() = kHigh;  // the widest there is
        std::sort(ids.begin(), ids.end());
        SortedIds sorted(ids.data(), n);
        REQUIRE(sorted.size() == n);
        for (idx_t begin = 0, m; begin < n; begin += m) {
          m = std::min<idx_t>(rng.integer(1, 100), n - begin);
          std::vector<idx_t> some(static_cast<std::size_t>(m));
          sorted.read(begin, m, some.data());
          CHECK(std::equal(some.begin(), some.end(), ids.begin() + begin));
          CHECK(sorted[begin] == ids[static_cast<std::size_t>(begin)]);
        }
        const double bits =
            8.0 * static_cast<double>(sorted.allocated() - 8) / static_cast<double>(n);
        const double ratio =
            std::max(1.0, (static_cast<double>(ids.back()) - static_cast<double>(ids[0])) /
                              static_cast<double>(n));
        CHECK(bits <= 3.5 + std::log2(ratio) + 200.0 / static_cast<double>(n));
      }
}

TEST_CASE("list ids: as a vector, whatever is added, sorted, removed and renumbered") {
  test::Rng rng;
  for (idx_t range : {idx_t{50}, idx_t{5000}, idx_t{1} << 38, kHigh / 2})
    for (bool with_sorting : {true, false}) {
      ListIds ids;
      std::vector<idx_t> expected;
      for (int round = 0; round < 40; ++round) {
        for (idx_t n = rng.integer(0, 200); n > 0; --n) {
          expected.push_back(rng.integer(-range, range));
          push(ids, expected.back());
        }
        if (with_sorting && ids.wants_sorting()) {
          ListIds::Sorting made = ids.sorting();
          std::vector<idx_t> moved;
          for (const idx_t from : made.order)
            moved.push_back(expected[static_cast<std::size_t>(from)]);
          if (!moved.empty()) expected = moved;
          CHECK(std::is_sorted(expected.begin(), expected.end()));
          CHECK(std::adjacent_find(made.order.begin(), made.order.end(), [&](idx_t a, idx_t b) {
                  return a > b && ids[a] == ids[b];
                }) == made.order.end());
          ids.replace(std::move(made.sorted));
          CHECK(!ids.wants_sorting());
        }
        CHECK(all_of(ids) == expected);
        const Removal removal = every(rng, ids.size(), round % 5 == 0 ? 0 : round % 7);
        ids.own();
        ids.remove(removal);
        remove_from(expected, removal);
        CHECK(all_of(ids) == expected);
        if (round % 9 == 8 && !ids.are_offsets()) {
          const auto halved = [](idx_t id) { return id >= 0 ? id / 2 : id; };
          ids.renumber(halved);
          for (idx_t& id : expected) id = halved(id);
          CHECK(all_of(ids) == expected);
        }
      }
    }
}

TEST_CASE("list ids: a million numbers dealt to a thousand lists take 12 bits each") {
  test::Rng rng;
  ListIds ids;
  for (idx_t id = 0; id < 1000000; ++id)
    if (rng.integer(0, 999) == 0) push(ids, id);
  ids.replace(ids.sorting().sorted);
  CHECK(static_cast<double>(ids.allocated()) / static_cast<double>(ids.size()) < 1.65);
}

TEST_CASE("bytes: a view is copied before the first change") {
  const std::vector<std::uint8_t> file{1, 2, 3};
  Bytes bytes = Bytes::view(file.data(), file.size());
  CHECK(bytes.data() == file.data());
  CHECK(bytes.allocated() == 0);
  bytes.reserve(4);
  bytes.resize(4);
  bytes.mutable_data()[0] = 9;
  CHECK(file[0] == 1);
  CHECK(std::vector<std::uint8_t>(bytes.data(), bytes.data() + 4) ==
        std::vector<std::uint8_t>{9, 2, 3, 0});
  bytes.resize(1);
  bytes.release_unused();
  CHECK(bytes.allocated() == 1);
}

TEST_CASE("bias: two bytes, and an outlier costs the others nothing") {
  std::vector<std::uint8_t> row(kBiasRow);
  const BiasRows rows{row.data(), kBiasRow, 0}, ratios{row.data(), kBiasRow, 1};
  for (float b : {0.0f, 1.0f, -30000.0f, 12345.0f, 1e30f, -3.4e38f, 3.4e38f, 1e-30f}) {
    put_bias(row.data(), 5, b, 0);
    CHECK(std::abs(bias_at(rows, 5) - b) <= std::abs(b) / 256);
    CHECK(std::isfinite(bias_at(rows, 5)));
  }
  for (float r : {1.0f, 0.99f, 0.8f, 1 / 16.0f, 1e6f}) {
    put_bias(row.data(), 63, r, 1);
    CHECK(std::abs(bias_at(ratios, 63) - r) <= std::abs(r - 1) / 256);
    CHECK(bias_at(ratios, 63) > 0);
  }
}
