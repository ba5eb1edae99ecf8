// Which queries of a call are scanned together: such as probe many of the same lists.
#pragma once

#include "core/types.hpp"

namespace fq {

// list_no: (n, nprobe), the nearest first, below nlist or -1 for none -> order: (n), 0 .. n - 1 so
// that the first kBatch are a group, the next, and so on.
//
// Takes a query, and those that share most of their nearest lists with it; then those that share
// most with these. Groups that were fitted more often, or by all lists, share no more.
void group_queries(idx_t n, idx_t nprobe, const idx_t* list_no, idx_t nlist, idx_t* order);

}  // namespace fq
