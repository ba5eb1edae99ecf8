#include "core/search.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "core/batch_scan.hpp"
#include "core/check.hpp"
#include "core/coarse.hpp"
#include "core/distance.hpp"
#include "core/parallel.hpp"
#include "core/query_groups.hpp"
#include "core/rerank.hpp"
#include "core/shortlist.hpp"
#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

struct Worker {  // scratch of one thread
  std::vector<idx_t> list_no;
  std::vector<float> coarse_score, lut, q;
  BatchScratch batch;
  CoarseScratch coarse;
  ListOrder further;
  Scanned scanned;  // not yet in the statistics
  std::vector<TopK> shortlists, heads, results;
  std::vector<Candidate> found;  // by one query
  LutU8 lut_u8;
  RerankScratch rerank;
};

void check_args(const SearchParts& parts, const SearchArgs& a) {
  check(a.nprobe >= 1, "nprobe: expected at least 1, got ", a.nprobe);
  check(a.nshort >= 0, "nshort: expected at least 0, got ", a.nshort);
  check(a.exit_margin >= 0, "exit_margin: expected at least 0, got ", a.exit_margin);
  check(a.nshort == 0 || parts.weights, "weights: expected QincoWeights for nshort > 0, got None");
  check(a.coarse_list_no || !a.coarse_score, "coarse_score: expected None without coarse_list_no");
  if (!a.coarse_list_no) return;
  const idx_t nlist = parts.lists.nlist();
  for (idx_t i = 0; i < a.n * a.nprobe; ++i)
    if (a.coarse_list_no[i] < -1 || a.coarse_list_no[i] >= nlist)
      check(false, "coarse_list_no[", i / a.nprobe, ", ", i % a.nprobe, "]: expected -1 to ",
            nlist - 1, ", got ", a.coarse_list_no[i]);
}

// Queries of a thread that are assigned, and compared to find groups, before any is scanned: many,
// but what is known of their lists takes 3 MB, or that of 16 queries. Where it can be a multiple of
// kBatch and kAssignedTogether.
idx_t part_size(idx_t nprobe) {
  const idx_t n = std::clamp<idx_t>((1 << 18) / nprobe, 16, 4096);
  return n < kAssignedTogether ? n : n / kAssignedTogether * kAssignedTogether;
}

// Lists to visit for each query.
idx_t n_probes(const SearchParts& parts, const SearchArgs& a) {
  return a.coarse_list_no ? a.nprobe : std::min(a.nprobe, parts.lists.nlist());
}

// Whether the centroids are what residuals are to.
bool are_bases(const SearchParts& parts) { return parts.bases == parts.centroids.row(0); }

// Coarse lists and (minimised) scores, (nq, nprobe), of nq queries from `begin`.
void choose_lists(const SearchParts& parts, const SearchArgs& a, idx_t begin, idx_t nq,
                  CoarseScratch& scratch, idx_t* list_no, float* coarse_score) {
  const idx_t d = parts.tables.d(), nprobe = n_probes(parts, a), n = nq * nprobe;
  const float* q = a.q + begin * d;
  const bool same = are_bases(parts);
  if (!a.coarse_list_no) {
    assign_block(parts.centroids, nq, q, nprobe, parts.metric, scratch, list_no, coarse_score);
    if (same) return;
  } else {
    std::copy_n(a.coarse_list_no + begin * nprobe, n, list_no);
  }
  for (idx_t i = 0; i < n; ++i) {
    if (list_no[i] == -1) continue;
    if (!same || !a.coarse_score) {
      const float* base = parts.bases + list_no[i] * d;
      coarse_score[i] = exact_score(q + i / nprobe * d, base, d, parts.metric);
    } else {
      const float distance = a.coarse_score[begin * nprobe + i];
      coarse_score[i] = parts.metric == Metric::L2 ? distance : -distance;
    }
  }
}

// Without the lists.
Probes probes_of(const SearchParts& parts, const SearchArgs& a, const Selection& selection) {
  Probes probes{parts.lists, selection, a.limits, n_probes(parts, a), nullptr, nullptr};
  probes.ratios = parts.has_extra && parts.metric == Metric::InnerProduct;
  probes.rate = parts.rate;
  return probes;
}

