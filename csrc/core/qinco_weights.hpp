// The weights of a trained model, compiled for decoding and encoding.
//
// Step m of QINCo2 (Vallaeys et al., ICLR 2025; QINCo: Huijben et al., ICML 2024):
//   u = In c        z = u + W [u; x] + b        z += Down_l relu(Up_l z)  for each l
//   f(c, x) = c + Out z  (QINCo2)   or   Out z  (QINCo1, without skip);   In, Out: identity if
//   absent
// At inference u + W_u u + b depends on the codeword only: one table (K, d_e) per step. Linear maps
// that meet are multiplied out where that is not more work, d <= d_e ("direct"): with
// z = table[code] + W_x x,
//   h = relu(Up_1 z) = relu(up_table[code] + (Up_1 W_x) x),
// and the last Down goes with Out, so that
//   f = c + Out z' + (Out Down_L) h_L,   z' being z before the last block.
// In encoding, the candidates of one x then share all products of the first two layers; and behind
// an IVF the first step needs no product for them at all, as x is a centroid: base_z and base_h.
// Both sides of all matrices are zero-padded to multiples of 16; padded components stay zero
// throughout.
#pragma once

#include <vector>

#include "core/types.hpp"
#include "kernels/gemm_bf16/contract.hpp"

namespace fq {

struct ArrayView {  // a float32 C-contiguous array; null data: absent
  const float* data = nullptr;
  std::vector<idx_t> shape = {};
};

struct Matrix {  // (rows, cols), row-major or in the panels of gemm_f32
  idx_t rows = 0, cols = 0;
  std::vector<float> data = {};
};

struct Weight {  // (in, out), in the panels of gemm_f32 and gemm_bf16
  idx_t rows = 0, cols = 0;
  std::vector<float> data = {};
  std::vector<bf16> rounded = {};  // empty: products in float32 only
  bool empty() const { return rows == 0; }
};

// c = epilogue(a * weight) for n rows: from `a` in float32 to c, or, where `a_rounded` is not null,
// from that to c, to c_rounded, or to both.
void multiply(idx_t n, const float* a, const bf16* a_rounded, const Weight& weight, float* c,
              bf16* c_rounded, Epilogue epilogue);

struct QincoStep {
  Matrix codebook;               // (K, d)
  Matrix table;                  // (K, d_e)
  Matrix up_table;               // (K, d_h): the table times the first Up; empty without blocks
  Weight x_weight;               // (d, d_e)
  bool direct = true;            // whether the next takes x, and last_down gives x; else z
  Weight first_up;               // (d, d_h), x_weight times the first Up; or that Up (d_e, d_h)
  std::vector<Weight> up, down;  // L - 1 times: the Up (d_e, d_h) of all blocks but the first, and
                                 // the Down (d_h, d_e) of all but the last
  Weight out;                    // (d_e, d); empty: identity
  Weight last_down;              // (d_h, d), the last Down times Out; or that Down (d_h, d_e)
  Weight preselect;              // (d, K), and half the squared norms of its columns; empty: none
  std::vector<float> preselect_half_norms;
};

class QincoWeights {
 public:
  // mean: (d) and std map a normalised vector x to x * std + mean. base: (n_base, d) normalised
  // vectors, the IVF centroids or, without an IVF, the first codebook (n_base == K). in_bf16: keep
  // the weights in bf16 too, for encoding and for ranking; pays where multiplies_bf16.
  QincoWeights(int nbits, bool ivf, bool skip, const ArrayView& mean, float std,
               const ArrayView& base, bool in_bf16 = false);

  // codebook (K, d); in_proj (d_e, d) and out_proj (d, d_e) may be absent where d_e == d;
  // concat_weight (d_e, d_e + d) = [W_u W_x]; concat_bias (d_e) may be absent; up (L, d_h, d_e);
  // down (L, d_e, d_h); preselect (K, d) may be absent. The first step fixes d_e, d_h and L.
  void add_step(const ArrayView& codebook, const ArrayView& in_proj, const ArrayView& concat_weight,
                const ArrayView& concat_bias, const ArrayView& up, const ArrayView& down,
                const ArrayView& out_proj, const ArrayView& preselect = {});

  int nbits() const { return nbits_; }
  int K() const { return 1 << nbits_; }
  int M() const { return static_cast<int>(steps_.size()) + (ivf_ ? 0 : 1); }  // codes of a vector
  bool ivf() const { return ivf_; }
  bool skip() const { return skip_; }
  bool in_bf16() const { return in_bf16_; }
  idx_t d() const { return d_; }
  idx_t d_e() const { return d_e_; }
  idx_t d_h() const { return d_h_; }
  idx_t L() const { return L_; }
  idx_t n_base() const { return base_.rows; }
  float std() const { return std_; }
  const std::vector<float>& mean() const { return mean_; }
  const Matrix& base() const { return base_; }
  // With an IVF, what x_weight and the first Up of the first step make of `base`: (n_base, d_e) and
  // (n_base, d_h). Empty where that would take more than kMaxBaseProducts numbers.
  static constexpr idx_t kMaxBaseProducts = idx_t{1} << 23;
  const Matrix& base_z() const { return base_z_; }
  const Matrix& base_h() const { return base_h_; }
  // Without an IVF, the first codebook as `preselect` of a step.
  const Weight& base_columns() const { return base_columns_; }
  const std::vector<float>& base_half_norms() const { return base_half_norms_; }
  const std::vector<QincoStep>& steps() const { return steps_; }

 private:
  int nbits_;
  bool ivf_, skip_, in_bf16_;
  float std_;
  idx_t d_ = 0, d_e_ = 0, d_h_ = 0, L_ = 0;
  std::vector<float> mean_, base_half_norms_;
  Matrix base_, base_z_, base_h_;
  Weight base_columns_;
  std::vector<QincoStep> steps_;
};

}  // namespace fq
