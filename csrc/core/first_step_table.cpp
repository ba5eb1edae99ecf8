#include "core/first_step_table.hpp"

#include <algorithm>
#include <utility>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "core/qinco_decode.hpp"

namespace fq {

FirstStepTable::FirstStepTable(std::shared_ptr<const QincoWeights> of, const Execution& run)
    : weights_(std::move(of)) {
  const QincoWeights& weights = *weights_;
  check<StateError>(!weights.steps().empty(),
                    "a codec of one code without an IVF has no network to compute a table of");
  const idx_t K = weights.K(), dp = weights.base().cols, n = weights.n_base() * K;
  const int n_first = weights.ivf() ? 0 : 1;
  x_.resize(static_cast<std::size_t>(n * dp));
  const idx_t n_blocks = (n + kDecodeBlock - 1) / kDecodeBlock;
  std::vector<DecodeScratch> scratch(static_cast<std::size_t>(n_workers(n_blocks, run)));
  parallel_for(n_blocks, run, [&](idx_t block, int worker) {
    const idx_t begin = block * kDecodeBlock, rows = std::min(kDecodeBlock, n - begin);
    idx_t list_no[kDecodeBlock];
    std::uint8_t codes[kDecodeBlock][2];
    for (idx_t i = 0; i < rows; ++i) {
      list_no[i] = (begin + i) / K;
      codes[i][0] = static_cast<std::uint8_t>(list_no[i]);  // means nothing with an IVF
      codes[i][n_first] = static_cast<std::uint8_t>((begin + i) % K);
    }
    float* x = x_.data() + begin * dp;
    decode_start(weights, rows, list_no, codes[0], 2, x);
    decode_steps(weights, in_bf16(), rows, list_no, codes[0], 2, n_first, n_first + 1, x,
                 scratch[worker]);
  });
}

void FirstStepTable::look_up(idx_t n, const idx_t* list_no, const std::uint8_t* codes, idx_t stride,
                             float* x) const {
  const bool ivf = weights_->ivf();
  const idx_t K = weights_->K(), dp = weights_->base().cols;
  for (idx_t i = 0; i < n; ++i, codes += stride, x += dp) {
    const idx_t row = ivf ? list_no[i] * K + codes[0] : codes[0] * K + codes[1];
    std::copy_n(x_.data() + row * dp, dp, x);
  }
}

}  // namespace fq
