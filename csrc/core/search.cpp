#include "core/search.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "core/check.hpp"
#include "core/coarse.hpp"
#include "core/distance.hpp"
#include "core/parallel.hpp"
#include "core/rerank.hpp"
#include "core/shortlist.hpp"

namespace fq {
namespace {

struct Worker {  // scratch of one thread
  std::vector<idx_t> list_no;
  std::vector<float> coarse_score, lut;
  CoarseScratch coarse;
  std::vector<TopK> shortlists, results;
  LutU8 lut_u8;
  RerankScratch rerank;
};

void check_args(const SearchArgs& a) {
  const InvertedLists& lists = a.lists;
  check(a.k >= 1, "k: expected at least 1, got ", a.k);
  check(a.nprobe >= 1, "nprobe: expected at least 1, got ", a.nprobe);
  check(a.nshort >= 0, "nshort: expected at least 0, got ", a.nshort);
  check(a.tables.M() == lists.M() && a.tables.K() == lists.K(), "tables: expected M = ", lists.M(),
        " and K = ", lists.K(), " as the lists, got M = ", a.tables.M(), " and K = ", a.tables.K());
  check(a.centroids || (a.coarse_list_no && a.coarse_score),
        "centroids: needed unless coarse_list_no and coarse_score are given");
  check(a.coarse_list_no || !a.coarse_score, "coarse_score: expected None without coarse_list_no");
  if (a.coarse_list_no)
    for (idx_t i = 0; i < a.n * a.nprobe; ++i)
      if (a.coarse_list_no[i] < -1 || a.coarse_list_no[i] >= lists.nlist())
        check(false, "coarse_list_no[", i / a.nprobe, ", ", i % a.nprobe, "]: expected -1 to ",
              lists.nlist() - 1, ", got ", a.coarse_list_no[i]);
  if (a.nshort == 0) return;
  check(a.weights, "weights: expected QincoWeights for nshort > 0, got None");
  const QincoWeights& w = *a.weights;
  check(w.d() == a.tables.d(), "weights: expected d = ", a.tables.d(), ", got ", w.d());
  check(w.nbits() == lists.nbits() && w.M() >= lists.M(),
        "weights: expected nbits = ", lists.nbits(), " and at least ", lists.M(),
        " codes, got nbits = ", w.nbits(), " and ", w.M(), " codes");
  check(!w.ivf() || w.n_base() == lists.nlist(), "weights: expected a base of ", lists.nlist(),
        " centroids, got ", w.n_base());
  check(!a.table || &a.table->weights() == &w, "table: expected one of these weights");
  if (!a.early_exit) return;
  const EarlyExit& e = *a.early_exit;
  check(e.M() == lists.M() && e.K() == lists.K() && e.d() == w.d(),
        "early_exit: expected M = ", lists.M(), ", K = ", lists.K(), ", d = ", w.d(), ", got ",
        e.M(), ", ", e.K(), ", ", e.d());
  check(a.exit_margin >= 0, "exit_margin: expected at least 0, got ", a.exit_margin);
  if (!a.student) return;
  const QincoWeights& s = *a.student;
  check(s.d() == w.d() && s.nbits() == w.nbits() && s.M() >= lists.M() && s.ivf() == w.ivf() &&
            s.n_base() == w.n_base(),
        "student: expected d, nbits, M and base as of weights");
}

// Coarse lists and (minimised) scores of nq queries from `begin`.
void probe(const SearchArgs& a, idx_t begin, idx_t nq, idx_t nprobe, Worker& w) {
  const idx_t d = a.tables.d(), n = nq * nprobe;
  w.list_no.resize(static_cast<std::size_t>(n));
  w.coarse_score.resize(static_cast<std::size_t>(n));
  const float* q = a.q + begin * d;
  if (!a.coarse_list_no) {
    assign_block(a.lists.nlist(), a.centroids, d, nq, q, nprobe, a.metric, w.coarse,
                 w.list_no.data(), w.coarse_score.data());
    return;
  }
  std::copy_n(a.coarse_list_no + begin * nprobe, n, w.list_no.data());
  for (idx_t i = 0; i < n; ++i) {
    if (w.list_no[i] == -1) continue;
    if (!a.coarse_score) {
      const float* centroid = a.centroids + w.list_no[i] * d;
      w.coarse_score[i] = exact_score(q + i / nprobe * d, centroid, d, a.metric);
    } else {
      const float distance = a.coarse_score[begin * nprobe + i];
      w.coarse_score[i] = a.metric == Metric::L2 ? distance : -distance;
    }
  }
}

// The codes of one query's results, at most k, as row `query` of `found`.
void put_codes(const InvertedLists& lists, const std::vector<Candidate>& results, idx_t k,
               idx_t query, const ResultCodes& found) {
  idx_t* list_no = found.list_no + query * k;
  std::uint8_t* codes = found.codes + query * k * lists.M();
  std::fill_n(list_no, k, idx_t{-1});
  std::fill_n(codes, k * lists.M(), std::uint8_t{0});
  for (const Candidate& c : results) {
    *list_no++ = c.list_no;
    lists.read_code(c.list_no, c.offset, codes);
    codes += lists.M();
  }
}

// As many threads as the caller allows, but one where all the work is less than that is worth:
// to start one costs tens of µs. `n_short`: vectors to decode for a query.
Execution worth_threads(const SearchArgs& a, idx_t n_short, const Execution& run) {
  constexpr double kPerMicrosecond = 8000;  // multiply-adds, table look-ups: of a slow CPU
  const InvertedLists& lists = a.lists;
  const auto d = static_cast<double>(a.tables.d()), M = static_cast<double>(lists.M());
  const auto nlist = static_cast<double>(lists.nlist());
  const double probed = std::min(static_cast<double>(a.nprobe) / nlist, 1.0);
  double work = d * M * lists.K() + probed * static_cast<double>(lists.ntotal()) * M * 8;
  if (!a.coarse_list_no) work += nlist * d;
  if (a.nshort > 0) {
    const QincoWeights& w = *a.weights;
    const auto d_e = static_cast<double>(w.d_e());
    work +=
        static_cast<double>(n_short) * M * d_e * (2 * d + 2.0 * double(w.L()) * double(w.d_h()));
  }
  Execution result = run;
  if (static_cast<double>(a.n) * work < run.min_work * kPerMicrosecond) result.n_threads = 1;
  return result;
}

Selection select(const SearchArgs& a, idx_t nprobe) {
  const auto probes = static_cast<double>(a.n) * static_cast<double>(nprobe);
  const idx_t nlist = a.lists.nlist();
  return {a.filter, nlist, probes / static_cast<double>(nlist), a.limits.max_codes > 0};
}

}  // namespace

SearchStats search_stats;

void search(const SearchArgs& a, float* D, idx_t* I, const Execution& allowed,
            const ResultCodes& found) {
  check_args(a);
  const InvertedLists& lists = a.lists;
  const idx_t d = a.tables.d(), lut_size = idx_t{lists.M()} * lists.K();
  const float sign = a.metric == Metric::L2 ? 1.0f : -1.0f;
  const idx_t nprobe = a.coarse_list_no ? a.nprobe : std::min(a.nprobe, lists.nlist());
  // No selection holds more than all entries, so a huge k costs nothing.
  const idx_t k = std::clamp<idx_t>(a.k, 1, std::max<idx_t>(lists.ntotal(), 1));
  const idx_t n_short = std::clamp<idx_t>(a.nshort, k, std::max<idx_t>(lists.ntotal(), k));

  const Execution run = worth_threads(a, n_short, allowed);
  const Selection selection = select(a, nprobe);

  // Small enough for all workers and for Ctrl-C; large enough that the tables are one product and
  // small shortlists fill the decoder.
  const idx_t max_block = std::clamp<idx_t>(2048 / n_short, 1, 16);
  const idx_t share = a.n / (4 * std::max<idx_t>(run.n_threads, 1)) + 1;
  const idx_t block_size = std::min(share, max_block);
  const idx_t n_blocks = (a.n + block_size - 1) / block_size;

  std::vector<Worker> workers(static_cast<std::size_t>(n_workers(n_blocks, run)));
  parallel_for(n_blocks, run, [&](idx_t block, int worker) {
    Worker& w = workers[worker];
    const idx_t begin = block * block_size, nq = std::min(block_size, a.n - begin);
    const float* q = a.q + begin * d;

    probe(a, begin, nq, nprobe, w);

    search_stats.nq += nq;
    w.lut.resize(static_cast<std::size_t>(nq * lut_size));
    a.tables.compute(nq, q, a.metric, w.lut.data());

    w.shortlists.resize(static_cast<std::size_t>(nq));
    for (idx_t i = 0; i < nq; ++i) {
      w.shortlists[i].reset(n_short);
      if (all_finite(q + i * d, d))
        scan_lists({lists, selection, a.limits, nprobe, &w.list_no[i * nprobe],
                    &w.coarse_score[i * nprobe]},
                   &w.lut[i * lut_size], w.lut_u8, w.shortlists[i]);
    }

    std::vector<TopK>* best = &w.shortlists;
    if (a.nshort > 0) {
      w.results.resize(static_cast<std::size_t>(nq));
      for (TopK& result : w.results) result.reset(k);
      w.rerank.n_entries = w.rerank.n_steps = 0;
      w.rerank.n_steps_saved = w.rerank.n_student_steps = 0;
      rerank_block(lists, *a.weights, a.table, a.student, a.early_exit, a.exit_margin, nq, q, k,
                   a.metric, w.shortlists, w.results, w.rerank);
      best = &w.results;
      search_stats.n_steps += w.rerank.n_steps;
      search_stats.n_steps_saved += w.rerank.n_steps_saved;
      search_stats.n_student_steps += w.rerank.n_student_steps;
      search_stats.n_reranked += w.rerank.n_entries;
    }

    for (idx_t i = 0; i < nq; ++i) {
      float* Di = D + (begin + i) * a.k;
      idx_t* Ii = I + (begin + i) * a.k;
      std::fill_n(Di, a.k, sign * FLT_MAX);
      std::fill_n(Ii, a.k, idx_t{-1});
      for (const Candidate& c : (*best)[i].sorted()) {
        *Di++ = sign * c.score;
        *Ii++ = c.id;
      }
      if (found.codes) put_codes(lists, (*best)[i].sorted(), a.k, begin + i, found);
    }
  });
}

std::vector<RangeHits> range_search(const SearchArgs& a, float radius, const Execution& run) {
  check_args(a);
  std::vector<RangeHits> hits(static_cast<std::size_t>(a.n));
  if (std::isnan(radius)) return hits;
  const InvertedLists& lists = a.lists;
  const idx_t d = a.tables.d(), M = lists.M(), lut_size = M * lists.K();
  const float sign = a.metric == Metric::L2 ? 1.0f : -1.0f;
  const idx_t nprobe = a.coarse_list_no ? a.nprobe : std::min(a.nprobe, lists.nlist());
  const idx_t n_short = std::min(a.nshort, lists.ntotal());
  const Selection selection = select(a, nprobe);

  const idx_t block_size = std::clamp<idx_t>(a.n / (4 * std::max<idx_t>(run.n_threads, 1)), 1, 16);
  const idx_t n_blocks = (a.n + block_size - 1) / block_size;
  std::vector<Worker> workers(static_cast<std::size_t>(n_workers(n_blocks, run)));
  parallel_for(n_blocks, run, [&](idx_t block, int worker) {
    Worker& w = workers[worker];
    const idx_t begin = block * block_size, nq = std::min(block_size, a.n - begin);
    probe(a, begin, nq, nprobe, w);
    w.lut.resize(static_cast<std::size_t>(nq * lut_size));
    a.tables.compute(nq, a.q + begin * d, a.metric, w.lut.data());

    std::vector<std::uint8_t> codes;
    std::vector<idx_t> list_no;
    std::vector<float> decoded;
    for (idx_t i = 0; i < nq; ++i) {
      const float* q = a.q + (begin + i) * d;
      if (!all_finite(q, d)) continue;
      RangeHits& hit = hits[begin + i];
      auto keep = [&](float score, idx_t id) {
        if (!(score < sign * radius)) return;
        hit.D.push_back(sign * score);
        hit.I.push_back(id);
      };
      RangeCollector found(sign * radius, n_short, [&](const RangeCollector::Batch& batch) {
        if (a.nshort == 0) {
          for (const Candidate& c : batch) keep(c.score, c.id);
          return;
        }
        const auto n = static_cast<idx_t>(batch.size());
        list_no.resize(batch.size());
        codes.resize(static_cast<std::size_t>(n * M));
        decoded.resize(static_cast<std::size_t>(n * d));
        for (idx_t j = 0; j < n; ++j) {
          list_no[j] = batch[j].list_no;
          lists.read_code(batch[j].list_no, batch[j].offset, &codes[j * M]);
        }
        decode(*a.weights, n, list_no.data(), codes.data(), M, lists.M(), decoded.data(), {1});
        for (idx_t j = 0; j < n; ++j)
          keep(exact_score(q, &decoded[j * d], d, a.metric), batch[j].id);
      });
      scan_lists(
          {lists, selection, a.limits, nprobe, &w.list_no[i * nprobe], &w.coarse_score[i * nprobe]},
          &w.lut[i * lut_size], w.lut_u8, found);
      found.finish();
    }
  });
  return hits;
}

}  // namespace fq