// Pushes the codes of the i-th query of a block of nq that take part into `found`.
template <class Found>
void scan(const SearchParts& parts, const SearchArgs& a, const Selection& selection, idx_t nq,
          idx_t i, Worker& w, Found& found) {
  const idx_t d = parts.tables.d(), nprobe = n_probes(parts, a);
  const float* q = w.q.data();
  const idx_t* list_no = &w.list_no[i * nprobe];
  Probes probes = probes_of(parts, a, selection);
  probes.list_no = list_no;
  probes.coarse_score = &w.coarse_score[i * nprobe];
  if (a.limits.min_codes > 0)
    probes.further = [&, begun = false]() mutable -> std::optional<Probe> {
      if (!std::exchange(begun, true))
        w.further.reset(parts.centroids, nq, q, i, parts.metric, w.coarse, list_no, nprobe);
      const auto next = w.further.next();
      if (!next) return std::nullopt;
      const auto [score, list] = *next;
      return Probe{list, are_bases(parts)
                             ? score
                             : exact_score(q + i * d, parts.bases + list * d, d, parts.metric)};
    };
  const float* lut = &w.lut[i * parts.tables.M() * parts.tables.K()];
  if (parts.lists.nbits() == 8) w.lut_u8.quantize(parts.tables.M(), lut);
  const Scanned scanned = scan_lists(probes, lut, w.lut_u8, found);
  w.scanned.n_lists += scanned.n_lists;
  w.scanned.n_codes += scanned.n_codes;
}

// Of nq queries that have been scanned.
void add_to_stats(idx_t nq, Worker& w) {
  const auto [n_lists, n_codes] = std::exchange(w.scanned, {});
  search_stats.nq += nq;
  search_stats.nlist += n_lists;
  search_stats.ndis += n_codes;
  if (std::size_t* also = search_stats.also)
    for (idx_t more : {nq, n_lists, n_codes})
      __atomic_fetch_add(also++, static_cast<std::size_t>(more), __ATOMIC_RELAXED);
}

// Whether a call is scanned by groups of queries: where these share enough lists, and each thread
// has several groups.
bool is_for_batches(const SearchParts& parts, const SearchArgs& a, const Probes& probes,
                    idx_t n_short, const Execution& run) {
  constexpr idx_t kSharing = 32, kGroups = 4;  // queries of a list, groups of a thread
  return scans_batches(active_level()) && can_scan_batch(probes, n_short) &&
         a.n >= kGroups * kBatch * run.n_threads &&
         std::min(a.n, part_size(probes.n)) * probes.n >= kSharing * parts.lists.nlist();
}

// Calls f(worker, nq, rows) for blocks of up to `size` queries, with their vectors, lists and
// tables in the worker's scratch. rows: (nq), which of the queries they are: neighbours, or, if
// `grouped`, such as share lists.
template <class F>
void for_each_block(const SearchParts& parts, const SearchArgs& a, idx_t size, bool grouped,
                    const Execution& run, std::vector<Worker>& workers, F f) {
  const idx_t d = parts.tables.d(), nprobe = n_probes(parts, a), part = part_size(nprobe);
  const idx_t n_most = std::min(a.n, part * run.n_threads);
  std::vector<idx_t> list_no(static_cast<std::size_t>(n_most * nprobe)), rows;
  std::vector<float> coarse_score(list_no.size());
  rows.resize(static_cast<std::size_t>(n_most));
  for (idx_t begin = 0, n; begin < a.n; begin += n) {
    n = std::min(n_most, a.n - begin);
    const idx_t assigned = std::clamp<idx_t>(n / run.n_threads, 1, assigned_together(nprobe));
    parallel_for((n + assigned - 1) / assigned, run, [&](idx_t block, int worker) {
      const idx_t i = block * assigned;
      choose_lists(parts, a, begin + i, std::min(assigned, n - i), workers[worker].coarse,
                   &list_no[i * nprobe], &coarse_score[i * nprobe]);
    });
    std::iota(rows.begin(), rows.begin() + n, begin);
    if (grouped)
      parallel_for((n + part - 1) / part, run, [&](idx_t block, int) {
        const idx_t i = block * part, n_part = std::min(part, n - i);
        group_queries(n_part, nprobe, &list_no[i * nprobe], parts.lists.nlist(), &rows[i]);
        for (idx_t j = i; j < i + n_part; ++j) rows[j] += begin + i;
      });
    parallel_for((n + size - 1) / size, run, [&](idx_t block, int worker) {
      Worker& w = workers[worker];
      const idx_t first = block * size, nq = std::min(size, n - first);
      w.q.clear();
      w.list_no.clear();
      w.coarse_score.clear();
      w.coarse.all.clear();
      for (idx_t j = first; j < first + nq; ++j) {
        auto copy = [](const auto* row, idx_t length, auto& to) {
          to.insert(to.end(), row, row + length);
        };
        copy(a.q + rows[j] * d, d, w.q);
        copy(&list_no[(rows[j] - begin) * nprobe], nprobe, w.list_no);
        copy(&coarse_score[(rows[j] - begin) * nprobe], nprobe, w.coarse_score);
      }
      w.lut.resize(static_cast<std::size_t>(nq * parts.tables.M() * parts.tables.K()));
      parts.tables.compute(nq, w.q.data(), parts.metric, w.lut.data());
      f(w, nq, &rows[first]);
    });
  }
}

