#include "core/shortlist.hpp"

#include <doctest/doctest.h>

#include <cfloat>
#include <limits>
#include <utility>

#include "support.hpp"

using namespace fq;

namespace {

constexpr int K = 256;

// Lists of random codes around the block size, one of them empty.
struct Lists {
  InvertedLists lists;
  idx_t n = 0;

  Lists(test::Rng& rng, int M, const std::vector<float>& bias, Beside beside = Beside::Bias)
      : lists(6, M, 8, beside) {
    n = static_cast<idx_t>(bias.size());
    std::vector<idx_t> list_no, ids;
    for (idx_t i = 0; i < n; ++i) {
      // Lists 1 to 4 have 1, 63, 64 and 65 entries, list 5 the rest.
      list_no.push_back(i < 1 ? 1 : i < 64 ? 2 : i < 128 ? 3 : i < 193 ? 4 : 5);
      ids.push_back((n - i) / 2);  // duplicates, and against the order of storing
    }
    lists.add(n, list_no.data(), rng.codes(n * M, K).data(), bias.data(), ids.data(), 0, nullptr);
  }
};

using Key = std::tuple<float, idx_t, idx_t, idx_t>;

std::vector<Key> keys(TopK& best) {
  std::vector<Key> result;
  for (const Candidate& c : best.sorted()) result.push_back({c.score, c.id, c.list_no, c.offset});
  return result;
}

// Accepts the ids below a number and every 100th of the others.
struct SomeIds : IdFilter {
  idx_t all_below;
  bool cheap = false;
  explicit SomeIds(idx_t below) : all_below(below) {}
  bool is_cheap() const override { return cheap; }
  bool accepts(idx_t id) const override { return id < all_below || id % 100 == 0; }
  void accept(const ListIds& ids, std::uint64_t* words) const override {
    accept_each(ids, words, [this](idx_t id) { return accepts(id); });
  }
};

// The shortlist against float scores of every code, in the order of operations of the header.
void check_scan(const Lists& data, const std::vector<float>& lut, const std::vector<float>& coarse,
                const SomeIds* filter, ScanLimits limits = {}, bool ratios = false,
                std::size_t n_first = 7) {  // of the lists; the others are further ones
  const InvertedLists& lists = data.lists;
  const std::vector<idx_t> probed{5, 0, -1, 4, 3, 2, 1};
  std::vector<std::uint8_t> code(static_cast<std::size_t>(lists.M()));
  for (idx_t k : {idx_t{1}, idx_t{10}, idx_t{100}, data.n + 1}) {
    TopK expected(k), got(k);
    idx_t scanned = 0, n_lists = 0;
    auto done = [&] { return limits.max_codes > 0 && scanned >= limits.max_codes; };
    for (std::size_t p = 0; p < probed.size() && !done(); ++p) {
      if (p >= n_first && scanned >= limits.min_codes) break;
      if (limits.max_lists > 0 && n_lists == limits.max_lists) break;
      n_lists += probed[p] >= 0 && lists.list(probed[p]).size() > 0;
      for (idx_t o = 0; probed[p] >= 0 && o < lists.list(probed[p]).size(); ++o) {
        if (!limits.whole_lists && done()) break;
        if (filter && !filter->accepts(lists.list(probed[p]).ids[o])) continue;
        ++scanned;
        lists.read_code(probed[p], o, lists.M(), code.data());
        float sum = 0;
        for (int m = 0; m < lists.M(); ++m) sum += lut[m * K + code[m]];
        const float beside = bias_at(lists.bias(probed[p]), o);
        expected.push({ratios ? (coarse[p] + sum) / beside : (coarse[p] + sum) + beside,
                       lists.list(probed[p]).ids[o], probed[p], o});
      }
    }
    for (double visits : {1.0, 1e9}) {
      LutU8 bounds;
      bounds.quantize(lists.M(), lut.data());
      const Selection selection(filter, lists.nlist(), visits, limits.count());
      got.reset(k);
      Probes probes{lists,         selection,     limits, static_cast<idx_t>(n_first),
                    probed.data(), coarse.data(), ratios};
      if (n_first < probed.size())
        probes.further = [&, p = n_first]() mutable -> std::optional<Probe> {
          if (p == probed.size()) return std::nullopt;
          ++p;
          return Probe{probed[p - 1], coarse[p - 1]};
        };
      const Scanned counts = scan_lists(probes, lut.data(), bounds, got);
      CHECK(keys(got) == keys(expected));
      CHECK(counts.n_lists == n_lists);
      if (!filter || limits.count() || visits > 1) CHECK(counts.n_codes == scanned);
    }
  }
}

}  // namespace

