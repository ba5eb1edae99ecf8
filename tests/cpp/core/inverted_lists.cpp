#include "core/inverted_lists.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "core/check.hpp"
#include "support.hpp"

using namespace fq;

namespace {

struct Data {
  std::vector<idx_t> list_no, ids, offset;
  std::vector<std::uint8_t> codes;
  std::vector<float> bias;

  Data(test::Rng& rng, idx_t n, idx_t nlist, int M, int nbits)
      : offset(static_cast<std::size_t>(n)),
        codes(rng.codes(n * M, 1 << nbits)),
        bias(test::rounded(rng.floats(n))) {
    for (idx_t i = 0; i < n; ++i) {
      list_no.push_back(rng.integer(-1, nlist - 1));
      ids.push_back(1000 + i);
    }
  }
  idx_t n() const { return static_cast<idx_t>(ids.size()); }
  void add_to(InvertedLists& lists) {
    lists.add(n(), list_no.data(), codes.data(), bias.data(), ids.data(), 0, offset.data());
  }
};

}  // namespace

TEST_CASE("inverted lists: what goes in comes out, for every nbits") {
  test::Rng rng;
  for (int nbits = 4; nbits <= 8; ++nbits)
    for (int M : {1, 3, 8, 13})
      for (idx_t n : {0, 1, 63, 64, 65, 500}) {
        CAPTURE(nbits);
        CAPTURE(M);
        CAPTURE(n);
        const idx_t nlist = 3;
        InvertedLists lists(nlist, M, nbits);
        Data first(rng, n, nlist, M, nbits), second(rng, n, nlist, M, nbits);
        for (idx_t& id : second.ids) id += n;
        first.add_to(lists);
        second.add_to(lists);
        for (const Data& data : {first, second}) {
          std::vector<std::uint8_t> codes(data.codes.size());
          lists.gather(n, data.list_no.data(), data.offset.data(), codes.data());
          std::vector<idx_t> l(data.ids.size()), o(data.ids.size());
          lists.locate(n ? data.ids[0] : 0, n, l.data(), o.data());
          CHECK(l == data.list_no);
          CHECK(o == data.offset);
          for (idx_t i = 0; i < n; ++i) {
            const bool stored = data.list_no[i] >= 0;
            for (int m = 0; m < M; ++m)
              CHECK(codes[i * M + m] == (stored ? data.codes[i * M + m] : 255));
            if (stored) CHECK(bias_at(lists.bias(data.list_no[i]), data.offset[i]) == data.bias[i]);
          }
        }

        const auto total = static_cast<std::size_t>(lists.ntotal());
        std::vector<std::uint8_t> packed(total * lists.code_size()), packed2(packed.size());
        std::vector<float> bias(total), bias2(total);
        std::vector<idx_t> ids(total), ids2(total), sizes;
        for (idx_t l = 0; l < nlist; ++l) sizes.push_back(lists.list(l).size());
        lists.export_codes(0, lists.ntotal(), packed.data());
        lists.export_bias(0, lists.ntotal(), bias.data());
        lists.export_ids(0, lists.ntotal(), ids.data());
        InvertedLists copy(nlist, M, nbits);
        const auto rows = [&](idx_t begin, idx_t count, std::uint8_t* c, float* b, idx_t* i) {
          lists.export_codes(begin, count, c);
          lists.export_bias(begin, count, b);
          lists.export_ids(begin, count, i);
        };
        copy.import_from(sizes.data(), lists.ntotal(), rows);
        // Of any beginning and length, through lists that are empty or end in between.
        for (idx_t begin = 0, count; begin < lists.ntotal(); begin += count) {
          count = std::min<idx_t>(1 + begin % 97, lists.ntotal() - begin);
          copy.export_codes(begin, count, packed2.data() + begin * lists.code_size());
          copy.export_bias(begin, count, bias2.data() + begin);
          copy.export_ids(begin, count, ids2.data() + begin);
        }
        CHECK(packed == packed2);
        CHECK(bias == bias2);
        CHECK(ids == ids2);
        for (idx_t l = 0; l < nlist; ++l) {
          const Bytes &one = copy.list(l).blocks, &two = lists.list(l).blocks;
          CHECK(
              std::equal(one.data(), one.data() + one.size(), two.data(), two.data() + two.size()));
          CHECK(copy.list(l).size() == lists.list(l).size());
        }
        // Packed rows are what pack_codes gives.
        std::vector<std::uint8_t> unpacked(total * M), repacked(packed.size());
        unpack_codes(lists.ntotal(), M, nbits, packed.data(), unpacked.data());
        pack_codes(lists.ntotal(), M, nbits, unpacked.data(), repacked.data());
        CHECK(packed == repacked);

        lists.reset();
        CHECK(lists.ntotal() == 0);
        CHECK(lists.list(0).size() == 0);
      }
}