// What `scan` does for each query of a group into w.shortlists.
void scan_together(const SearchParts& parts, const SearchArgs& a, const Selection& selection,
                   idx_t nq, Worker& w) {
  const idx_t d = parts.tables.d();
  std::uint32_t usable = 0;
  for (idx_t i = 0; i < nq; ++i)
    usable |= static_cast<std::uint32_t>(is_usable(&w.q[i * d], d)) << i;
  Probes probes = probes_of(parts, a, selection);
  probes.list_no = w.list_no.data();
  probes.coarse_score = w.coarse_score.data();
  const Scanned scanned = scan_batch(probes, usable, w.lut.data(), w.batch, w.shortlists.data());
  w.scanned.n_lists += scanned.n_lists;
  w.scanned.n_codes += scanned.n_codes;
}

Reranking reranking(const SearchParts& parts, const SearchArgs& a) {
  const EarlyExit* exit = std::isinf(a.exit_margin) ? nullptr : parts.early_exit;
  Reranking how{parts.lists, *parts.weights, parts.table, parts.student,
                exit,        a.exit_margin,  parts.metric};
  if (parts.has_extra) how.extras.emplace(Extras{parts.tables, parts.bases, parts.metric});
  how.rate = parts.rate;
  return how;
}

// The first n of each shortlist.
void take_first(idx_t n, idx_t nq, TopK* shortlists, std::vector<TopK>& heads) {
  heads.resize(static_cast<std::size_t>(nq));
  for (idx_t i = 0; i < nq; ++i) {
    heads[i].reset(n);
    const std::vector<Candidate>& sorted = shortlists[i].sorted();
    const idx_t size = std::min(n, static_cast<idx_t>(sorted.size()));
    for (idx_t j = 0; j < size; ++j) heads[i].push(sorted[j]);
  }
}

// Behind what was ranked, of the first n of a shortlist, the others, in their order: none of them
// nearer than what is before it.
void append_rest(idx_t n, const std::vector<Candidate>& shortlist, std::vector<Candidate>& found) {
  for (std::size_t i = static_cast<std::size_t>(n); i < shortlist.size(); ++i) {
    const float last = found.empty() ? shortlist[i].score : found.back().score;
    found.push_back(shortlist[i]);
    found.back().score = std::max(last, found.back().score);
  }
}

void add_to_stats(RerankScratch& scratch) {
  search_stats.n_reranked += std::exchange(scratch.n_entries, 0);
  search_stats.n_steps += std::exchange(scratch.n_steps, 0);
  search_stats.n_steps_saved += std::exchange(scratch.n_steps_saved, 0);
  search_stats.n_student_steps += std::exchange(scratch.n_student_steps, 0);
}

// Where one query's results, at most k, are stored, as row `query` of `found`.
void put_places(const std::vector<Candidate>& results, idx_t k, idx_t query,
                const ResultEntries& found) {
  idx_t *list_no = found.list_no + query * k, *offset = found.offset + query * k;
  std::fill_n(list_no, k, idx_t{-1});
  std::fill_n(offset, k, idx_t{-1});
  for (const Candidate& c : results) {
    *list_no++ = c.list_no;
    *offset++ = c.offset;
  }
}

// Their lists and codes.
void put_codes(const SearchParts& parts, const std::vector<Candidate>& results, idx_t k,
               idx_t query, const ResultEntries& found) {
  const InvertedLists& lists = parts.lists;
  const int M = parts.tables.M();
  idx_t* list_no = found.list_no + query * k;
  std::uint8_t* codes = found.codes + query * k * M;
  float* extra = parts.has_extra && found.extra ? found.extra + query * k : nullptr;
  if (extra) std::fill_n(extra, k, 0.0f);
  const Extras of{parts.tables, parts.bases, parts.metric};
  std::vector<double> r;
  std::fill_n(list_no, k, idx_t{-1});
  std::fill_n(codes, k * M, std::uint8_t{0});
  for (const Candidate& c : results) {
    *list_no++ = c.list_no;
    lists.read_code(c.list_no, c.offset, M, codes);
    if (extra)
      *extra++ =
          of.of(c.list_no, codes, bias_at(bias_of(lists, parts.rate, c.list_no), c.offset), r);
    codes += M;
  }
}

