#include <doctest/doctest.h>

#include "fuzz/sections.hpp"

using namespace fq;

TEST_CASE("restore: what lists are comes back as it was") {
  for (const auto& seed : test::fuzz_seeds()) test::fuzz_sections(seed.data(), seed.size());
  for (int byte = 0; byte < 128; ++byte)
    for (idx_t range : {idx_t{50}, idx_t{1} << 40}) {
      const test::Kind kind{static_cast<std::uint8_t>(byte)};
      InvertedLists one = kind.lists(), two = kind.lists();
      test::Rng rng;
      std::vector<idx_t> list_no, ids;
      for (idx_t i = 0; i < 300; ++i)
        list_no.push_back(rng.integer(0, kind.nlist() - 1)), ids.push_back(rng.integer(0, range));
      one.add(300, list_no.data(), rng.codes(300 * kind.M(), one.K()).data(),
              rng.floats(300).data(), ids.data(), 0, nullptr);
      std::vector<InvertedLists::Head> heads;
      std::vector<const Bytes*> blocks, of_ids;
      for (idx_t l = 0; l < kind.nlist(); ++l) {
        if (l % 2 == 0) one.replace(l, one.sorting(l));
        heads.push_back(one.head(l));
        blocks.push_back(&one.list(l).blocks);
        of_ids.push_back(&one.list(l).ids.sorted_bytes());
        of_ids.push_back(&one.list(l).ids.recent_bytes());
      }
      const auto take = [](const std::vector<const Bytes*>& parts) {
        return [&parts, i = std::size_t{0}](std::size_t n) mutable {
          REQUIRE(parts[i]->size() == n);
          return Bytes::view(parts[i++]->data(), n);
        };
      };
      two.restore(heads, take(blocks), take(of_ids), nullptr, true);
      REQUIRE(two.ntotal() == 300);
      std::vector<idx_t> a(300), b(300);
      std::vector<float> c(300), d(300);
      std::vector<std::uint8_t> e(static_cast<std::size_t>(300 * one.code_size())), f(e);
      one.export_ids(0, 300, a.data()), two.export_ids(0, 300, b.data());
      one.export_bias(0, 300, c.data()), two.export_bias(0, 300, d.data());
      one.export_codes(0, 300, e.data()), two.export_codes(0, 300, f.data());
      CHECK(a == b);
      CHECK(c == d);
      CHECK(e == f);
      CHECK(two.memory().codes + two.memory().ids == 0);
    }
}

TEST_CASE("restore: anything else is refused or does no harm") {
  std::vector<std::vector<std::uint8_t>> inputs = test::fuzz_seeds();
  const auto corpus = test::read_corpus(FAISS_QINCO_CORPUS);
  REQUIRE(corpus.size() > 100);
  inputs.insert(inputs.end(), corpus.begin(), corpus.end());
  test::Rng rng;
  for (const auto& input : inputs) {
    test::fuzz_sections(input.data(), input.size());
    for (int round = 0; round < 20; ++round) {
      std::vector<std::uint8_t> other = input;
      for (idx_t n = rng.integer(1, 4); n > 0 && !other.empty(); --n) {
        // Heads most of the time, which are short beside the rest.
        const idx_t end = rng.integer(0, 3) ? std::min<idx_t>(150, static_cast<idx_t>(other.size()))
                                            : static_cast<idx_t>(other.size());
        const auto at = static_cast<std::size_t>(rng.integer(0, end - 1));
        if (rng.integer(0, 20) == 0)
          other.resize(at);
        else
          other[at] =
              static_cast<std::uint8_t>(rng.integer(0, 3) ? rng.integer(0, 255) : other[at] + 1);
      }
      other.shrink_to_fit();
      test::fuzz_sections(other.data(), other.size());
    }
  }
}
