#include "core/list_builder.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/check.hpp"
#include "support.hpp"

using namespace fq;

namespace {

struct Rows {
  std::vector<std::uint32_t> list_no;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint16_t> beside;
  std::vector<idx_t> ids;  // or none

  Rows(test::Rng& rng, idx_t n, idx_t nlist, int code_size) : codes(rng.codes(n * code_size, 256)) {
    for (idx_t i = 0; i < n; ++i) {
      const idx_t l = rng.integer(-1, nlist - 1);
      list_no.push_back(l < 0 ? ListBuilder::kNotStored : static_cast<std::uint32_t>(l));
      bf16 half = to_bf16(rng.floats(1)[0]);
      std::uint16_t bits;
      std::memcpy(&bits, &half, 2);
      beside.push_back(bits);
    }
  }
  idx_t n() const { return static_cast<idx_t>(list_no.size()); }
  const idx_t* ids_from(idx_t i) const { return ids.empty() ? nullptr : ids.data() + i; }

  void count(ListBuilder& builder) const { builder.count(n(), list_no.data(), ids_from(0), 0); }
  // In pieces of any length.
  void add(ListBuilder& builder, idx_t piece, int n_threads) const {
    for (idx_t i = 0; i < n(); i += piece)
      builder.add(std::min(piece, n() - i), list_no.data() + i,
                  codes.data() + i * builder.code_size(),
                  builder.has_beside() ? beside.data() + i : nullptr, ids_from(i), i, {n_threads});
  }
};

// What an InvertedLists of the same rows holds, once all its ids are sorted.
void check_same(const ListBuilder& builder, const Rows& rows, idx_t first, idx_t end,
                int n_threads) {
  const int M = builder.code_size();
  InvertedLists lists(builder.nlist(), M, 8, builder.has_beside() ? Beside::Bias : Beside::Nothing);
  std::vector<idx_t> list_no;
  std::vector<float> bias;
  for (idx_t i = 0; i < rows.n(); ++i) {
    const std::uint32_t l = rows.list_no[i];
    list_no.push_back(l == ListBuilder::kNotStored ? -1 : idx_t{l});
    bf16 half;
    std::memcpy(&half, &rows.beside[i], 2);
    bias.push_back(to_float(half));
  }
  lists.add(rows.n(), list_no.data(), rows.codes.data(), bias.data(), rows.ids_from(0), 0, nullptr);

  std::vector<std::uint8_t> blocks, ids;
  for (idx_t l = first; l < end; ++l) {
    if (!lists.list(l).ids.are_offsets()) lists.replace(l, lists.sorting(l));
    const InvertedLists::Head one = builder.head(l), two = lists.head(l);
    CHECK(one.n == two.n);
    CHECK(one.ids.width == two.ids.width);
    CHECK(one.ids.sorted.least == two.ids.sorted.least);
    CHECK(one.ids.sorted.n_made == two.ids.sorted.n_made);
    CHECK(one.ids.sorted.n_words == two.ids.sorted.n_words);
    CHECK(one.ids.sorted.low_bits == two.ids.sorted.low_bits);
    const InvertedLists::List& list = lists.list(l);
    CHECK(builder.block_nbytes(l) == list.blocks.size());
    CHECK(builder.ids_nbytes(l) == list.ids.sorted_bytes().size());
    blocks.insert(blocks.end(), list.blocks.data(), list.blocks.data() + list.blocks.size());
    const Bytes& sorted = list.ids.sorted_bytes();
    ids.insert(ids.end(), sorted.data(), sorted.data() + sorted.size());
  }
  std::vector<std::uint8_t> to_blocks(blocks.size(), 0xAA), to_ids(ids.size(), 0xAA);
  builder.write(first, end, to_blocks.data(), to_ids.data(), {n_threads});
  CHECK(to_blocks == blocks);
  CHECK(to_ids == ids);
}

}  // namespace

