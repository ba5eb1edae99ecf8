// Sums of rows that are looked up here and there.
#pragma once

#include <vector>

#include "core/types.hpp"
#include "dispatch/dispatch.hpp"

namespace fq {

// to (n, cols): row i is the sum of the rows that terms(i, add) adds, in that order and as many for
// each i; `clip`ped at 0. cols: a multiple of 16. rows: scratch.
template <class Terms>
void sum_rows(idx_t n, idx_t cols, float* to, bool clip, std::vector<const float*>& rows,
              Terms terms) {
  rows.clear();
  for (idx_t i = 0; i < n; ++i) terms(i, [&](const float* row) { rows.push_back(row); });
  if (n > 0) sum_rows_kernel()(n, static_cast<idx_t>(rows.size()) / n, cols, rows.data(), to, clip);
}

}  // namespace fq