TEST_CASE("inverted lists: a refused add changes nothing") {
  test::Rng rng;
  InvertedLists lists(3, 2, 4);
  Data good(rng, 100, 3, 2, 4);
  good.add_to(lists);
  const idx_t ntotal = lists.ntotal();
  Data bad_list = good, bad_code = good;
  bad_list.list_no.back() = 3;
  bad_code.list_no.back() = 0;
  bad_code.codes.back() = 16;
  CHECK_THROWS_AS(bad_list.add_to(lists), CheckError);
  CHECK_THROWS_WITH_AS(bad_code.add_to(lists), "codes[99, 1]: expected below 16, got 16",
                       CheckError);
  CHECK(lists.ntotal() == ntotal);
  CHECK(lists.list(0).size() + lists.list(1).size() + lists.list(2).size() == ntotal);
}

TEST_CASE("inverted lists: after a refused add numbers follow first_id") {
  test::Rng rng;
  InvertedLists lists(idx_t{1} << 20, 2, 4);  // many more lists than an add touches
  Data data(rng, 100, 3, 2, 4);
  Data bad = data;
  bad.list_no.back() = 0;
  bad.codes.back() = 16;
  CHECK_THROWS_AS(bad.add_to(lists), CheckError);
  lists.add(100, data.list_no.data(), data.codes.data(), data.bias.data(), nullptr, 7, nullptr);
  std::vector<idx_t> l(100), o(100);
  lists.locate(7, 100, l.data(), o.data());
  CHECK(l == data.list_no);
}

TEST_CASE("inverted lists: bad arguments") {
  CHECK_THROWS_AS(InvertedLists(0, 2, 4), CheckError);
  CHECK_THROWS_AS(InvertedLists(1, 0, 4), CheckError);
  CHECK_THROWS_AS(InvertedLists(1, 2, 3), CheckError);
  CHECK_THROWS_AS(InvertedLists(1, 2, 9), CheckError);
  InvertedLists lists(2, 2, 8);
  CHECK_THROWS_AS(lists.list(2), CheckError);
  CHECK_THROWS_AS(lists.list(-1), CheckError);
  const idx_t list_no = 0, offset = 0;
  std::uint8_t codes[2];
  CHECK_THROWS_AS(lists.gather(1, &list_no, &offset, codes), CheckError);
  const std::vector<std::vector<idx_t>> bad_sizes{{1, 0}, {3, 0}, {-1, 3}};
  const auto rows = [](auto...) { FAIL("nothing is asked for before the sizes are right"); };
  for (const auto& sizes : bad_sizes)
    CHECK_THROWS_AS(lists.import_from(sizes.data(), 2, rows), CheckError);
  for (const auto& [first, n] : {std::pair{0, 1}, {1, 0}, {-1, 1}, {0, -1}})
    CHECK_THROWS_AS(lists.export_codes(first, n, codes), CheckError);
}

TEST_CASE("inverted lists: extreme and duplicate ids") {
  InvertedLists lists(2, 1, 8);
  const idx_t low = std::numeric_limits<idx_t>::min(), high = std::numeric_limits<idx_t>::max();
  const std::vector<idx_t> list_no{1, 0, 0, 1}, ids{low, high, 7, 7};
  const std::vector<std::uint8_t> codes{0, 1, 2, 3};
  const std::vector<float> bias(4);
  std::vector<idx_t> offset(4), l(1), o(1);
  lists.add(4, list_no.data(), codes.data(), bias.data(), ids.data(), 0, offset.data());
  lists.locate(low, 1, l.data(), o.data());
  CHECK(l[0] == 1);
  lists.locate(high, 1, l.data(), o.data());
  CHECK(l[0] == 0);
  lists.locate(7, 1, l.data(), o.data());
  CHECK(l[0] == 1);
  CHECK(o[0] == 1);
  lists.locate(8, 1, l.data(), o.data());
  CHECK(l[0] == -1);
}

TEST_CASE("inverted lists: ids take the bytes that each list needs") {
  InvertedLists lists(2, 1, 8);
  std::vector<std::uint8_t> codes(100);
  std::vector<float> bias(100);
  std::vector<idx_t> list_no(100, 0), ids, offset(100);
  auto add = [&](idx_t n) {
    lists.add(n, list_no.data(), codes.data(), bias.data(), ids.data(), 0, offset.data());
  };
  for (idx_t i = 0; i < 100; ++i) ids.push_back(i);
  add(60);
  CHECK(lists.memory().ids == 0);
  for (idx_t i = 0; i < 40; ++i) ids[i] = 60 + i;
  add(40);
  CHECK(lists.memory().ids == 0);
  CHECK(lists.memory().bias >= 200);
  CHECK(lists.memory().codes >= 128);
  list_no[0] = 1;
  ids[0] = -1;  // the other list
  add(1);
  CHECK(lists.list(0).ids.width() == 0);
  CHECK(lists.list(1).ids.width() == 8);
  list_no[0] = 0;
  ids[0] = 7;
  add(1);
  CHECK(lists.list(0).ids.width() == 4);
  CHECK(lists.list(0).ids[99] == 99);
  CHECK(lists.list(0).ids[100] == 7);
  lists.reset();
  CHECK(lists.memory().ids == 0);
}
