#include "core/selection.hpp"

namespace fq {

Selection::Selection(const IdFilter* filter, idx_t nlist)
    : filter_(filter), words_(filter ? static_cast<std::size_t>(nlist) : 0) {}

Selection::~Selection() {
  for (auto& words : words_) delete[] words.load();
}

const std::uint64_t* Selection::words(idx_t list_no, const ListIds& ids) const {
  if (!filter_) return nullptr;
  auto& slot = words_[static_cast<std::size_t>(list_no)];
  const std::uint64_t* kept = slot.load(std::memory_order_acquire);
  if (kept) return kept;
  const auto n_words = static_cast<std::size_t>((ids.size() + kScanBlock - 1) / kScanBlock);
  auto fresh = std::make_unique<std::uint64_t[]>(n_words);
  filter_->accept(ids, fresh.get());
  if (slot.compare_exchange_strong(kept, fresh.get(), std::memory_order_acq_rel))
    kept = fresh.release();
  return kept;
}

}  // namespace fq