TEST_CASE("shortlist: what float scores of every code give, ties and selections included") {
  test::Rng rng;
  const idx_t n = 5000;
  for (int M : {1, 4, 8, 33, 64, 70}) {
    CAPTURE(M);
    const idx_t size = idx_t{M} * K;
    std::vector<float> coarse = rng.floats(7, 100);
    SomeIds few(0), half(n / 4), all(n);
    few.cheap = all.cheap = true;
    auto check_all = [&](const std::vector<float>& lut, const std::vector<float>& bias) {
      const Lists data(rng, M, bias);
      for (const SomeIds* filter :
           std::initializer_list<const SomeIds*>{nullptr, &few, &half, &all})
        check_scan(data, lut, coarse, filter);
    };
    SUBCASE("random") { check_all(rng.floats(size, 30), rng.floats(n, 50)); }
    SUBCASE("ratios in place of biases") {
      std::vector<float> near = rng.floats(n), any(n);
      for (float& r : near) r = 1 + 0.1f * r;
      for (float& r : any) r = std::exp2(static_cast<float>(rng.integer(-4, 19)));
      for (const auto& ratio : {near, any})
        for (float size_of_lut : {30.0f, 1e-3f}) {
          const Lists data(rng, M, ratio, Beside::Ratio);
          const auto lut_of_ratios = rng.floats(size, size_of_lut);
          for (const SomeIds* filter : std::initializer_list<const SomeIds*>{nullptr, &few})
            check_scan(data, lut_of_ratios, coarse, filter, {}, true);
        }
    }
    SUBCASE("few distinct scores") {
      auto lut = rng.floats(size);
      auto bias = rng.floats(n);
      for (float& t : lut) t = std::round(t);
      for (float& b : bias) b = std::round(b);
      check_all(lut, bias);
    }
    SUBCASE("constant tables") {
      check_all(std::vector<float>(size, -7.3f), rng.floats(n));
      check_all(std::vector<float>(size, 0.0f), std::vector<float>(n, 0.0f));
    }
    SUBCASE("8 bits hold the tables exactly: only the margin covers the roundings") {
      for (float large : {1e6f, -1e7f}) {
        std::vector<float> lut(size), bias = rng.floats(n);
        for (float& t : lut) t = 0.3f * static_cast<float>(rng.integer(0, 255));
        lut[0] = 0;
        lut[1] = 0.3f * 255;
        for (float& c : coarse) c += large;
        for (float& b : bias) b -= large;
        check_all(lut, bias);
      }
    }
    SUBCASE("differences lost beside large numbers") {
      auto lut = rng.floats(size, 1e-3f);
      for (idx_t i = 0; i < size; ++i) lut[i] += i / K % 2 ? 1e4f : -1e4f;
      check_all(lut, rng.floats(n, 1e-3f));
      auto bias = rng.floats(n, 1e-3f);
      for (float& b : bias) b += 1e6f;
      check_all(rng.floats(size, 1e-3f), bias);
      for (idx_t i = 0; i < n; i += 7) bias[i] = -1e30f;
      check_all(rng.floats(size), bias);
    }
    SUBCASE("tiny and huge") {
      check_all(rng.floats(size, 1e-38f), rng.floats(n, 1e-38f));
      check_all(rng.floats(size, 1e35f), rng.floats(n, 1e35f));
      auto lut = rng.floats(size);
      lut[3] = FLT_MAX;
      lut[4] = -FLT_MAX;  // the range overflows
      check_all(lut, rng.floats(n));
    }
    SUBCASE("one table far wider than the others") {
      auto lut = rng.floats(size);
      for (int k = 0; k < K; ++k) lut[k] *= 1e5f;
      check_all(lut, rng.floats(n));
    }
  }
}

