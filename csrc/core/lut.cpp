#include "core/lut.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/check.hpp"
#include "core/distance.hpp"
#include "core/inverted_lists.hpp"
#include "core/parallel.hpp"
#include "dispatch/dispatch.hpp"

namespace fq {

AdditiveTables::AdditiveTables(int M, int K, idx_t d, const float* codebooks)
    : M_(M), K_(K), d_(d) {
  check_code_shape(M, 8);
  check(K >= 16 && K <= 256 && (K & (K - 1)) == 0,
        "codebooks: expected K to be a power of two from 16 to 256, got ", K);
  check(d >= 1, "codebooks: expected d of at least 1, got ", d);
  const idx_t rows = idx_t{M} * K;
  check_finite("codebooks", codebooks, rows * d);
  codebooks_.assign(codebooks, codebooks + rows * d);
  packed_.resize(codebooks_.size());
  pack_gemm_f32(rows, d, d, codebooks, d, packed_.data());
  for (float& v : packed_) v = -v;
}

void AdditiveTables::compute(idx_t nq, const float* q, Metric metric, float* lut) const {
  const idx_t m = idx_t{M_} * K_;
  gemm_f32_kernel()(nq, m, d_, q, packed_.data(), lut, Epilogue::Store);
  if (metric == Metric::L2)
    for (idx_t i = 0; i < nq * m; ++i) lut[i] *= 2;
}

void AdditiveTables::add_up(const std::uint8_t* code, std::vector<double>& r) const {
  r.assign(static_cast<std::size_t>(d_), 0.0);
  for (int m = 0; m < M_; ++m) {
    const float* word = codebooks_.data() + (idx_t{m} * K_ + code[m]) * d_;
    for (idx_t j = 0; j < d_; ++j) r[j] += word[j];
  }
}

template <class F>
void AdditiveTables::for_each(idx_t nlist, const float* bases, idx_t n, const idx_t* list_no,
                              const std::uint8_t* codes, float* out, const Execution& run,
                              F f) const {
  constexpr idx_t kBlock = 256;
  auto one = [&](idx_t i, std::vector<double>& r) {
    out[i] = 0;
    if (list_no[i] == -1) return;
    if (list_no[i] < 0 || list_no[i] >= nlist)
      check(false, "list_no[", i, "]: expected -1 to ", nlist - 1, ", got ", list_no[i]);
    const std::uint8_t* code = codes + i * M_;
    for (int m = 0; m < M_; ++m)
      if (code[m] >= K_)
        check(false, "codes[", i, ", ", m, "]: expected below ", K_, ", got ", int{code[m]});
    out[i] = f(bases + list_no[i] * d_, code, r);
  };
  parallel_for((n + kBlock - 1) / kBlock, run, [&](idx_t block, int) {
    std::vector<double> r;
    const idx_t end = std::min(n, (block + 1) * kBlock);
    for (idx_t i = block * kBlock; i < end; ++i) one(i, r);
  });
}

void AdditiveTables::bias(idx_t nlist, const float* bases, idx_t n, const idx_t* list_no,
                          const std::uint8_t* codes, float* bias, const Execution& run) const {
  const auto of_one = [&](const float* base, const std::uint8_t* code, std::vector<double>& r) {
    return this->bias(base, code, r);
  };
  for_each(nlist, bases, n, list_no, codes, bias, run, of_one);
}

float AdditiveTables::bias(const float* base, const std::uint8_t* code,
                           std::vector<double>& r) const {
  add_up(code, r);
  double sum = 0;
  for (idx_t j = 0; j < d_; ++j) sum += r[j] * (2.0 * base[j] + r[j]);
  return static_cast<float>(sum);
}

void AdditiveTables::norms(idx_t nlist, const float* bases, idx_t n, const idx_t* list_no,
                           const std::uint8_t* codes, float* norms, const Execution& run) const {
  const auto of_one = [&](const float* base, const std::uint8_t* code, std::vector<double>& r) {
    return norm(base, code, r);
  };
  for_each(nlist, bases, n, list_no, codes, norms, run, of_one);
}

float AdditiveTables::norm(const float* base, const std::uint8_t* code,
                           std::vector<double>& r) const {
  add_up(code, r);
  double sum = 0;
  for (idx_t j = 0; j < d_; ++j) sum += (base[j] + r[j]) * (base[j] + r[j]);
  return static_cast<float>(std::sqrt(sum));
}

double AdditiveTables::error(const float* r, const std::uint8_t* code,
                             std::vector<float>& rest) const {
  rest.assign(r, r + d_);
  for (int m = 0; m < M_; ++m) {
    const float* word = codebooks_.data() + (idx_t{m} * K_ + code[m]) * d_;
    for (idx_t j = 0; j < d_; ++j) rest[j] -= word[j];
  }
  double sum = 0;
  for (idx_t j = 0; j < d_; ++j) sum += static_cast<double>(rest[j]) * rest[j];
  return sum;
}

bool LutU8::measure(int M, const float* lut) {
  constexpr int kLanes = 16, K = 256;  // lanes, so that the compiler can vectorise
  M_ = M;
  usable_ = false;
  lows_.resize(static_cast<std::size_t>(M));
  float not_finite = 0;
  low_ = magnitude_ = range_ = 0;
  for (int m = 0; m < M; ++m) {
    const float* t = lut + m * K;
    float low[kLanes], high[kLanes], product[kLanes];
    for (int j = 0; j < kLanes; ++j) low[j] = high[j] = t[j], product[j] = 0;
    for (int k = 0; k < K; k += kLanes)
      for (int j = 0; j < kLanes; ++j) {
        low[j] = t[k + j] < low[j] ? t[k + j] : low[j];
        high[j] = t[k + j] > high[j] ? t[k + j] : high[j];
        product[j] += t[k + j] * 0.0f;  // NaN for a NaN or an inf
      }
    for (int j = 0; j < kLanes; ++j) not_finite += product[j];
    lows_[m] = *std::min_element(low, low + kLanes);
    const float top = *std::max_element(high, high + kLanes);
    range_ = std::max(range_, top - lows_[m]);
    low_ += lows_[m];
    magnitude_ += std::max(std::abs(lows_[m]), std::abs(top));
  }
  return not_finite == 0 && range_ + magnitude_ <= FLT_MAX;
}

bool LutU8::quantize(const float* lut, float range) {
  constexpr int K = 256;
  values_.resize(static_cast<std::size_t>(M_ * K));
  scale_ = range / 255;
  // Constant tables, or so nearly that the inverse would overflow: the lows alone are a bound.
  const float inverse = scale_ >= FLT_MIN ? 255 / range : 0.0f;
  for (int m = 0; m < M_; ++m) {
    const float* t = lut + m * K;
    const float low = lows_[m];
    std::uint8_t* out = values_.data() + m * K;  // local, or every byte stored could change it
    for (int k = 0; k < K; ++k)
      out[k] = static_cast<std::uint8_t>(static_cast<int>((t[k] - low) * inverse));
  }
  return usable_ = true;
}

}  // namespace fq
