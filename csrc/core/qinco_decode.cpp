#include "core/qinco_decode.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

const float* row(const Matrix& m, idx_t i) { return m.data.data() + i * m.cols; }

}  // namespace

void decode_start(const QincoWeights& weights, idx_t n, const idx_t* list_no,
                  const std::uint8_t* codes, idx_t stride, float* x) {
  const Matrix& base = weights.base();
  for (idx_t i = 0; i < n; ++i)
    std::copy_n(row(base, weights.ivf() ? list_no[i] : codes[i * stride]), base.cols,
                x + i * base.cols);
}

void decode_steps(const QincoWeights& weights, bool in_bf16, idx_t n, const std::uint8_t* codes,
                  idx_t stride, int n_done, int n_codes, float* x, DecodeScratch& scratch) {
  const idx_t dp = weights.base().cols;
  auto& [unused, z, h, x_rounded, z_rounded, h_rounded] = scratch;
  // Activations of n rows: in float32, which c of a product may be, or rounded.
  auto resize = [&](std::vector<float>& f32, std::vector<bf16>& rounded, idx_t cols) {
    if (in_bf16)
      rounded.resize(static_cast<std::size_t>(n * cols));
    else
      f32.resize(static_cast<std::size_t>(n * cols));
  };
  auto data = [&](std::vector<bf16>& rounded) { return in_bf16 ? rounded.data() : nullptr; };
  for (int m = n_done; m < n_codes; ++m) {
    const QincoStep& step = weights.steps()[static_cast<std::size_t>(weights.ivf() ? m : m - 1)];
    const idx_t ep = step.table.cols;
    auto code = [&](idx_t i) { return codes[i * stride + m]; };
    z.resize(static_cast<std::size_t>(n * ep));
    for (idx_t i = 0; i < n; ++i) std::copy_n(row(step.table, code(i)), ep, z.data() + i * ep);
    if (in_bf16) {
      x_rounded.resize(static_cast<std::size_t>(n * dp));
      z_rounded.resize(static_cast<std::size_t>(n * ep));
      round_bf16_kernel()(n * dp, x, x_rounded.data());
    }
    multiply(n, x, data(x_rounded), step.x_weight, z.data(), data(z_rounded), Epilogue::Add);
    for (std::size_t l = 0; l < step.up.size(); ++l) {
      resize(h, h_rounded, step.up[l].cols);
      multiply(n, z.data(), data(z_rounded), step.up[l], in_bf16 ? nullptr : h.data(),
               data(h_rounded), Epilogue::Relu);
      multiply(n, h.data(), data(h_rounded), step.down[l], z.data(), data(z_rounded),
               Epilogue::Add);
    }
    if (weights.skip())
      for (idx_t i = 0; i < n; ++i) {
        const float* c = row(step.codebook, code(i));
        for (idx_t j = 0; j < dp; ++j) x[i * dp + j] += c[j];
      }
    if (!step.out.empty())
      multiply(n, z.data(), data(z_rounded), step.out, x, nullptr, Epilogue::Add);
    else
      for (idx_t j = 0; j < n * dp; ++j) x[j] += z[j];
  }
}

namespace {

// n <= kDecodeBlock rows of `decode`, checked.
void decode_block(const QincoWeights& weights, idx_t n, const idx_t* list_no,
                  const std::uint8_t* codes, idx_t stride, int n_codes, DecodeScratch& scratch,
                  float* out) {
  const idx_t d = weights.d(), dp = weights.base().cols;
  // A missing row goes along as code 0 of list 0, and is overwritten at the end.
  std::vector<idx_t> list(list_no, list_no + (list_no ? n : 0));
  std::vector<std::uint8_t> present(codes, codes + n * stride);
  auto missing = [&](idx_t i) { return list_no && list_no[i] < 0; };
  for (idx_t i = 0; i < n; ++i)
    if (missing(i)) list[i] = 0, std::fill_n(present.data() + i * stride, stride, std::uint8_t{0});
  scratch.x.resize(static_cast<std::size_t>(n * dp));
  decode_start(weights, n, list.data(), present.data(), stride, scratch.x.data());
  decode_steps(weights, false, n, present.data(), stride, weights.ivf() ? 0 : 1, n_codes,
               scratch.x.data(), scratch);
  for (idx_t i = 0; i < n; ++i, out += d)
    for (idx_t j = 0; j < d; ++j)
      out[j] = missing(i) ? std::numeric_limits<float>::quiet_NaN()
                          : scratch.x[i * dp + j] * weights.std() + weights.mean()[j];
}

}  // namespace

void decode(const QincoWeights& weights, idx_t n, const idx_t* list_no, const std::uint8_t* codes,
            idx_t M, int n_codes, float* out, const Execution& run) {
  const int min_codes = weights.ivf() ? 0 : 1;
  check(list_no || !weights.ivf(),
        "list_no: expected one per code for a model with an IVF, got None");
  check(n_codes >= min_codes && n_codes <= weights.M() && n_codes <= M, "n_steps: expected ",
        min_codes, " to ", std::min<idx_t>(weights.M(), M), " (the model has ", weights.M(),
        " codes, `codes` has ", M, "), got ", n_codes);
  for (idx_t i = 0; i < n; ++i) {
    if (list_no && list_no[i] == -1) continue;
    if (weights.ivf() && (list_no[i] < 0 || list_no[i] >= weights.n_base()))
      check(false, "list_no[", i, "]: expected -1 to ", weights.n_base() - 1, ", got ", list_no[i]);
    for (int m = 0; m < n_codes; ++m)
      if (codes[i * M + m] >= weights.K())
        check(false, "codes[", i, ", ", m, "]: expected below ", weights.K(), ", got ",
              int{codes[i * M + m]});
  }
  // Small batches are split finely enough for every worker, in multiples of the kernel's rows.
  const idx_t share = (n / std::max(run.n_threads, 1) + 8) / 8 * 8;
  const idx_t block_rows = std::min(share, kDecodeBlock);
  const idx_t n_blocks = (n + block_rows - 1) / block_rows;
  std::vector<DecodeScratch> scratch(static_cast<std::size_t>(n_workers(n_blocks, run)));
  parallel_for(n_blocks, run, [&](idx_t block, int worker) {
    const idx_t begin = block * block_rows, rows = std::min(block_rows, n - begin);
    decode_block(weights, rows, list_no ? list_no + begin : nullptr, codes + begin * M, M, n_codes,
                 scratch[worker], out + begin * weights.d());
  });
}

}  // namespace fq
