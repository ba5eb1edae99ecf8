#include "core/batch_scan.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <memory>
#include <tuple>

#include "index.hpp"
#include "support.hpp"

using namespace fq;

namespace {

constexpr int K = 256;
constexpr idx_t nlist = 6, nprobe = 6;

std::vector<std::tuple<float, idx_t, idx_t, idx_t>> keys(TopK& best) {
  std::vector<std::tuple<float, idx_t, idx_t, idx_t>> result;
  for (const Candidate& c : best.sorted()) result.push_back({c.score, c.id, c.list_no, c.offset});
  return result;
}

// Lists of random codes around the block size, and what queries look for in them.
struct Case {
  test::Rng& rng;
  int M;
  idx_t nq = kBatch;
  std::vector<float> lut, coarse, beside;
  std::vector<idx_t> list_no = {};
  std::uint32_t usable = ~std::uint32_t{0};
  bool ratios = false;

  Case(test::Rng& r, int M_, idx_t n, float size_of_lut, float size_of_bias)
      : rng(r),
        M(M_),
        lut(rng.floats(nq * M * K, size_of_lut)),
        coarse(rng.floats(nq * nprobe, size_of_lut)),
        beside(rng.floats(n, size_of_bias)) {
    for (idx_t i = 0; i < nq; ++i)
      for (idx_t p = 0; p < nprobe; ++p) list_no.push_back((i + p) % nlist);
  }

  // Every query finds what it finds alone. Small k: thresholds are near the best codes, where an
  // error of the bound loses one.
  void check() const {
    InvertedLists lists(nlist, M, 8, ratios ? Beside::Ratio : Beside::Bias);
    const auto n = static_cast<idx_t>(beside.size());
    std::vector<idx_t> of, ids;
    for (idx_t i = 0; i < n; ++i) {
      // Lists 1 to 3 have 1, 64 and 65 entries, list 4 is empty.
      of.push_back(i < 1 ? 1 : i < 65 ? 2 : i < 130 ? 3 : i % 2 ? 5 : 0);
      ids.push_back((n - i) / 2);  // duplicates, and against the order of storing
    }
    lists.add(n, of.data(), rng.codes(n * M, K).data(), beside.data(), ids.data(), 0, nullptr);
    const Selection all(nullptr, nlist, 1, false);
    Probes probes{lists, all, {}, nprobe, list_no.data(), coarse.data(), ratios};
    BatchScratch scratch;
    for (idx_t k : {idx_t{1}, idx_t{10}, idx_t{100}, n + 1}) {
      CAPTURE(k);
      REQUIRE(can_scan_batch(probes, 1));
      std::vector<TopK> got(static_cast<std::size_t>(nq), TopK(k));
      const Scanned counts = scan_batch(probes, usable, lut.data(), scratch, got.data());
      Scanned expected_counts;
      for (idx_t i = 0; i < nq; ++i) {
        CAPTURE(i);
        TopK expected(k);
        if (usable >> i & 1) {
          Probes one = probes;
          one.list_no += i * nprobe;
          one.coarse_score += i * nprobe;
          const Scanned c = scan_lists(one, &lut[i * M * K], {}, expected);  // without bounds
          expected_counts.n_lists += c.n_lists;
          expected_counts.n_codes += c.n_codes;
        }
        CHECK(keys(got[i]) == keys(expected));
      }
      CHECK(counts.n_lists == expected_counts.n_lists);
      CHECK(counts.n_codes == expected_counts.n_codes);
    }
  }
};

}  // namespace

