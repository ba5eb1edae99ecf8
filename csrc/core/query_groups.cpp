#include "core/query_groups.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/lut_scan_batch/contract.hpp"

namespace fq {

void group_queries(idx_t n, idx_t nprobe, const idx_t* list_no, idx_t nlist, idx_t* order) {
  constexpr idx_t kNearest = 16;  // lists of each that are compared
  auto for_each_list = [&](idx_t query, auto f) {
    for (idx_t p = 0; p < std::min(nprobe, kNearest); ++p)
      if (const idx_t list = list_no[query * nprobe + p]; list >= 0) f(list);
  };

  // The queries of a list: from begin[list] to begin[list + 1].
  std::vector<idx_t> begin(static_cast<std::size_t>(nlist) + 1), queries;
  for (idx_t i = 0; i < n; ++i) for_each_list(i, [&](idx_t list) { ++begin[list + 1]; });
  for (idx_t list = 0; list < nlist; ++list) begin[list + 1] += begin[list];
  queries.resize(static_cast<std::size_t>(begin[nlist]));
  std::vector<idx_t> next = begin;
  for (idx_t i = 0; i < n; ++i) for_each_list(i, [&](idx_t list) { queries[next[list]++] = i; });

  std::vector<idx_t> left(static_cast<std::size_t>(n)), n_shared;  // lists, with the group
  for (idx_t i = 0; i < n; ++i) left[i] = i;
  idx_t n_taken = 0;
  std::vector<bool> taken(static_cast<std::size_t>(n));
  auto take = [&](idx_t query) {
    order[n_taken++] = query;
    taken[query] = true;
    for_each_list(query, [&](idx_t list) {
      for (idx_t e = begin[list]; e < begin[list + 1]; ++e) ++n_shared[queries[e]];
    });
  };
  std::vector<std::pair<idx_t, idx_t>> best;  // what is not shared, and the query
  while (!left.empty()) {
    n_shared.assign(static_cast<std::size_t>(n), 0);
    take(left.front());
    for (idx_t more : {kBatch / 2, kBatch / 2 - 1}) {
      std::erase_if(left, [&](idx_t i) { return taken[i]; });
      best.clear();
      for (idx_t i : left) best.push_back({-n_shared[i], i});
      more = std::min(more, static_cast<idx_t>(best.size()));
      std::nth_element(best.begin(), best.begin() + more, best.end());
      for (idx_t j = 0; j < more; ++j) take(best[j].second);
    }
    std::erase_if(left, [&](idx_t i) { return taken[i]; });
  }
}

}  // namespace fq