// As many threads as the caller allows, but one where all the work is less than that is worth:
// to start one costs tens of µs. `n_short`: vectors to decode for a query.
Execution worth_threads(const SearchParts& parts, const SearchArgs& a, idx_t n_short,
                        const Execution& run) {
  constexpr double kPerMicrosecond = 8000;  // multiply-adds, table look-ups: of a slow CPU
  const InvertedLists& lists = parts.lists;
  const auto d = static_cast<double>(parts.tables.d()), M = static_cast<double>(parts.tables.M());
  const auto nlist = static_cast<double>(lists.nlist());
  const auto ntotal = static_cast<double>(lists.ntotal());
  const double probed = std::min(static_cast<double>(a.nprobe) / nlist, 1.0) * ntotal;
  const double scanned = std::clamp(static_cast<double>(a.limits.min_codes), probed, ntotal);
  double work = d * M * lists.K() + scanned * M * 8;
  if (!a.coarse_list_no) work += nlist * d;
  if (a.nshort > 0) {
    const QincoWeights& w = *parts.weights;
    const auto d_e = static_cast<double>(w.d_e());
    work +=
        static_cast<double>(n_short) * M * d_e * (2 * d + 2.0 * double(w.L()) * double(w.d_h()));
  }
  Execution result = run;
  if (static_cast<double>(a.n) * work < run.min_work * kPerMicrosecond) result.n_threads = 1;
  return result;
}

Selection select(const SearchParts& parts, const SearchArgs& a) {
  const auto probes = static_cast<double>(a.n) * static_cast<double>(n_probes(parts, a));
  const idx_t nlist = parts.lists.nlist();
  return {a.filter, nlist, probes / static_cast<double>(nlist), a.limits.count()};
}

}  // namespace

SearchStats search_stats;

void search(const SearchParts& parts, const SearchArgs& a, idx_t all_k, float* D, idx_t* I,
            const Execution& allowed, const ResultEntries& found) {
  check_args(parts, a);
  check(all_k >= 1, "k: expected at least 1, got ", all_k);
  const InvertedLists& lists = parts.lists;
  const idx_t d = parts.tables.d();
  const float sign = parts.metric == Metric::L2 ? 1.0f : -1.0f;
  // No selection holds more than all entries, so a huge k costs nothing.
  const idx_t n_all = std::max<idx_t>(lists.ntotal(), 1);
  const idx_t k = std::clamp<idx_t>(all_k, 1, n_all),
              n_short = std::clamp<idx_t>(a.nshort, 1, n_all);
  const idx_t n_kept = a.nshort > 0 ? std::max(n_short, k) : k;  // by the tables

  const Execution run = worth_threads(parts, a, n_short, allowed);
  const Selection selection = select(parts, a);
  std::optional<Reranking> how;
  if (a.nshort > 0) {
    how.emplace(reranking(parts, a));
    // Where most of a shortlist is near its k best, checkpoints cost more than they save.
    if (!parts.student && n_short < 5 * k) how->exit = nullptr;
  }

  // Small enough for all workers and for Ctrl-C; large enough that the tables are one product and
  // small shortlists fill the decoder.
  const idx_t decoded = std::clamp<idx_t>(2048 / n_kept, 1, 16);
  const idx_t share = a.n / (4 * std::max<idx_t>(run.n_threads, 1)) + 1;
  const bool grouped = is_for_batches(parts, a, probes_of(parts, a, selection), n_kept, run);
  const idx_t size = grouped ? kBatch : std::min(share, decoded);

  std::vector<Worker> workers(static_cast<std::size_t>(n_workers(a.n, run)));
  Poll poll(run);
  workers[0].rerank.poll = &poll;

  // Ranks and puts, as the given rows of the results, nq queries that are scanned, from `first`.
  auto finish = [&](Worker& w, idx_t first, idx_t nq, const idx_t* rows) {
    TopK* best = &w.shortlists[first];
    if (a.nshort > 0) {
      w.results.resize(static_cast<std::size_t>(nq));
      for (TopK& result : w.results) result.reset(k);
      if (n_short < k) take_first(n_short, nq, best, w.heads);
      rerank_block(*how, nq, &w.q[first * d], k, n_short < k ? w.heads.data() : best,
                   w.results.data(), w.rerank);
      add_to_stats(w.rerank);
    }

    for (idx_t i = 0; i < nq; ++i) {
      w.found = (a.nshort > 0 ? w.results[i] : best[i]).sorted();
      if (n_short < k && a.nshort > 0) append_rest(n_short, best[i].sorted(), w.found);
      const idx_t row = rows[first + i];
      float* Di = D + row * all_k;
      idx_t* Ii = I + row * all_k;
      std::fill_n(Di, all_k, sign * FLT_MAX);
      std::fill_n(Ii, all_k, idx_t{-1});
      for (const Candidate& c : w.found) {
        *Di++ = sign * c.score;
        *Ii++ = c.id;
      }
      if (found.offset) put_places(w.found, all_k, row, found);
      if (found.codes) put_codes(parts, w.found, all_k, row, found);
    }
  };

  for_each_block(parts, a, size, grouped, run, workers,
                 [&](Worker& w, idx_t nq, const idx_t* rows) {
                   w.shortlists.resize(static_cast<std::size_t>(nq));
                   for (TopK& shortlist : w.shortlists) shortlist.reset(n_kept);
                   if (grouped)
                     scan_together(parts, a, selection, nq, w);
                   else
                     for (idx_t i = 0; i < nq; ++i)
                       if (is_usable(&w.q[i * d], d))
                         scan(parts, a, selection, nq, i, w, w.shortlists[i]);
                   add_to_stats(nq, w);
                   for (idx_t first = 0; first < nq; first += decoded)
                     finish(w, first, std::min(decoded, nq - first), rows);
                 });
}

