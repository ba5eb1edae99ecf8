#include "core/qinco_weights.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "core/check.hpp"

namespace fq {
namespace {

std::string text(const std::vector<idx_t>& shape) {
  std::string s = "(";
  for (idx_t n : shape) s += (s.size() > 1 ? ", " : "") + std::to_string(n);
  return s + ")";
}

void check_shape(const char* name, const ArrayView& a, const std::vector<idx_t>& expected) {
  check(a.data && a.shape == expected, name, ": expected shape ", text(expected), ", got ",
        a.data ? text(a.shape) : "None");
}

void check_ndim(const char* name, const ArrayView& a, std::size_t ndim) {
  check(a.data && a.shape.size() == ndim, name, ": expected ", ndim, " dimensions, got ",
        a.data ? text(a.shape) : "None");
}

idx_t padded(idx_t n) { return (n + 15) / 16 * 16; }

// (rows, cols) -> the same with padded columns; the rows are looked up, never multiplied.
Matrix pad_columns(const float* a, idx_t rows, idx_t cols) {
  Matrix m{rows, padded(cols), {}};
  m.data.resize(static_cast<std::size_t>(m.rows * m.cols));
  for (idx_t r = 0; r < rows; ++r) std::copy_n(a + r * cols, cols, &m.data[r * m.cols]);
  return m;
}

// A weight (out, in), its rows `stride` apart -> (in, out), padded on both sides.
Matrix transpose(const float* a, idx_t out, idx_t in, idx_t stride) {
  Matrix m{padded(in), padded(out), {}};
  m.data.resize(static_cast<std::size_t>(m.rows * m.cols));
  for (idx_t o = 0; o < out; ++o)
    for (idx_t i = 0; i < in; ++i) m.data[i * m.cols + o] = a[o * stride + i];
  return m;
}

// y = a x + y0 in double. a: (rows, x.size()), its rows `stride` apart.
std::vector<double> affine(const float* a, idx_t stride, const std::vector<double>& x,
                           std::vector<double> y) {
  for (std::size_t r = 0; r < y.size(); ++r)
    for (std::size_t i = 0; i < x.size(); ++i)
      y[r] += a[static_cast<idx_t>(r) * stride + static_cast<idx_t>(i)] * x[i];
  return y;
}

}  // namespace

QincoWeights::QincoWeights(int nbits, bool ivf, bool skip, const ArrayView& mean, float std,
                           const ArrayView& base)
    : nbits_(nbits), ivf_(ivf), skip_(skip), std_(std) {
  check(nbits >= 4 && nbits <= 8, "nbits: expected 4 to 8, got ", nbits);
  check_ndim("mean", mean, 1);
  d_ = mean.shape[0];
  check(d_ >= 1, "mean: expected at least one dimension, got 0");
  check(std::isfinite(std) && std > 0, "std: expected a positive number, got ", std);
  check_ndim("base", base, 2);
  check_shape("base", base, {ivf ? std::max<idx_t>(base.shape[0], 1) : K(), d_});
  mean_.assign(mean.data, mean.data + d_);
  base_ = pad_columns(base.data, base.shape[0], d_);
}

void QincoWeights::add_step(const ArrayView& codebook, const ArrayView& in_proj,
                            const ArrayView& concat_weight, const ArrayView& concat_bias,
                            const ArrayView& up, const ArrayView& down, const ArrayView& out_proj) {
  check_ndim("concat_weight", concat_weight, 2);
  check_ndim("up", up, 3);
  const bool first = steps_.empty();
  const idx_t d_e = first ? concat_weight.shape[0] : d_e_;
  const idx_t L = first ? up.shape[0] : L_;
  const idx_t d_h = first ? up.shape[1] : d_h_;
  check(d_e >= 1 && d_h >= 1, "d_e, d_h: expected at least 1, got ", d_e, ", ", d_h);
  check_shape("codebook", codebook, {K(), d_});
  check_shape("concat_weight", concat_weight, {d_e, d_e + d_});
  check_shape("up", up, {L, d_h, d_e});
  check_shape("down", down, {L, d_e, d_h});
  if (in_proj.data || d_e != d_) check_shape("in_proj", in_proj, {d_e, d_});
  if (out_proj.data || d_e != d_) check_shape("out_proj", out_proj, {d_, d_e});
  if (concat_bias.data) check_shape("concat_bias", concat_bias, {d_e});

  QincoStep step;
  step.codebook = pad_columns(codebook.data, K(), d_);
  std::vector<float> table;
  for (int code = 0; code < K(); ++code) {  // u + W_u u + b
    const std::vector<double> c(codebook.data + code * d_, codebook.data + (code + 1) * d_);
    const std::vector<double> zero(static_cast<std::size_t>(d_e), 0.0);
    const std::vector<double> u = in_proj.data ? affine(in_proj.data, d_, c, zero) : c;
    std::vector<double> z = affine(concat_weight.data, d_e + d_, u, u);
    for (idx_t j = 0; j < d_e; ++j)
      table.push_back(
          static_cast<float>(z[j] + (concat_bias.data ? double{concat_bias.data[j]} : 0.0)));
  }
  step.table = pad_columns(table.data(), K(), d_e);
  step.x_weight = transpose(concat_weight.data + d_e, d_e, d_, d_e + d_);
  for (idx_t l = 0; l < L; ++l) {
    step.up.push_back(transpose(up.data + l * d_h * d_e, d_h, d_e, d_e));
    step.down.push_back(transpose(down.data + l * d_e * d_h, d_e, d_h, d_h));
  }
  if (out_proj.data) step.out = transpose(out_proj.data, d_, d_e, d_e);

  steps_.push_back(std::move(step));
  d_e_ = d_e;
  d_h_ = d_h;
  L_ = L;
}

}  // namespace fq
