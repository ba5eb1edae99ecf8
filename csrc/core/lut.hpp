// The additive codebooks, and the look-up tables of a query.
//
// r = sum_m C_m[i_m] approximates the residual x - centroid, so that (L2)
//   |q - x|^2 ~ |q - centroid|^2 + sum_m -2 <q, C_m[i_m]> + bias,  bias = 2 <centroid, r> + |r|^2.
// The tables do not depend on the list: one set per query serves every probed list.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/types.hpp"

namespace fq {

class AdditiveTables {
 public:
  // codebooks: (M, K, d), K a power of two from 16 to 256.
  AdditiveTables(int M, int K, idx_t d, const float* codebooks);

  int M() const { return M_; }
  int K() const { return K_; }
  idx_t d() const { return d_; }
  std::size_t nbytes() const { return (codebooks_.size() + packed_.size()) * sizeof(float); }

  // q: (nq, d) -> lut: (nq, M, K), -2 <q, C> for L2 and -<q, C> for inner product.
  void compute(idx_t nq, const float* q, Metric metric, float* lut) const;

  // The bias of stored vectors (L2). bases: (nlist, d); list_no, bias: (n); codes: (n, M).
  // Accumulated in double; 0 where list_no is -1.
  void bias(idx_t nlist, const float* bases, idx_t n, const idx_t* list_no,
            const std::uint8_t* codes, float* bias, const Execution& run) const;

  // Of one, with a base (d). Not checked. r: (d), scratch.
  float bias(const float* base, const std::uint8_t* code, std::vector<double>& r) const;

  // |base + r| of stored vectors, as `bias`.
  void norms(idx_t nlist, const float* bases, idx_t n, const idx_t* list_no,
             const std::uint8_t* codes, float* norms, const Execution& run) const;
  // Of one, likewise.
  float norm(const float* base, const std::uint8_t* code, std::vector<double>& r) const;

  // |r - sum of the codewords of a code|^2 for r (d). Not checked. rest: (d), scratch.
  double error(const float* r, const std::uint8_t* code, std::vector<float>& rest) const;

 private:
  // The sum r (d) of the codewords of a code. Not checked.
  void add_up(const std::uint8_t* code, std::vector<double>& r) const;
  // out[i] = f(base, code, scratch) of all i, once they are checked; 0 where list_no is -1.
  template <class F>
  void for_each(idx_t nlist, const float* bases, idx_t n, const idx_t* list_no,
                const std::uint8_t* codes, float* out, const Execution& run, F f) const;

  int M_, K_;
  idx_t d_;
  std::vector<float> codebooks_;  // (M, K, d)
  std::vector<float> packed_;     // the same for gemm_f32 (m = M * K, k = d), negated
};

// The 8-bit form of one query's tables (nbits 8), for a lower bound of every score.
//
// With low_m and range_m of the tables, scale = max_m range_m / 255 and
// values[m][k] = floor((lut[m][k] - low_m) / scale), so that, but for rounding,
//   sum_m low_m + scale * sum_m values[m][i_m]  <=  sum_m lut[m][i_m].
class LutU8 {
 public:
  // lut: (M, 256). False, with nothing usable, if an entry is not finite.
  bool quantize(int M, const float* lut) { return measure(M, lut) && quantize(lut, range_); }

  // The same in two steps, so that tables of several queries can share a scale: `range`, of at
  // least their largest range().
  bool measure(int M, const float* lut);
  bool quantize(const float* lut, float range);
  float range() const { return range_; }
  bool is_usable() const { return usable_; }

  const std::uint8_t* values() const { return values_.data(); }  // (M, 256)
  float scale() const { return scale_; }

  // The constant of a list for lut_scan_u8: with it, a code whose float score
  // (coarse_score + sum of lut) + bias is <= threshold survives, for any finite bias. Not finite
  // if coarse_score or threshold is not: nothing can be said then.
  float constant(float coarse_score, float threshold) const {
    return constant(M_, low_, magnitude_, coarse_score, threshold);
  }

  // The same where scores are (coarse_score + sum of lut) / ratio, a ratio > 0 being stored in
  // place of a bias: with slope -threshold, and 0 in place of the threshold.
  float constant_of_ratios(float coarse_score) const {
    return constant_of_ratios(M_, low_, magnitude_, coarse_score);
  }

  // What both are made of, for loops over queries. low: the sum of the tables' least entries;
  // magnitude: of the largest sums, without regard to signs.
  float low() const { return low_; }
  float magnitude() const { return magnitude_; }
  static float constant(int M, float low, float magnitude, float coarse_score, float threshold) {
    // With u = 2^-24, A = magnitude and B = |bias|: the score is rounded by at most
    // u ((M + 1) A + 2 |coarse| + B); its bound by u ((M + 16) A + 4 |coarse| + 2 B), where 8 A
    // stand for values that rounding made one too large. A bias that matters has B <= 4 (|coarse| +
    // A + |threshold|): a larger one decides alone on which side of the threshold both are.
    // Together that is less than u (2 M + 32) (|coarse| + A + |threshold|); half of the margin
    // taken.
    const float size = std::abs(coarse_score) + magnitude + std::abs(threshold);
    return (coarse_score + low) - static_cast<float>(M + 32) * 0x1p-22f * size;
  }
  static float constant_of_ratios(int M, float low, float magnitude, float coarse_score) {
    // As above, with B = ratio * |threshold|, which matters up to 2 (|coarse| + A): of that it is
    // less than 3 u (2 M + 32); again about half of the margin.
    const float size = std::abs(coarse_score) + magnitude;
    return (coarse_score + low) - static_cast<float>(M + 32) * 0x1p-20f * size;
  }

 private:
  int M_ = 0;
  bool usable_ = false;
  float range_ = 0, scale_ = 0, low_ = 0;
  float magnitude_ = 0;
  std::vector<float> lows_;  // (M)
  std::vector<std::uint8_t> values_;
};

}  // namespace fq