std::vector<RangeHits> range_search(const SearchParts& parts, const SearchArgs& a, float radius,
                                    const Execution& run) {
  constexpr std::size_t kCandidates = 1024;  // decoded together: they bound the memory
  check_args(parts, a);
  std::vector<RangeHits> hits(static_cast<std::size_t>(a.n));
  if (std::isnan(radius)) return hits;
  const idx_t d = parts.tables.d();
  const float sign = parts.metric == Metric::L2 ? 1.0f : -1.0f, most = sign * radius;
  const Selection selection = select(parts, a);

  // Few: each may take long, and Ctrl-C waits for the blocks that have begun.
  const idx_t size = std::clamp<idx_t>(a.n / (4 * std::max<idx_t>(run.n_threads, 1)), 1, 4);
  std::vector<Worker> workers(static_cast<std::size_t>(n_workers(a.n, run)));
  Poll poll(run);
  workers[0].rerank.poll = &poll;
  for_each_block(parts, a, size, false, run, workers, [&](Worker& w, idx_t nq, const idx_t* rows) {
    const float* q = w.q.data();
    auto keep = [&](idx_t query, const Candidate& c) {
      if (!(c.score < most)) return;
      hits[rows[query]].D.push_back(sign * c.score);
      hits[rows[query]].I.push_back(c.id);
    };
    std::vector<RerankScratch::Entry>& entries = w.rerank.entries;
    auto decode_entries = [&] {
      rerank_range(reranking(parts, a), q, most, w.rerank);
      add_to_stats(w.rerank);
      for (const auto& [query, candidate] : entries) keep(query, candidate);
      entries.clear();
    };

    entries.clear();
    for (idx_t i = 0; i < nq; ++i) {
      if (!is_usable(q + i * d, d)) continue;
      if (a.nshort == 0) {
        RangeCollector found(most, most, [&](const Candidate& c) { keep(i, c); });
        scan(parts, a, selection, nq, i, w, found);
        continue;
      }
      const EarlyExit* exit = reranking(parts, a).exit;
      const float bound = exit && exit->tables() ? range_bound(most, *exit->tables(), a.exit_margin,
                                                               q + i * d, d, parts.metric)
                                                 : std::numeric_limits<float>::infinity();
      RangeCollector found(most, bound, [&](const Candidate& c) {
        entries.push_back({i, c});
        if (entries.size() == kCandidates) decode_entries();
      });
      scan(parts, a, selection, nq, i, w, found);
    }
    add_to_stats(nq, w);
    if (!entries.empty()) decode_entries();
  });
  return hits;
}

}  // namespace fq