TEST_CASE("shortlist: it ends after max_codes selected codes, or with the list they are in") {
  test::Rng rng;
  const idx_t n = 1000;
  const Lists data(rng, 4, rng.floats(n));  // the first list probed has 807 entries
  const auto lut = rng.floats(4 * K), coarse = rng.floats(7);
  const SomeIds few(0), half(n / 4);
  for (bool whole_lists : {false, true})
    for (idx_t max_codes : {1, 63, 64, 65, 500, 806, 807, 808, 871, 872, 5000})
      for (const SomeIds* filter : {static_cast<const SomeIds*>(nullptr), &few, &half})
        check_scan(data, lut, coarse, filter, {max_codes, whole_lists});
}

TEST_CASE("shortlist: it goes on for min_codes selected codes, to max_lists lists with something") {
  test::Rng rng;
  const idx_t n = 1000;
  const Lists data(rng, 4, rng.floats(n));  // probed: 807 entries, none, no list, 65, 64, 63, 1
  const auto lut = rng.floats(4 * K), coarse = rng.floats(7);
  const SomeIds few(0), half(n / 4);
  for (std::size_t n_first : {0, 2, 4, 7})
    for (idx_t min_codes : {0, 1, 807, 808, 872, 873, 5000})
      for (idx_t max_lists : {0, 1, 3, 9})
        for (idx_t max_codes : {0, 300, 900})
          for (const SomeIds* filter : {static_cast<const SomeIds*>(nullptr), &few, &half})
            check_scan(data, lut, coarse, filter,
                       {max_codes, n_first == 4, 0, max_lists, min_codes}, false, n_first);
}

TEST_CASE("range collector: what is up to the bound is taken, what is below the radius counted") {
  std::vector<Candidate> taken;
  auto collect = [&](float radius, float bound, idx_t n) {
    taken.clear();
    RangeCollector found(radius, bound, [&](const Candidate& c) { taken.push_back(c); });
    for (idx_t i = 0; i < n; ++i) {
      const float score = static_cast<float>(i * 7919 % n);  // a permutation, for n = 5000
      if (score <= found.threshold()) found.push({score, i, 0, i});
    }
    std::sort(taken.begin(), taken.end());
    for (std::size_t i = 0; i < taken.size(); ++i) CHECK(taken[i].score == static_cast<float>(i));
    return std::pair(found.n_inside(), static_cast<idx_t>(taken.size()));
  };
  CHECK(collect(4000, 4000, 5000) == std::pair<idx_t, idx_t>(4000, 4001));
  CHECK(collect(3, 100, 5000) == std::pair<idx_t, idx_t>(3, 101));
  CHECK(collect(0, -1, 5000) == std::pair<idx_t, idx_t>(0, 0));
  CHECK(collect(0, std::numeric_limits<float>::infinity(), 5000) ==
        std::pair<idx_t, idx_t>(0, 5000));
}

TEST_CASE("lut_u8: bounds from below, and no closer than they must be") {
  test::Rng rng;
  for (int M : {1, 8, 64}) {
    const auto lut = rng.floats(idx_t{M} * K, 100);
    LutU8 bounds;
    REQUIRE(bounds.quantize(M, lut.data()));
    float low = 0;
    for (int m = 0; m < M; ++m) low += *std::min_element(&lut[m * K], &lut[m * K] + K);
    CHECK(bounds.constant(10, 1e3f) == doctest::Approx(10 + low).epsilon(1e-4));
    for (int i = 0; i < M * K; ++i) {
      const int m = i / K;
      const float table_low = *std::min_element(&lut[m * K], &lut[m * K] + K);
      const float slack = lut[i] - (table_low + bounds.scale() * bounds.values()[i]);
      CHECK(slack >= -1e-3f);
      CHECK(slack <= bounds.scale() * 1.001f);
    }
  }
}

TEST_CASE("lut_u8: nothing from tables that are not finite") {
  std::vector<float> lut(2 * K, 1.0f);
  LutU8 bounds;
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()})
    for (int i : {0, 17, K, 2 * K - 1}) {
      auto changed = lut;
      changed[i] = bad;
      CHECK_FALSE(bounds.quantize(2, changed.data()));
    }
  CHECK(bounds.quantize(2, lut.data()));
  CHECK(std::isinf(bounds.constant(0, std::numeric_limits<float>::infinity())));
}
