// Engine: vectors that go, and that come from another one.
#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <numeric>
#include <utility>

#include "core/check.hpp"
#include "core/engine.hpp"
#include "core/parallel.hpp"

namespace fq {
namespace {

// What is to go at these positions; of lists that will have `grown` by then.
std::vector<Removal> removals_at(const InvertedLists& lists, std::vector<Position> at,
                                 const std::map<idx_t, idx_t>& grown = {}) {
  std::sort(at.begin(), at.end(),
            [](const Position& a, const Position& b) { return a.list_no < b.list_no; });
  std::vector<Removal> removals;
  for (auto begin = at.begin(); begin != at.end();) {
    const idx_t l = begin->list_no;
    const auto more = grown.find(l);
    const idx_t size = lists.list(l).size() + (more == grown.end() ? 0 : more->second);
    std::vector<std::uint64_t> words(static_cast<std::size_t>((size + 63) / 64));
    for (; begin != at.end() && begin->list_no == l; ++begin)
      words[static_cast<std::size_t>(begin->offset / 64)] |= std::uint64_t{1}
                                                             << (begin->offset & 63);
    removals.emplace_back(l, size, std::move(words));
  }
  return removals;
}

// Which of the numbers 0 .. n - 1 a filter accepts (null: all).
class Numbers {
 public:
  Numbers(const IdFilter* filter, idx_t n) : n_(n), words_(n_words(), ~std::uint64_t{0}) {
    if (filter)
      filter->accept(ListIds::sequence(n), words_.data());
    else if (n % 64 != 0)
      words_.back() >>= 64 - n % 64;
    before_.reserve(words_.size());
    for (const std::uint64_t word : words_) {
      before_.push_back(n_accepted_);
      n_accepted_ += std::popcount(word);
    }
  }
  idx_t n_accepted() const { return n_accepted_; }
  BitmapFilter filter() const {  // little-endian words are a bitmap
    return {words_.size() * 8, reinterpret_cast<const std::uint8_t*>(words_.data())};
  }
  // i without those before it that are accepted.
  idx_t new_number(idx_t i) const {
    if (i < 0) return i;
    if (i >= n_) return i - n_accepted_;
    const auto w = static_cast<std::size_t>(i / 64);
    const std::uint64_t lower = words_[w] & ((std::uint64_t{1} << (i & 63)) - 1);
    return i - before_[w] - std::popcount(lower);
  }

