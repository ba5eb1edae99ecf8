#include "core/engine.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <new>
#include <utility>

#include "core/check.hpp"
#include "core/coarse.hpp"
#include "core/distance.hpp"
#include "core/parallel.hpp"
#include "core/qinco_decode.hpp"
#include "core/qinco_encode.hpp"

namespace fq {
namespace {

constexpr idx_t kEncodeRows = 8192;   // at a time, so that few are copied where some are left out
constexpr idx_t kRateRows = 1 << 16;  // that get the biases of a new rate at a time
constexpr int kRestarts = 3;          // of that, before it keeps changes out

Beside beside(Metric metric, bool has_extra) {
  if (metric == Metric::L2) return Beside::Bias;
  return has_extra ? Beside::Ratio : Beside::Nothing;
}

}  // namespace

Engine::Engine(const Parts& parts)
    : metric_(parts.metric),
      has_extra_(parts.has_extra),
      tables_(parts.tables),
      weights_(parts.weights),
      lists_(parts.nlist, parts.M, parts.nbits, beside(parts.metric, parts.has_extra)),
      early_exit_(parts.early_exit),
      student_(parts.student) {
  check(tables_ != nullptr, "tables: expected AdditiveTables, got None");
  check(tables_->M() == M() && tables_->K() == lists_.K(), "tables: expected M = ", M(),
        " and K = ", lists_.K(), ", got M = ", tables_->M(), " and K = ", tables_->K());
  check_finite("centroids", parts.centroids, nlist() * d());
  centroid_rows_.assign(parts.centroids, parts.centroids + nlist() * d());
  centroids_.emplace(nlist(), d(), centroid_rows_.data());
  if (parts.bases) {
    check_finite("bases", parts.bases, nlist() * d());
    own_bases_.assign(parts.bases, parts.bases + nlist() * d());
  }
  if (weights_) {
    const QincoWeights& w = *weights_;
    check(w.d() == d(), "weights: expected d = ", d(), ", got ", w.d());
    check(w.nbits() == nbits() && w.M() == M(), "weights: expected nbits = ", nbits(), " and ", M(),
          " codes, got nbits = ", w.nbits(), " and ", w.M(), " codes");
    check(!w.ivf() || w.n_base() == nlist(), "weights: expected a base of ", nlist(),
          " centroids, got ", w.n_base());
  }
  check_ranking(early_exit_.get(), student_.get());
}

void Engine::check_ranking(const EarlyExit* e, const QincoWeights* s) const {
  check(!e || (e->M() == M() && e->K() == lists_.K() && e->d() == d()),
        "early_exit: expected M = ", M(), ", K = ", lists_.K(), ", d = ", d(), ", got ",
        e ? e->M() : 0, ", ", e ? e->K() : 0, ", ", e ? e->d() : 0);
  if (!s) return;
  check(weights_ != nullptr, "student: expected None without weights");
  const QincoWeights& w = *weights_;
  check(s->d() == w.d() && s->nbits() == w.nbits() && s->M() == w.M() && s->ivf() == w.ivf() &&
            s->n_base() == w.n_base(),
        "student: expected d, nbits, M and base as of weights");
}

int Engine::n_codes(const SearchArgs& args) const {
  check(args.n_codes >= 0 && args.n_codes <= M(), "n_codes: expected 0 to ", M(), ", got ",
        args.n_codes);
  return args.n_codes == 0 ? M() : args.n_codes;
}

SearchParts Engine::parts(int n_codes) const {
  if (n_codes == M())
    return {lists_,         *centroids_,       bases(),        *tables_,     metric_,
            weights_.get(), early_exit_.get(), student_.get(), table_.get(), has_extra_,
            nullptr};
  const auto found = rates_.find(n_codes);
  check<StateError>(found != rates_.end(), "no rate of ", n_codes, " codes has been set");
  // Margins are those of whole codes.
  return {lists_,       *centroids_,    bases(),       *found->second.tables,
          metric_,      weights_.get(), nullptr,       nullptr,
          table_.get(), has_extra_,     &found->second};
}

void Engine::search(const SearchArgs& args, idx_t k, float* D, idx_t* I, const Execution& run,
                    const ResultEntries& found) const {
  const SharedLock::Reading reading(lock_, run.interrupted);
  fq::search(parts(n_codes(args)), args, k, D, I, run, found);
}

std::vector<RangeHits> Engine::range_search(const SearchArgs& args, float radius,
                                            const Execution& run) const {
  const SharedLock::Reading reading(lock_, run.interrupted);
  return fq::range_search(parts(n_codes(args)), args, radius, run);
}

void Engine::encode(idx_t n, const float* x, const idx_t* chosen, int A, int B,
                    float additive_weight, idx_t* list_no, std::uint8_t* codes,
                    const Execution& run) const {
  check<StateError>(weights_ != nullptr, "an engine without weights cannot encode");
  if (chosen)
    for (idx_t i = 0; i < n; ++i)
      if (chosen[i] < -1 || chosen[i] >= nlist())
        check(false, "list_no[", i, "]: expected -1 to ", nlist() - 1, ", got ", chosen[i]);
  const QincoWeights& w = *weights_;
  const AdditiveTerm term{tables_.get(), bases(), additive_weight};
  // Normalised ones must not overflow either.
  const auto is_encodable = [&](const float* row) {
    const float norm = sum_terms(d(), [&](idx_t j) {
      const float z = (row[j] - w.mean()[j]) / w.std();
      return z * z;
    });
    return norm <= FLT_MAX / 4 && is_usable(row, d());
  };
  std::vector<idx_t> rows, lists;  // those of a block that can be stored
  std::vector<float> kept, distance;
  std::vector<std::uint8_t> encoded;
  Poll poll(run);
  for (idx_t begin = 0; begin < n; begin += kEncodeRows) {
    poll();
    const idx_t end = std::min(n, begin + kEncodeRows);
    rows.clear();
    for (idx_t i = begin; i < end; ++i)
      if (!(chosen && chosen[i] == -1) && is_encodable(x + i * d())) rows.push_back(i);
    std::fill(list_no + begin, list_no + end, idx_t{-1});
    std::fill(codes + begin * M(), codes + end * M(), std::uint8_t{0});
    if (rows.empty()) continue;
    const float* from = x + begin * d();
    const auto n_rows = static_cast<idx_t>(rows.size());
    if (n_rows < end - begin) {
      kept.clear();
      for (const idx_t i : rows) kept.insert(kept.end(), x + i * d(), x + (i + 1) * d());
      from = kept.data();
    }
    lists.resize(rows.size());
    if (chosen) {
      std::transform(rows.begin(), rows.end(), lists.begin(), [&](idx_t i) { return chosen[i]; });
    } else {
      distance.resize(rows.size());
      assign(*centroids_, n_rows, from, 1, metric_, lists.data(), distance.data(), run);
    }
    encoded.resize(static_cast<std::size_t>(n_rows * M()));
    fq::encode(w, n_rows, from, w.ivf() ? lists.data() : nullptr, A, B,
               additive_weight > 0 ? &term : nullptr, encoded.data(), run);
    for (idx_t r = 0; r < n_rows; ++r) {
      list_no[rows[r]] = lists[r];
      std::copy_n(encoded.data() + r * M(), M(), codes + rows[r] * M());
    }
  }
}

void Engine::bias(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* extra,
                  float* out, const Execution& run) const {
  bias_by(*tables_, n, list_no, codes, extra, out, run);
}

void Engine::bias_by(const AdditiveTables& tables, idx_t n, const idx_t* list_no,
                     const std::uint8_t* codes, const float* extra, float* out,
                     const Execution& run) const {
  if (metric_ == Metric::L2)
    tables.bias(nlist(), bases(), n, list_no, codes, out, run);
  else if (has_extra_)
    tables.norms(nlist(), bases(), n, list_no, codes, out, run);
  else
    std::fill_n(out, n, 0.0f);
  if (!has_extra_) return;
  check(extra != nullptr, "extra: expected those of the vectors, got None");
  for (idx_t i = 0; i < n; ++i) {
    if (list_no[i] == -1) continue;
    if (!(extra[i] >= 0 && extra[i] <= FLT_MAX))
      check(false, "extra[", i, "]: expected a finite number from 0, got ", extra[i]);
    out[i] = corrects_length() ? length_ratio(out[i], extra[i]) : out[i] + extra[i];
  }
}

void Engine::extras(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* beside,
                    float* out, const Execution& run) const {
  check<StateError>(has_extra_, "an engine without extras knows none");
  const Extras of{*tables_, bases(), metric_};
  if (corrects_length())
    tables_->norms(nlist(), bases(), n, list_no, codes, out, run);
  else
    tables_->bias(nlist(), bases(), n, list_no, codes, out, run);
  for (idx_t i = 0; i < n; ++i)
    if (list_no[i] != -1) out[i] = of.from(out[i], beside[i]);
}

void Engine::reconstruct(idx_t id, float* x, const Execution& run) const {
  const SharedLock::Reading reading(lock_, run.interrupted);
  check<StateError>(map_.has_value(), "direct map not initialized: call make_direct_map first");
  check<StateError>(map_->find(id).has_value(), "no vector has the id ", id);
  reconstruct_n(id, 1, x, run);
}

void Engine::reconstruct_n(idx_t id0, idx_t n, float* x, const Execution& run) const {
  check(n >= 0 && id0 <= std::numeric_limits<idx_t>::max() - n,
        "n: expected at least 0, and ids below 2^63, got ", n, " from ", id0);
  std::vector<idx_t> list_no(static_cast<std::size_t>(n), -1), offset(list_no);
  Entries entries;
  {
    const SharedLock::Reading reading(lock_, run.interrupted);
    if (!map_) lists_.locate(id0, n, list_no.data(), offset.data());
    for (idx_t i = 0; map_ && i < n; ++i)
      if (const std::optional<Position> at = map_->find(id0 + i))
        list_no[i] = at->list_no, offset[i] = at->offset;
    entries = read(n, list_no.data(), offset.data());
  }
  decode_entries(n, list_no.data(), entries, x, run);
}

void Engine::locate(idx_t n, const idx_t* ids, idx_t* list_no, idx_t* offset,
                    const Execution& run) const {
  std::fill_n(list_no, n, idx_t{-1});
  std::fill_n(offset, n, idx_t{-1});
  const SharedLock::Reading reading(lock_, run.interrupted);
  if (map_) {
    for (idx_t i = 0; i < n; ++i)
      if (const std::optional<Position> at = map_->find(ids[i]))
        list_no[i] = at->list_no, offset[i] = at->offset;
    return;
  }
  std::vector<std::pair<idx_t, idx_t>> wanted;  // id, and its place in `ids`
  for (idx_t i = 0; i < n; ++i) wanted.emplace_back(ids[i], i);
  std::sort(wanted.begin(), wanted.end());
  for (idx_t l = 0; l < nlist() && n > 0; ++l)
    lists_.list(l).ids.for_each([&](idx_t o, idx_t id) {
      if (id < wanted.front().first || id > wanted.back().first) return;
      const std::pair<idx_t, idx_t> first{id, 0};
      for (auto at = std::lower_bound(wanted.begin(), wanted.end(), first);
           at != wanted.end() && at->first == id; ++at)
        list_no[at->second] = l, offset[at->second] = o;
    });
}

void Engine::codes_at(idx_t n, const idx_t* list_no, const idx_t* offset, std::uint8_t* codes,
                      const Execution& run) const {
  const SharedLock::Reading reading(lock_, run.interrupted);
  lists_.gather(n, list_no, offset, codes);
}

void Engine::reconstruct_at(idx_t n, const idx_t* list_no, const idx_t* offset, float* x,
                            const Execution& run) const {
  Entries entries;
  {
    const SharedLock::Reading reading(lock_, run.interrupted);
    entries = read(n, list_no, offset);
  }
  decode_entries(n, list_no, entries, x, run);
}

Engine::Entries Engine::read(idx_t n, const idx_t* list_no, const idx_t* offset) const {
  Entries entries{std::vector<std::uint8_t>(static_cast<std::size_t>(n * M())),
                  std::vector<float>(static_cast<std::size_t>(corrects_length() ? n : 0))};
  lists_.gather(n, list_no, offset, entries.codes.data());
  const Extras of{*tables_, bases(), metric_};
  std::vector<double> r;
  for (idx_t i = 0; i < n && corrects_length(); ++i)
    if (list_no[i] != -1)
      entries.length[i] = of.of(list_no[i], entries.codes.data() + i * M(),
                                bias_at(lists_.bias(list_no[i]), offset[i]), r);
  return entries;
}

void Engine::decode_entries(idx_t n, const idx_t* list_no, const Entries& entries, float* x,
                            const Execution& run) const {
  check<StateError>(weights_ != nullptr, "an engine without weights cannot decode");
  decode(*weights_, n, list_no, entries.codes.data(), M(), M(), x, run);
  for (idx_t i = 0; i < n && corrects_length(); ++i) stretch(x + i * d(), d(), entries.length[i]);
}

void Engine::add(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* extra,
                 const idx_t* ids, const Execution& run) {
  std::vector<float> beside(static_cast<std::size_t>(n));
  bias(n, list_no, codes, extra, beside.data(), run);
  with_rates(n, list_no, codes, extra, run, [&](const BiasOfRates& of_rates) {
    store(n, list_no, codes, beside.data(), ids, of_rates);
  });
}

void Engine::store(idx_t n, const idx_t* list_no, const std::uint8_t* codes, const float* bias,
                   const idx_t* ids, const BiasOfRates& of_rates) {
  check<StateError>(n <= kMostNumbers - ntotal_, "ntotal: no more numbers to give out");
  std::vector<idx_t> offset;
  if (map_) {
    offset.resize(static_cast<std::size_t>(n));
    map_->reserve(n, list_no, ids, ntotal_);
  }
  try {
    for (auto& [_, rate] : rates_) {
      if (rate.bias.empty()) continue;
      const std::vector<float>& beside = of_rates.at(rate.tables);
      for (idx_t i = 0; i < n; ++i) {
        if (list_no[i] == -1) continue;
        BiasColumn& column = rate.bias[static_cast<std::size_t>(list_no[i])];
        column.reserve(column.size() + 1);
        column.push_back(beside[i], offset_of(lists_.beside()));
      }
    }
    lists_.add(n, list_no, codes, bias, ids, ntotal_, map_ ? offset.data() : nullptr);
  } catch (...) {
    for (auto& [_, rate] : rates_)
      for (std::size_t l = 0; l < rate.bias.size(); ++l)
        rate.bias[l].shrink(lists_.list(static_cast<idx_t>(l)).size());
    throw;
  }
  if (map_) map_->append(n, list_no, offset.data(), ids, ntotal_);
  ntotal_ += n;
  ++n_changes_;
  for (idx_t i = 0; i < n; ++i)
    if (list_no[i] != -1) sort_ids(list_no[i]);
}

void Engine::sort_ids(idx_t list_no) noexcept {
  if (!lists_.list(list_no).ids.wants_sorting()) return;
  try {
    InvertedLists::Sorting sorting = lists_.sorting(list_no);
    const bool moves = !sorting.ids.order.empty();
    std::vector<BiasColumn> columns;
    for (const auto& [_, rate] : rates_)
      if (moves && !rate.bias.empty())
        columns.push_back(
            rate.bias[static_cast<std::size_t>(list_no)].reordered(sorting.ids.order));
    // Nothing below can fail.
    lists_.replace(list_no, std::move(sorting));
    if (!moves) return;
    auto column = columns.begin();
    for (auto& [_, rate] : rates_)
      if (!rate.bias.empty()) rate.bias[static_cast<std::size_t>(list_no)] = std::move(*column++);
    if (map_) map_->reorder(lists_, list_no);
    ++n_replaced_;
  } catch (const std::bad_alloc&) {  // another time
  }
}

void Engine::reset(const Execution& run) {
  const SharedLock::Writing writing(lock_, run.interrupted);
  lists_.reset();
  if (map_) map_ = DirectMap(lists_);
  ntotal_ = 0;
  for (auto& [_, rate] : rates_) rate.forget();
  ++n_replaced_;
  ++n_changes_;
}

void Engine::import_from(const idx_t* sizes, idx_t n, const InvertedLists::Rows& rows, idx_t ntotal,
                         const Execution& run) {
  InvertedLists lists(nlist(), M(), nbits(), lists_.beside());
  lists.import_from(sizes, n, rows);
  check_bias(lists);
  put(lists, ntotal, run);
}

void Engine::restore(const std::vector<InvertedLists::Head>& heads,
                     const InvertedLists::Take& blocks, const InvertedLists::Take& ids,
                     std::shared_ptr<const void> file, bool checked, idx_t ntotal,
                     const Execution& run) {
  InvertedLists lists(nlist(), M(), nbits(), lists_.beside());
  lists.restore(heads, blocks, ids, std::move(file), checked);
  if (checked) check_bias(lists);
  put(lists, ntotal, run);
}

void Engine::check_bias(const InvertedLists& lists) const {
  // What is stored is rounded, and may have become a little more than length_ratio() makes it.
  constexpr float kLeast = 1 / kMostStretch, kMost = 2 / kLeastStretch;
  for (idx_t l = 0; l < nlist(); ++l) {
    const BiasRows bias = lists.bias(l);
    for (idx_t o = 0; o < lists.list(l).size(); ++o) {
      const float b = bias_at(bias, o);
      if (!std::isfinite(b) || (corrects_length() && !(b >= kLeast && b <= kMost)))
        check(false, "bias: expected ",
              corrects_length() ? "a ratio of lengths" : "a finite number", ", got ", b);
    }
  }
}

// Takes the place of what is stored.
void Engine::put(InvertedLists& lists, idx_t ntotal, const Execution& run) {
  check(ntotal >= lists.ntotal() && ntotal <= kMostNumbers, "ntotal: expected ", lists.ntotal(),
        " to ", kMostNumbers, ", got ", ntotal);
  const SharedLock::Writing writing(lock_, run.interrupted);
  if (map_) map_ = DirectMap(lists);
  lists_.exchange(lists);
  ntotal_ = ntotal;
  rates_.clear();
  ++n_replaced_;
  ++n_changes_;
}

void Engine::set_ranking(std::shared_ptr<const EarlyExit> early_exit,
                         std::shared_ptr<const QincoWeights> student, const Execution& run) {
  check_ranking(early_exit.get(), student.get());
  const SharedLock::Writing writing(lock_, run.interrupted);
  early_exit_ = std::move(early_exit);
  student_ = std::move(student);
}

idx_t Engine::rate_fitted(int n_codes) const {
  const auto found = rates_.find(n_codes);
  return found == rates_.end() ? -1 : found->second.n_fitted;
}

std::size_t Engine::rates_nbytes() const {
  std::size_t sum = 0;
  for (const auto& [_, rate] : rates_) sum += rate.nbytes();
  return sum;
}

void Engine::set_rate(std::shared_ptr<const AdditiveTables> tables, idx_t n_fitted,
                      const Execution& run) {
  check(tables != nullptr, "tables: expected AdditiveTables, got None");
  const int m = tables->M();
  check(m < M() && tables->K() == lists_.K() && tables->d() == d(), "tables: expected M below ",
        M(), ", K = ", lists_.K(), " and d = ", d(), ", got M = ", m, ", K = ", tables->K(),
        " and d = ", tables->d());
  check(n_fitted >= 0, "n_fitted: expected at least 0, got ", n_fitted);
  lock_.check_may_write();
  Rate rate{std::move(tables), n_fitted};
  if (lists_.beside() != Beside::Nothing) rate.bias.resize(static_cast<std::size_t>(nlist()));
  std::vector<idx_t> list_no;
  std::vector<std::uint8_t> codes;  // (n, M)
  std::vector<float> beside, extra, bias;
  std::optional<int> replaced;
  int n_restarts = 0;
  std::optional<SharedLock::Writing> alone;
  for (idx_t next = 0;;) {
    list_no.clear();
    beside.clear();
    // Adds do not wait for the biases to be computed, unless they have put lists in another order
    // again and again.
    if (n_restarts == kRestarts && !alone) alone.emplace(lock_, run.interrupted);
    {  // Some that have none yet.
      std::optional<SharedLock::Reading> reading;
      if (!alone) reading.emplace(lock_, run.interrupted);
      if (replaced && *replaced != n_replaced_) {
        rate.forget();
        next = 0;
        ++n_restarts;
      }
      replaced = n_replaced_;
      for (; next < static_cast<idx_t>(rate.bias.size()); ++next) {
        const InvertedLists::List& list = lists_.list(next);
        BiasColumn& column = rate.bias[static_cast<std::size_t>(next)];
        column.reserve(list.size());
        const idx_t begin = column.size();
        const auto room = kRateRows - static_cast<idx_t>(list_no.size());
        const idx_t end = std::min(list.size(), begin + room);
        codes.resize((list_no.size() + static_cast<std::size_t>(end - begin)) *
                     static_cast<std::size_t>(M()));
        for (idx_t o = begin; o < end; ++o) {
          lists_.read_code(next, o, M(), &codes[list_no.size() * static_cast<std::size_t>(M())]);
          list_no.push_back(next);
          if (has_extra_) beside.push_back(bias_at(lists_.bias(next), o));
        }
        if (end < list.size()) break;
      }
    }
    const auto n = static_cast<idx_t>(list_no.size());
    if (n > 0) {
      extra.resize(beside.size());
      if (has_extra_) extras(n, list_no.data(), codes.data(), beside.data(), extra.data(), run);
      bias.resize(list_no.size());
      bias_by(*rate.tables, n, list_no.data(), first_codes(n, codes.data(), M(), m).data(),
              extra.data(), bias.data(), run);
      for (idx_t i = 0; i < n; ++i)
        rate.bias[static_cast<std::size_t>(list_no[i])].push_back(bias[i],
                                                                  offset_of(lists_.beside()));
      continue;
    }
    std::optional<SharedLock::Writing> writing;
    if (!alone) writing.emplace(lock_, run.interrupted);
    bool complete = *replaced == n_replaced_;
    for (std::size_t l = 0; l < rate.bias.size() && complete; ++l)
      complete = rate.bias[l].size() == lists_.list(static_cast<idx_t>(l)).size();
    if (complete) {
      rates_.insert_or_assign(m, std::move(rate));
      return;
    }
    next = 0;
  }
}

void Engine::precompute_table(const Execution& run) {
  lock_.check_may_write();
  check<StateError>(weights_ != nullptr, "an engine without weights has no table of them");
  {
    const SharedLock::Reading reading(lock_, run.interrupted);
    if (table_) return;
  }
  auto table = std::make_shared<const FirstStepTable>(weights_, run);
  const SharedLock::Writing writing(lock_, run.interrupted);
  table_ = std::move(table);
}

void Engine::drop_table(const Execution& run) {
  const SharedLock::Writing writing(lock_, run.interrupted);
  table_ = nullptr;
}

void Engine::make_direct_map(const Execution& run) {
  const SharedLock::Writing writing(lock_, run.interrupted);
  map_ = DirectMap(lists_);
}

void Engine::clear_direct_map(const Execution& run) {
  const SharedLock::Writing writing(lock_, run.interrupted);
  map_ = std::nullopt;
}

}  // namespace fq
