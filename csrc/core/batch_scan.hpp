// Lists that several queries probe, read once for all of them -> the best candidates of each.
//
// Every query keeps what it would find alone, bit for bit: here too 8-bit tables only rule codes
// out, and the others get their score as in core/shortlist. The tables of up to 32 queries have one
// scale, so that for a query j with the threshold t_j, in units of it,
//   low_j + coarse_j + sum of values + bias <= t_j
// compares the sum of the values and the rounded bias, which is the same number for all queries,
// with one integer of the query and the list. With ratios it is
//   low_j + coarse_j + sum of values <= t_j ratio,  ratio = 1 + e,
// and -t_j e is what is added to the sum: a rounded product of one integer of the code and one of
// the query. What rounding could do is added to the integer that the sum is compared with.
#pragma once

#include <cstdint>
#include <vector>

#include "core/lut.hpp"
#include "core/shortlist.hpp"
#include "core/topk.hpp"
#include "kernels/lut_scan_batch/contract.hpp"

namespace fq {

// Whether scan_batch can do a search of whole batches: nbits 8, sums that 16 bits hold and tables
// that the second cache holds, no limits and no selection (of which it knows nothing), and not more
// candidates than should be kept for 32 queries at once.
bool can_scan_batch(const Probes& probes, idx_t n_short);

struct BatchScratch {
  struct Shared {  // a list
    idx_t list_no;
    std::uint32_t members = 0;  // bit j: query j probes it
    int n_members = 0;
    float coarse_score[kBatch] = {};
  };
  std::vector<Shared> lists;
  std::vector<std::int32_t> place;  // (nlist): where in `lists` a list is, -1 where it is not
  std::vector<std::uint8_t> lut;
  LutU8 lut_u8[kBatch];
  std::vector<idx_t> list_no;  // of what one query scans alone
  std::vector<float> coarse_score;
};

// The lists of up to kBatch queries, probes.list_no and coarse_score being (nq, probes.n), where
// can_scan_batch() is true. Bit j of `usable`: there is a query j, and it may find something. lut:
// (nq, n_codes, 256); found: (nq).
//
// The first lists of a query, which give it a threshold, and those that too few others probe are
// scanned for it alone.
Scanned scan_batch(const Probes& probes, std::uint32_t usable, const float* lut,
                   BatchScratch& scratch, TopK* found);

}  // namespace fq