TEST_CASE("batch_scan: each query finds what it finds alone") {
  test::Rng rng;
  const idx_t n = 3000;
  for (int M : {1, 4, 8, 32}) {
    CAPTURE(M);
    SUBCASE("random") { Case(rng, M, n, 30, 50).check(); }
    SUBCASE("few queries, lists of none, and lists that come twice") {
      Case c(rng, M, n, 30, 50);
      c.usable = 0b10111011101;
      for (idx_t i = 0; i < c.nq * nprobe; i += 5) c.list_no[i] = -1;
      for (idx_t i = 0; i < c.nq; i += 4) c.list_no[i * nprobe + 3] = c.list_no[i * nprobe + 5];
      c.check();
      c.usable = 0;
      c.check();
    }
    SUBCASE("ratios") {
      for (float size : {30.0f, 1e-3f})
        for (float spread : {0.1f, 0.4f, 20.0f})
          for (float shift : {0.0f, 5.0f, -5.0f}) {  // scores of either sign
            Case c(rng, M, n, size, spread);
            c.ratios = true;
            for (float& b : c.beside) b = std::max(1 + b, 0.0625f);
            for (float& s : c.coarse) s += shift * size * static_cast<float>(M);
            c.check();
          }
    }
    SUBCASE("few distinct scores") {
      Case c(rng, M, n, 1, 1);
      for (float& t : c.lut) t = std::round(t);
      for (float& s : c.coarse) s = std::round(s);
      for (float& b : c.beside) b = std::round(b);
      c.check();
    }
    SUBCASE("8 bits hold tables and scores exactly: only the margin covers the roundings") {
      for (float large : {0.0f, 1e6f, -1e7f})
        for (float of_bias : {0.0f, 0.5f}) {  // units: their rounding is covered too
          Case c(rng, M, n, 1, 1);
          for (float& t : c.lut) t = 0.3f * static_cast<float>(rng.integer(0, 255));
          for (idx_t i = 0; i < c.nq * M; ++i) c.lut[i * K] = 0, c.lut[i * K + 1] = 0.3f * 255;
          for (float& s : c.coarse) s = large;
          for (float& b : c.beside)
            b = 0.3f * (of_bias + static_cast<float>(rng.integer(-20, 20))) - large;
          c.check();
        }
    }
    SUBCASE("8 bits hold the tables exactly, with ratios: three numbers are rounded") {
      // Many codes have the score that is the threshold, and compete by their ids.
      for (int least : {128, 190, 253}) {
        Case c(rng, M, n, 1, 1);
        c.ratios = true;
        for (float& t : c.lut) t = static_cast<float>(rng.integer(0, 1));
        for (idx_t i = 0; i < c.nq * M; ++i) c.lut[i * K] = 0, c.lut[i * K + 1] = 255;
        for (idx_t i = 0; i < c.nq * nprobe; ++i)  // one for all lists of a query
          c.coarse[i] = -300 * static_cast<float>(M) - 1.7f * static_cast<float>(i / nprobe);
        for (float& b : c.beside) b = 1 + static_cast<float>(rng.integer(least, least + 2)) / 256;
        c.check();
      }
    }
    SUBCASE("differences lost beside large numbers, with ratios") {
      Case c(rng, M, n, 1, 0);
      c.ratios = true;
      for (float& b : c.beside) b = 1;
      for (float& t : c.lut) t = static_cast<float>(rng.integer(0, 3)) - 0x1p23f;
      for (idx_t i = 0; i < c.nq * M; ++i) c.lut[i * K] = 255 - 0x1p23f;  // a scale of about 1
      for (float& s : c.coarse) s = static_cast<float>(M) * 0x1p23f - 2000;
      c.check();
    }
    SUBCASE("differences lost beside large numbers") {
      Case c(rng, M, n, 1e-3f, 1e-3f);
      Case d = c;
      for (std::size_t i = 0; i < c.lut.size(); ++i) c.lut[i] += i / K % 2 ? 1e4f : -1e4f;
      c.check();
      for (float& b : d.beside) b += 1e6f;
      d.check();
      for (std::size_t i = 0; i < d.beside.size(); i += 7) d.beside[i] = i % 2 ? -1e30f : 1e30f;
      d.check();
    }
    SUBCASE("biases and limits that 16 bits cannot hold") {
      for (float sign : {-1.0f, 1.0f}) {
        Case c(rng, M, n, 1, 300);  // of a scale of about 1 / 40
        for (float& s : c.coarse) s += sign * 700;
        c.check();
        for (float& b : c.beside) b += sign * 900;
        c.check();
      }
    }
    SUBCASE("tables that are constant, of very different sizes, tiny, huge, or not finite") {
      Case c(rng, M, n, 1, 1);
      for (idx_t j = 0; j < c.nq; ++j) {
        const float size[] = {1, 0, 1e-30f, 1e30f, 1.9f, 3, 0.4f, 1e-40f};
        for (idx_t i = 0; i < M * K; ++i) c.lut[j * M * K + i] *= size[j % 8];
      }
      c.check();
      for (float size : {0.0f, 1e-40f}) {
        Case flat(rng, M, n, size, 1);
        for (float& t : flat.lut) t -= size == 0 ? 7.3f : 0;
        flat.check();
        for (float& b : flat.beside) b *= 1e-38f;
        flat.check();
        flat.ratios = true;
        for (float& b : flat.beside) b = 1 + 0.1f * std::abs(b);
        flat.check();
      }
      for (float bad : {NAN, std::numeric_limits<float>::infinity(), -FLT_MAX, FLT_MAX}) {
        for (idx_t j = 0; j < c.nq; j += 3) c.lut[j * M * K + 17] = bad;
        c.coarse[nprobe + 4] = bad;
        c.check();
      }
      for (float& b : c.beside) b *= 1e35f;
      c.check();
    }
  }
}

