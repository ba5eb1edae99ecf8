#include "core/qinco_weights.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/check.hpp"
#include "core/distance.hpp"
#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

std::string text(const std::vector<idx_t>& shape) {
  std::string s = "(";
  for (idx_t n : shape) s += (s.size() > 1 ? ", " : "") + std::to_string(n);
  return s + ")";
}

// Shape, and that no value is a NaN or an inf.
void check_array(const char* name, const ArrayView& a, const std::vector<idx_t>& expected) {
  check(a.data && a.shape == expected, name, ": expected shape ", text(expected), ", got ",
        a.data ? text(a.shape) : "None");
  idx_t n = 1;
  for (const idx_t size : expected) n *= size;
  check_finite(name, a.data, n);
}

void check_ndim(const char* name, const ArrayView& a, std::size_t ndim) {
  check(a.data && a.shape.size() == ndim, name, ": expected ", ndim, " dimensions, got ",
        a.data ? text(a.shape) : "None");
}

// (rows, cols) -> the same with padded columns; the rows are looked up, never multiplied.
Matrix pad_columns(const float* a, idx_t rows, idx_t cols) {
  Matrix m{rows, padded(cols), {}};
  m.data.resize(static_cast<std::size_t>(m.rows * m.cols));
  for (idx_t r = 0; r < rows; ++r) std::copy_n(a + r * cols, cols, &m.data[r * m.cols]);
  return m;
}

// A weight (out, in), its rows `stride` apart -> (in, out) as the kernels take it, padded on both
// sides.
Weight pack(const float* a, idx_t out, idx_t in, idx_t stride, bool in_bf16 = false) {
  Weight w{padded(in), padded(out)};
  w.data.resize(static_cast<std::size_t>(w.rows * w.cols));
  pack_gemm_f32(out, in, stride, a, w.rows, w.data.data());
  if (!in_bf16) return w;
  w.rounded.resize(w.data.size());
  pack_gemm_bf16(out, in, stride, a, w.rows, w.rounded.data());
  return w;
}

// rows times b, (rows.rows, b.cols).
Matrix product(const Matrix& rows, const Weight& b) {
  Matrix m{rows.rows, b.cols, std::vector<float>(static_cast<std::size_t>(rows.rows * b.cols))};
  multiply(m.rows, rows.data.data(), nullptr, b, m.data.data(), nullptr, Epilogue::Store);
  return m;
}

// a (n, k) times b (k, m), of which row l is at b + l * stride: (n, m) with padded columns.
Matrix product(const float* a, idx_t n, idx_t k, const float* b, idx_t m, idx_t stride) {
  Weight w{padded(k), padded(m)};
  w.data.resize(static_cast<std::size_t>(w.rows * w.cols));
  for (idx_t j = 0; j < m; ++j)
    for (idx_t l = 0; l < k; ++l) w.data[(j / 16 * w.rows + l) * 16 + j % 16] = b[l * stride + j];
  return product(pad_columns(a, n, k), w);
}

std::vector<float> half_norms(const ArrayView& a) {
  const idx_t d = a.shape[1];
  std::vector<float> norms;
  for (const float *row = a.data, *end = row + a.shape[0] * d; row < end; row += d)
    norms.push_back(sum_terms(d, [=](idx_t j) { return row[j] * row[j]; }) / 2);
  return norms;
}

}  // namespace

void multiply(idx_t n, const float* a, const bf16* a_rounded, const Weight& weight, float* c,
              bf16* c_rounded, Epilogue epilogue) {
  if (a_rounded)
    gemm_bf16_kernel()(n, weight.cols, weight.rows, a_rounded, weight.rounded.data(), c, c_rounded,
                       epilogue);
  else
    gemm_f32_kernel()(n, weight.cols, weight.rows, a, weight.data.data(), c, epilogue);
}

QincoWeights::QincoWeights(int nbits, bool ivf, bool skip, const ArrayView& mean, float std,
                           const ArrayView& base, bool in_bf16)
    : nbits_(nbits), ivf_(ivf), skip_(skip), in_bf16_(in_bf16), std_(std) {
  check(nbits >= 4 && nbits <= 8, "nbits: expected 4 to 8, got ", nbits);
  check_ndim("mean", mean, 1);
  d_ = mean.shape[0];
  check(d_ >= 1, "mean: expected at least one dimension, got 0");
  check(std::isfinite(std) && std > 0, "std: expected a positive number, got ", std);
  check_array("mean", mean, {d_});
  check_ndim("base", base, 2);
  check_array("base", base, {ivf ? std::max<idx_t>(base.shape[0], 1) : K(), d_});
  mean_.assign(mean.data, mean.data + d_);
  base_ = pad_columns(base.data, base.shape[0], d_);
  if (ivf) return;
  base_columns_ = pack(base.data, K(), d_, d_);
  base_half_norms_ = half_norms(base);
}

