#include "core/selection.hpp"

#include <bit>

namespace fq {
namespace {

// From so many visits on, to know all of a list costs each of them little.
constexpr double kManyVisits = 4;

// With fewer, the words pay where they keep whole blocks out of the scan: if less than one entry in
// so many is accepted, as the first entries of the call tell.
constexpr idx_t kRare = 16, kFirstEntries = 512;

}  // namespace

Selection::Selection(const IdFilter* filter, idx_t nlist, double visits, bool counted)
    : filter_(filter),
      by_list_(counted || visits >= kManyVisits),
      words_(filter ? static_cast<std::size_t>(nlist) : 0) {}

Selection::~Selection() {
  for (auto& words : words_) delete[] words.load();
}

const std::uint64_t* Selection::words(idx_t list_no, const ListIds& ids) const {
  if (!filter_) return nullptr;
  auto& slot = words_[static_cast<std::size_t>(list_no)];
  const std::uint64_t* kept = slot.load(std::memory_order_acquire);
  if (kept) return kept;
  if (!by_list_ &&
      (!filter_->is_cheap() || (n_asked_ >= kFirstEntries && n_accepted_ * kRare >= n_asked_)))
    return nullptr;
  const auto n_words = static_cast<std::size_t>((ids.size() + kScanBlock - 1) / kScanBlock);
  auto fresh = std::make_unique<std::uint64_t[]>(n_words);
  filter_->accept(ids, fresh.get());
  if (!by_list_) {
    idx_t n_accepted = 0;
    for (std::size_t i = 0; i < n_words; ++i) n_accepted += std::popcount(fresh[i]);
    n_accepted_ += n_accepted;
    n_asked_ += ids.size();
  }
  if (slot.compare_exchange_strong(kept, fresh.get(), std::memory_order_acq_rel))
    kept = fresh.release();
  return kept;
}

}  // namespace fq