TEST_CASE("batch_scan: not for what it does not know") {
  const auto can = [](int M, int nbits, ScanLimits limits, const IdFilter* filter, idx_t n_short) {
    const InvertedLists lists(nlist, M, nbits);
    const Selection selection(filter, nlist, 1, false);
    return can_scan_batch({lists, selection, limits, 1, nullptr, nullptr}, n_short);
  };
  const RangeFilter filter(0, 10);
  CHECK(can(8, 8, {}, nullptr, 100));
  CHECK_FALSE(can(8, 7, {}, nullptr, 100));
  CHECK_FALSE(can(129, 8, {}, nullptr, 100));
  CHECK_FALSE(can(8, 8, {}, nullptr, 1'000'000));
  CHECK_FALSE(can(8, 8, {}, &filter, 100));
  ScanLimits limits;
  limits.max_codes = 5;
  CHECK_FALSE(can(8, 8, limits, nullptr, 100));
  limits = {};
  limits.min_codes = 5;
  CHECK_FALSE(can(8, 8, limits, nullptr, 100));
  limits = {};
  limits.max_lists = 5;
  CHECK_FALSE(can(8, 8, limits, nullptr, 100));
}

// Whole searches, which take groups of their queries where the level of the kernels does: what is
// found is what each query finds alone, where none does.
TEST_CASE("batch_scan: searches of many queries and of one agree") {
  test::Rng rng;
  constexpr idx_t d = 12, n_lists = 20, n = 2000, nq = 500, k = 7;
  const test::Model model(rng, true, true, d, 16, 3, 8, n_lists);
  const auto weights = std::make_shared<QincoWeights>(model.weights());
  const auto tables = std::make_shared<AdditiveTables>(3, K, d, rng.floats(3 * K * d, 0.3f).data());
  const auto centroids = rng.floats(n_lists * d), lengths = rng.floats(n);
  auto q = rng.floats(nq * d, 2);
  for (idx_t i = 30; i < nq; i += 50) q[i * d + 3] = i % 100 ? NAN : 1e25f;
  for (idx_t j = 0; j < d; ++j) q[2 * d + j] *= 1e6f;  // its tables are of another size
  std::vector<idx_t> list_no, chosen;
  std::vector<float> positive;
  for (idx_t i = 0; i < n; ++i) {
    list_no.push_back(rng.integer(0, n_lists - 2));  // the last list stays empty
    positive.push_back(0.5f + std::abs(lengths[i]));
  }
  for (idx_t i = 0; i < nq * 8; ++i) chosen.push_back(rng.integer(-1, n_lists - 1));
  for (const bool corrects : {false, true})
    for (const Metric metric : {Metric::L2, Metric::InnerProduct}) {
      if (corrects && metric == Metric::L2) continue;
      const auto engine = std::make_shared<Engine>(Engine::Parts{
          n_lists, 3, 8, metric, centroids.data(), tables, weights, {}, {}, nullptr, corrects});
      engine->add(n, list_no.data(), rng.codes(n * 3, K).data(), positive.data(), nullptr, {1});
      for (const idx_t nshort : {0, 20})
        for (const bool given : {false, true}) {
          test::Call call{{nq, q.data()}, engine.get(), k};
          call.nprobe = 8;
          call.nshort = nshort;
          if (given) call.coarse_list_no = chosen.data();
          search_stats.nlist = search_stats.ndis = 0;
          const test::Result batch = test::run_search(call);
          const idx_t n_visited = search_stats.nlist, n_scanned = search_stats.ndis;
          CHECK(test::run_search(call, 3) == batch);
          search_stats.nlist = search_stats.ndis = 0;
          for (idx_t i = 0; i < nq; ++i) {
            test::Call one = call;
            one.n = 1;
            one.q = &q[i * d];
            if (given) one.coarse_list_no = &chosen[i * 8];
            const test::Result alone = test::run_search(one);
            CHECK(std::equal(alone.D.begin(), alone.D.end(), batch.D.begin() + i * k));
            CHECK(std::equal(alone.I.begin(), alone.I.end(), batch.I.begin() + i * k));
          }
          CHECK(search_stats.nlist == n_visited);
          CHECK(search_stats.ndis == n_scanned);
        }
    }
}