 private:
  std::size_t n_words() const { return static_cast<std::size_t>(n_ / 64 + (n_ % 64 != 0)); }
  idx_t n_, n_accepted_ = 0;
  std::vector<std::uint64_t> words_;
  std::vector<idx_t> before_;
};

}  // namespace

// Selects in a reading, in which a filter may search, and takes out alone; again if something has
// changed between.
template <class Select, class Remove>
idx_t Engine::remove_selected(Select select, Remove remove, const Execution& run) {
  lock_.check_may_write();
  for (;;) {
    std::optional<SharedLock::Reading> reading(std::in_place, lock_, run.interrupted);
    const idx_t seen = n_changes_;
    auto selected = select();
    reading.reset();
    const SharedLock::Writing writing(lock_, run.interrupted);
    if (n_changes_ == seen) return remove(selected);
  }
}

void Engine::remove_from_rates(const std::vector<Removal>& removals) noexcept {
  for (auto& [_, rate] : rates_)
    if (!rate.bias.empty())
      for (const Removal& removal : removals)
        rate.bias[static_cast<std::size_t>(removal.list_no())].remove(removal);
  ++n_replaced_;
}

idx_t Engine::remove_now(const std::vector<Removal>& removals, const Execution& run) {
  lists_.prepare_removal(removals);
  if (map_) {
    for (const Removal& removal : removals) map_->remove(lists_, removal);
    map_->release_unused();
  }
  remove_from_rates(removals);
  const idx_t before = lists_.ntotal();
  lists_.remove(removals, run.n_threads);
  const idx_t n_removed = before - lists_.ntotal();
  ntotal_ -= n_removed;
  ++n_changes_;
  return n_removed;
}

idx_t Engine::remove(const IdFilter* filter, const Execution& run) {
  return remove_selected([&] { return lists_.select(filter, run); },
                         [&](const auto& removals) { return remove_now(removals, run); }, run);
}

idx_t Engine::remove(idx_t n, const idx_t* ids, const Execution& run) {
  const IdsFilter filter(n, ids);
  const auto select = [&] {
    if (!map_ || map_->size() != lists_.ntotal()) return lists_.select(&filter, run);
    std::vector<Position> at;
    for (idx_t i = 0; i < n; ++i)
      if (const std::optional<Position> found = map_->find(ids[i])) at.push_back(*found);
    return removals_at(lists_, std::move(at));
  };
  return remove_selected(
      select, [&](const auto& removals) { return remove_now(removals, run); }, run);
}

idx_t Engine::remove_numbers(const IdFilter* filter, const Execution& run) {
  const auto select = [&] {
    check<StateError>(!map_, "numbers do not move up in a direct map; clear it first");
    Numbers numbers(filter, ntotal_);
    const BitmapFilter chosen = numbers.filter();
    std::vector<Removal> removals = lists_.select(&chosen, run);
    return std::pair(std::move(numbers), std::move(removals));
  };
  const auto remove = [&](const auto& selected) {
    const Numbers& numbers = selected.first;  // clang before 16 captures no structured bindings
    const std::vector<Removal>& removals = selected.second;
    for (idx_t l = 0; l < nlist(); ++l) lists_.own(l);
    remove_from_rates(removals);
    lists_.remove(removals, run.n_threads);
    if (numbers.n_accepted() > 0) lists_.renumber([&](idx_t id) { return numbers.new_number(id); });
    ntotal_ -= numbers.n_accepted();
    ++n_changes_;
    return numbers.n_accepted();
  };
  return remove_selected(select, remove, run);
}

void Engine::update(idx_t n, const idx_t* ids, const idx_t* list_no, const std::uint8_t* codes,
                    const float* extra, const Execution& run) {
  for (idx_t i = 0; i < n; ++i)
    if (list_no[i] < 0 || list_no[i] >= nlist())
      check(false, "list_no[", i, "]: expected 0 to ", nlist() - 1, ", got ", list_no[i]);
  std::vector<idx_t> sorted(ids, ids + n);
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  check(twice == sorted.end(), "ids: one is given twice");
  std::vector<float> beside(static_cast<std::size_t>(n));
  bias(n, list_no, codes, extra, beside.data(), run);
  with_rates(n, list_no, codes, extra, run, [&](const BiasOfRates& of_rates) {
    check<StateError>(map_.has_value(), "direct map not initialized: call make_direct_map first");
    std::vector<Position> at;
    for (idx_t i = 0; i < n; ++i) {
      const std::optional<Position> found = map_->find(ids[i]);
      if (!found) check<StateError>(false, "no vector has the id ", ids[i]);
      at.push_back(*found);
    }
    // Those that stay in their list are replaced in their place; the others are added and removed,
    // from lists that may have grown by then.
    std::vector<idx_t> list_of_moved, id_of_moved, rank;  // rank: among those of a list
    std::vector<std::uint8_t> moved_codes;
    std::vector<float> moved_bias;
    std::vector<Position> left;
    std::map<idx_t, idx_t> grown;
    for (idx_t i = 0; i < n; ++i) {
      const auto u = static_cast<std::size_t>(i);
      if (at[u].list_no == list_no[i]) continue;
      list_of_moved.push_back(list_no[i]), id_of_moved.push_back(ids[i]);
      moved_codes.insert(moved_codes.end(), codes + i * M(), codes + (i + 1) * M());
      moved_bias.push_back(beside[u]);
      left.push_back(at[u]);
      rank.push_back(grown[list_no[i]]++);
    }
    const std::vector<Removal> removals = removals_at(lists_, left, grown);
    lists_.prepare_removal(removals);
    for (const Position& p : at) lists_.own(p.list_no);
    for (auto& [_, rate] : rates_)
      for (const auto& [l, more] : grown)
        if (!rate.bias.empty()) {
          BiasColumn& column = rate.bias[static_cast<std::size_t>(l)];
          column.reserve(column.size() + more);
        }
    lists_.add(static_cast<idx_t>(id_of_moved.size()), list_of_moved.data(), moved_codes.data(),
               moved_bias.data(), id_of_moved.data(), 0, nullptr);
    // Nothing below can fail.
    const float offset = offset_of(lists_.beside());
    for (idx_t i = 0; i < n; ++i) {
      const Position& p = at[static_cast<std::size_t>(i)];
      const bool stays = p.list_no == list_no[i];
      if (stays)
        lists_.replace_code(p.list_no, p.offset, codes + i * M(),
                            beside[static_cast<std::size_t>(i)]);
      for (auto& [_, rate] : rates_) {
        if (rate.bias.empty()) continue;
        const float b = of_rates.at(rate.tables)[static_cast<std::size_t>(i)];
        BiasColumn& column = rate.bias[static_cast<std::size_t>(list_no[i])];
        stays ? column.replace(p.offset, b, offset) : column.push_back(b, offset);
      }
    }
    for (const Removal& removal : removals) map_->remove(lists_, removal);
    remove_from_rates(removals);
    lists_.remove(removals, run.n_threads);
    for (std::size_t i = 0; i < id_of_moved.size(); ++i) {
      const idx_t l = list_of_moved[i];
      map_->put(id_of_moved[i], {l, lists_.list(l).size() - grown.at(l) + rank[i]});
    }
    ++n_changes_;
    for (const auto& [l, _] : grown) sort_ids(l);
  });
}

std::map<int, std::vector<std::vector<float>>> Engine::bias_of_rates(const Engine& other,
                                                                     const Execution& run) {
  std::map<int, std::vector<std::vector<float>>> found;
  for (auto& [m, rate] : rates_) {
    if (rate.bias.empty()) continue;
    std::vector<std::vector<float>>& columns = found[m];
    columns.resize(rate.bias.size());
    for (idx_t l = 0; l < nlist(); ++l) {
      const InvertedLists::List& list = other.lists_.list(l);
      const idx_t n = list.size();
      if (n == 0) continue;
      const std::vector<idx_t> list_no(static_cast<std::size_t>(n), l);
      std::vector<idx_t> offset(static_cast<std::size_t>(n));
      std::iota(offset.begin(), offset.end(), idx_t{0});
      std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * M()));
      other.lists_.gather(n, list_no.data(), offset.data(), codes.data());
      std::vector<float> beside(static_cast<std::size_t>(n)), extra(beside);
      other.lists_.read_bias(l, 0, n, beside.data());
      if (has_extra_)
        other.extras(n, list_no.data(), codes.data(), beside.data(), extra.data(), run);
      const std::vector<std::uint8_t> cut = first_codes(n, codes.data(), M(), m);
      std::vector<float>& column = columns[static_cast<std::size_t>(l)];
      column.resize(static_cast<std::size_t>(n));
      bias_by(*rate.tables, n, list_no.data(), cut.data(), extra.data(), column.data(), run);
      BiasColumn& here = rate.bias[static_cast<std::size_t>(l)];
      here.reserve(here.size() + n);
    }
  }
  return found;
}