TEST_CASE("list builder: what inverted lists hold, for any ranges, pieces and threads") {
  test::Rng rng;
  for (idx_t n : {0, 1, 64, 700})
    for (idx_t nlist : {1, 7})
      for (int code_size : {1, 5})
        for (bool has_beside : {false, true})
          for (int kind = 0; kind < 4; ++kind) {
            CAPTURE(n);
            CAPTURE(nlist);
            CAPTURE(kind);
            Rows rows(rng, n, nlist, code_size);
            for (idx_t i = 0; kind > 0 && i < n; ++i)
              rows.ids.push_back(kind == 1   ? n - i
                                 : kind == 2 ? rng.integer(-5, 5)  // many times the same
                                             : rng.integer(std::numeric_limits<idx_t>::min(),
                                                           std::numeric_limits<idx_t>::max()));
            if (kind == 0 && nlist == 1)  // 0, 1, 2 …
              std::fill(rows.list_no.begin(), rows.list_no.end(), 0);
            ListBuilder builder(nlist, code_size, has_beside);
            rows.count(builder);
            if (kind == 0 && nlist == 1) CHECK(builder.ids_nbytes(0) == 0);
            for (idx_t width : {idx_t{1}, idx_t{3}, nlist})
              for (idx_t first = 0; first < nlist; first += width) {
                const idx_t end = std::min(first + width, nlist);
                const int n_threads = static_cast<int>(width);
                builder.begin(first, end);
                rows.add(builder, width == 3 ? 37 : 1000, n_threads);
                check_same(builder, rows, first, end, n_threads);
              }
            ListBuilder again(nlist, code_size, has_beside);
            again.set_counts(builder.counts());
            again.begin(0, nlist);
            rows.add(again, 1000, 1);
            check_same(again, rows, 0, nlist, 1);
          }
}

TEST_CASE("list builder: rows that are not those counted are refused") {
  test::Rng rng;
  const idx_t nlist = 4;
  const Rows rows(rng, 100, nlist, 2);
  std::vector<std::uint8_t> blocks(1 << 16), ids(1 << 16);
  const auto built = [&](const Rows& added) {
    ListBuilder builder(nlist, 2, true);
    rows.count(builder);
    builder.begin(0, nlist);
    added.add(builder, 30, 2);
    builder.write(0, nlist, blocks.data(), ids.data(), {2});
  };
  CHECK_NOTHROW(built(rows));

  Rows other = rows;
  other.list_no.push_back(1), other.beside.push_back(0), other.codes.resize(202);
  CHECK_THROWS_WITH_AS(built(other), doctest::Contains("more than"), CheckError);
  other = rows;
  *std::find(other.list_no.begin(), other.list_no.end(), 2) = ListBuilder::kNotStored;
  CHECK_THROWS_WITH_AS(built(other), doctest::Contains("were counted, got"), CheckError);
  other = rows;
  for (idx_t i = 0; i < 100; ++i) other.ids.push_back(i * i);
  CHECK_THROWS_WITH_AS(built(other), doctest::Contains("its ids"), CheckError);
  other = rows;
  for (idx_t i = 0; i < 100; ++i)  // infinity, of a row that is stored
    if (rows.list_no[i] == 0) other.beside[i] = 0x7F80;
  CHECK_THROWS_WITH_AS(built(other), doctest::Contains("finite"), CheckError);

  ListBuilder builder(nlist, 2, true);
  other = rows;
  other.list_no[50] = nlist;
  CHECK_THROWS_AS(other.count(builder), CheckError);
  CHECK(builder.counts()[0].n == 0);  // nothing has been counted
  CHECK_THROWS_AS(builder.begin(0, nlist + 1), CheckError);
  CHECK_THROWS_AS(builder.write(0, 1, blocks.data(), ids.data(), {}), CheckError);
  CHECK_THROWS_AS(builder.set_counts({}), CheckError);
  CHECK_THROWS_AS(ListBuilder(0, 2, true), CheckError);
}