void QincoWeights::add_step(const ArrayView& codebook, const ArrayView& in_proj,
                            const ArrayView& concat_weight, const ArrayView& concat_bias,
                            const ArrayView& up, const ArrayView& down, const ArrayView& out_proj,
                            const ArrayView& preselect) {
  check_ndim("concat_weight", concat_weight, 2);
  check_ndim("up", up, 3);
  const bool first = steps_.empty();
  const idx_t d_e = first ? concat_weight.shape[0] : d_e_;
  const idx_t L = first ? up.shape[0] : L_;
  const idx_t d_h = first ? up.shape[1] : d_h_;
  check(d_e >= 1 && d_h >= 1, "d_e, d_h: expected at least 1, got ", d_e, ", ", d_h);
  check_array("codebook", codebook, {K(), d_});
  check_array("concat_weight", concat_weight, {d_e, d_e + d_});
  check_array("up", up, {L, d_h, d_e});
  check_array("down", down, {L, d_e, d_h});
  if (in_proj.data || d_e != d_) check_array("in_proj", in_proj, {d_e, d_});
  if (out_proj.data || d_e != d_) check_array("out_proj", out_proj, {d_, d_e});
  if (concat_bias.data) check_array("concat_bias", concat_bias, {d_e});
  if (preselect.data) check_array("preselect", preselect, {K(), d_});

  QincoStep step;
  step.codebook = pad_columns(codebook.data, K(), d_);
  const idx_t stride = d_e + d_;
  const Matrix u =
      in_proj.data ? product(step.codebook, pack(in_proj.data, d_e, d_, d_)) : step.codebook;
  step.table = product(u, pack(concat_weight.data, d_e, d_e, stride));  // u + W_u u + b
  for (idx_t code = 0; code < K(); ++code)
    for (idx_t j = 0; j < d_e; ++j)
      step.table.data[code * step.table.cols + j] +=
          u.data[code * u.cols + j] + (concat_bias.data ? concat_bias.data[j] : 0.0f);
  const float* W_x = concat_weight.data + d_e;
  step.x_weight = pack(W_x, d_e, d_, stride, in_bf16_);
  if (out_proj.data) step.out = pack(out_proj.data, d_, d_e, d_e, in_bf16_);
  step.direct = d_ <= d_e;
  const idx_t size = d_h * d_e;
  for (idx_t l = 0; l + 1 < L; ++l) {
    step.up.push_back(pack(up.data + (l + 1) * size, d_h, d_e, d_e, in_bf16_));
    step.down.push_back(pack(down.data + l * size, d_e, d_h, d_h, in_bf16_));
  }
  if (L > 0) {
    step.up_table = product(step.table, pack(up.data, d_h, d_e, d_e));
    const float* last = down.data + (L - 1) * size;
    if (step.direct) {
      const Matrix m = product(up.data, d_h, d_e, W_x, d_, stride);
      step.first_up = pack(m.data.data(), d_h, d_, m.cols, in_bf16_);
    } else {
      step.first_up = pack(up.data, d_h, d_e, d_e, in_bf16_);
    }
    if (step.direct && out_proj.data) {
      const Matrix m = product(out_proj.data, d_, d_e, last, d_h, d_h);
      step.last_down = pack(m.data.data(), d_, d_h, m.cols, in_bf16_);
    } else {
      step.last_down = pack(last, d_e, d_h, d_h, in_bf16_);
    }
  }
  if (preselect.data) {
    step.preselect = pack(preselect.data, K(), d_, d_, in_bf16_);
    step.preselect_half_norms = half_norms(preselect);
  }

  if (first && ivf_ && n_base() * (d_e + d_h) <= kMaxBaseProducts) {
    base_z_ = product(base_, step.x_weight);
    if (L > 0) base_h_ = product(step.direct ? base_ : base_z_, step.first_up);
  }
  steps_.push_back(std::move(step));
  d_e_ = d_e;
  d_h_ = d_h;
  L_ = L;
}

}  // namespace fq