void Engine::merge_from(Engine& other, idx_t add_id, const Execution& run) {
  check(this != &other, "other: expected another engine, got the same");
  check(d() == other.d() && nlist() == other.nlist() && M() == other.M() &&
            nbits() == other.nbits() && metric_ == other.metric_ && has_extra_ == other.has_extra_,
        "other: expected an engine of the same sizes and metric");
  lock_.check_may_write();
  other.lock_.check_may_write();
  // In one order everywhere, so that no two threads wait for each other.
  const bool is_first = std::less<const Engine*>()(this, &other);
  const SharedLock::Writing one((is_first ? *this : other).lock_, run.interrupted);
  const SharedLock::Writing two((is_first ? other : *this).lock_, run.interrupted);

  constexpr idx_t kMost = std::numeric_limits<idx_t>::max();
  idx_t least = kMost, most = std::numeric_limits<idx_t>::min();
  for (idx_t l = 0; l < nlist(); ++l) {
    other.lists_.list(l).ids.for_each([&](idx_t, idx_t id) {
      if (add_id > 0 ? id > kMost - add_id
          : id < 0   ? add_id < std::numeric_limits<idx_t>::min() - id
                     : id + add_id < 0)
        check(false, "add_id: expected a number that keeps ids within 0..2^63 - 1, got ", add_id,
              " for the id ", id);
      least = std::min(least, id + add_id);
      most = std::max(most, id + add_id);
    });
  }
  check<StateError>(other.ntotal_ <= kMostNumbers - ntotal_, "ntotal: no more numbers to give out");
  const idx_t n = other.lists_.ntotal();
  if (map_) map_->reserve(n, least, most);
  lists_.prepare_merge(other.lists_, add_id);
  std::map<int, std::vector<std::vector<float>>> beside = bias_of_rates(other, run);
  // Nothing below can fail.
  for (auto& [m, columns] : beside)
    for (std::size_t l = 0; l < columns.size(); ++l) {
      BiasColumn& column = rates_.at(m).bias[l];
      for (const float bias : columns[l]) column.push_back(bias, offset_of(lists_.beside()));
    }
  if (map_)
    for (idx_t l = 0; l < nlist(); ++l) {
      const idx_t size = lists_.list(l).size();
      other.lists_.list(l).ids.for_each(
          [&](idx_t o, idx_t id) { map_->put(id + add_id, {l, size + o}); });
    }
  lists_.merge(other.lists_, add_id);
  for (idx_t l = 0; l < nlist(); ++l) sort_ids(l);
  if (other.map_) other.map_ = DirectMap(other.lists_);
  ntotal_ += other.ntotal_.exchange(0);
  for (auto& [_, rate] : other.rates_) rate.forget();
  ++n_changes_, ++n_replaced_;
  ++other.n_changes_, ++other.n_replaced_;
}

}  // namespace fq
