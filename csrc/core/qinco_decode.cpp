#include "core/qinco_decode.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "core/row_sums.hpp"
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

void decode_steps(const QincoWeights& weights, bool in_bf16, idx_t n, const idx_t* list_no,
                  const std::uint8_t* codes, idx_t stride, int n_done, int n_codes, float* x,
                  DecodeScratch& scratch) {
  const idx_t dp = weights.base().cols;
  // Clang before 16 captures no structured bindings.
  std::vector<float>&z = scratch.z, &h = scratch.h;
  std::vector<const float*>& terms = scratch.terms;
  // Room for n rows, and for what products in bf16 take of them; null without.
  auto sized = [&](std::vector<float>& v, idx_t cols) {
    v.resize(static_cast<std::size_t>(n * cols));
    return v.data();
  };
  auto rounded = [&](std::vector<bf16>& v, idx_t cols) -> bf16* {
    if (!in_bf16) return nullptr;
    v.resize(static_cast<std::size_t>(n * cols));
    return v.data();
  };
  for (int m = n_done; m < n_codes; ++m) {
    const QincoStep& step = weights.steps()[static_cast<std::size_t>(weights.ivf() ? m : m - 1)];
    const idx_t ep = step.table.cols, hp = step.up_table.cols;
    const bool has_blocks = !step.last_down.empty(), project = !step.out.empty();
    const bool of_base = m == 0 && weights.base_z().rows > 0;
    auto code = [&](idx_t i) { return codes[i * stride + m]; };
    // What codeword and centroid make known of z or h.
    auto start = [&](const Matrix& table, const Matrix& base, std::vector<float>& to, bool clip) {
      sum_rows(n, table.cols, sized(to, table.cols), clip, terms, [&](idx_t i, auto add) {
        add(row(table, code(i)));
        if (of_base) add(row(base, list_no[i]));
      });
    };
    start(step.table, weights.base_z(), z, false);
    if (of_base || step.direct) start(step.up_table, weights.base_h(), h, of_base);
    bf16* const zr = rounded(scratch.z_rounded, ep);
    bf16* const hr = has_blocks ? rounded(scratch.h_rounded, hp) : nullptr;
    if (of_base) {
      if (zr) round_bf16_kernel()(n * ep, z.data(), zr);
      if (hr) round_bf16_kernel()(n * hp, h.data(), hr);
    } else {
      bf16* const xr = rounded(scratch.x_rounded, dp);
      if (xr) round_bf16_kernel()(n * dp, x, xr);
      multiply(n, x, xr, step.x_weight, z.data(), zr, Epilogue::Add);
      if (has_blocks && step.direct)
        multiply(n, x, xr, step.first_up, h.data(), hr, Epilogue::AddRelu);
      else if (has_blocks)
        multiply(n, z.data(), zr, step.first_up, sized(h, hp), hr, Epilogue::Relu);
    }
    for (std::size_t l = 0; l < step.up.size(); ++l) {
      multiply(n, h.data(), hr, step.down[l], z.data(), zr, Epilogue::Add);
      multiply(n, z.data(), zr, step.up[l], hr ? nullptr : h.data(), hr, Epilogue::Relu);
    }
    if (has_blocks && !step.direct)
      multiply(n, h.data(), hr, step.last_down, z.data(), zr, Epilogue::Add);
    sum_rows(n, dp, x, false, terms, [&](idx_t i, auto add) {
      add(x + i * dp);
      if (weights.skip()) add(row(step.codebook, code(i)));
      if (!project) add(z.data() + i * dp);
    });
    if (project) multiply(n, z.data(), zr, step.out, x, nullptr, Epilogue::Add);
    if (has_blocks && step.direct)
      multiply(n, h.data(), hr, step.last_down, x, nullptr, Epilogue::Add);
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
  decode_steps(weights, false, n, list.data(), present.data(), stride, weights.ivf() ? 0 : 1,
               n_codes, scratch.x.data(), scratch);
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
