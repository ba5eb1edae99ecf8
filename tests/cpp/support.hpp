// Random data and a random model, with the plain double-precision reference of its decoder.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "core/qinco_weights.hpp"
#include "kernels/gemm_bf16/bf16.hpp"

namespace fq::test {

// As biases are stored.
inline std::vector<float> rounded(std::vector<float> v) {
  for (float& x : v) x = to_float(to_bf16(x));
  return v;
}

struct Rng {
  std::mt19937 engine{42};

  std::vector<float> floats(idx_t n, float scale = 1) {
    std::normal_distribution<float> dist(0, scale);
    std::vector<float> v(static_cast<std::size_t>(n));
    for (float& x : v) x = dist(engine);
    return v;
  }
  std::vector<std::uint8_t> codes(idx_t n, int K) {
    std::vector<std::uint8_t> v(static_cast<std::size_t>(n));
    for (auto& x : v) x = static_cast<std::uint8_t>(integer(0, K - 1));
    return v;
  }
  idx_t integer(idx_t low, idx_t high) {
    return std::uniform_int_distribution<idx_t>(low, high)(engine);
  }
};

struct Model {
  struct Step {
    std::vector<float> codebook, in, concat, bias, up, down, out, preselect;
  };
  int nbits, n_steps;
  bool ivf, skip, projections;
  idx_t d, d_e, d_h, L, n_base;
  float std = 1.5f;
  std::vector<float> mean, base;
  std::vector<Step> steps;

  // d_e == d and no projections, or any d_e with them.
  Model(Rng& rng, bool ivf_, bool skip_, idx_t d_, idx_t d_e_, int n_steps_, int nbits_ = 4,
        idx_t nlist = 5)
      : nbits(nbits_),
        n_steps(n_steps_),
        ivf(ivf_),
        skip(skip_),
        projections(d_ != d_e_),
        d(d_),
        d_e(d_e_),
        d_h(d_e_ + 3),
        L(2),
        n_base(ivf_ ? nlist : 1 << nbits_) {
    mean = rng.floats(d);
    base = rng.floats(n_base * d);
    const float s = 0.5f / std::sqrt(static_cast<float>(d_h));
    for (int m = 0; m < n_steps; ++m) {
      Step step{rng.floats((idx_t{1} << nbits) * d, 0.5f),
                {},
                rng.floats(d_e * (d_e + d), s),
                {},
                rng.floats(L * d_h * d_e, s),
                rng.floats(L * d_e * d_h, s),
                {},
                {}};
      if (projections) {
        step.in = rng.floats(d_e * d, s);
        step.out = rng.floats(d * d_e, s);
      }
      if (m % 2 == 0) step.bias = rng.floats(d_e, s);
      step.preselect = rng.floats((idx_t{1} << nbits) * d, 0.5f);
      steps.push_back(step);
    }
  }

  int M() const { return n_steps + (ivf ? 0 : 1); }

  QincoWeights weights(bool in_bf16 = false) const {
    auto view = [](const std::vector<float>& v, std::vector<idx_t> shape) {
      return v.empty() ? ArrayView{} : ArrayView{v.data(), shape};
    };
    QincoWeights w(nbits, ivf, skip, view(mean, {d}), std, view(base, {n_base, d}), in_bf16);
    for (const Step& s : steps)
      w.add_step(view(s.codebook, {1 << nbits, d}), view(s.in, {d_e, d}),
                 view(s.concat, {d_e, d_e + d}), view(s.bias, {d_e}), view(s.up, {L, d_h, d_e}),
                 view(s.down, {L, d_e, d_h}), view(s.out, {d, d_e}),
                 view(s.preselect, {1 << nbits, d}));
    return w;
  }

  using Vec = std::vector<double>;

  static Vec times(const float* a, idx_t rows, const Vec& x) {
    Vec y(static_cast<std::size_t>(rows), 0.0);
    for (std::size_t r = 0; r < y.size(); ++r)
      for (std::size_t i = 0; i < x.size(); ++i) y[r] += double{a[r * x.size() + i]} * x[i];
    return y;
  }

  // The formula as it stands in the papers.
  Vec decode(idx_t list_no, const std::uint8_t* codes, int n_codes) const {
    const idx_t b = ivf ? list_no : *codes++;
    Vec x(base.begin() + b * d, base.begin() + (b + 1) * d);
    for (int m = 0; m < n_codes - (ivf ? 0 : 1); ++m) {
      const Step& s = steps[static_cast<std::size_t>(m)];
      const Vec c(s.codebook.begin() + codes[m] * d, s.codebook.begin() + (codes[m] + 1) * d);
      const Vec u = projections ? times(s.in.data(), d_e, c) : c;
      Vec both = u;
      both.insert(both.end(), x.begin(), x.end());
      Vec z = times(s.concat.data(), d_e, both);
      for (std::size_t j = 0; j < z.size(); ++j) z[j] += u[j] + (s.bias.empty() ? 0 : s.bias[j]);
      for (idx_t l = 0; l < L; ++l) {
        Vec h = times(s.up.data() + l * d_h * d_e, d_h, z);
        for (double& v : h) v = v > 0 ? v : 0;
        const Vec more = times(s.down.data() + l * d_e * d_h, d_e, h);
        for (std::size_t j = 0; j < z.size(); ++j) z[j] += more[j];
      }
      const Vec f = projections ? times(s.out.data(), d, z) : z;
      for (std::size_t j = 0; j < x.size(); ++j) x[j] += f[j] + (skip ? c[j] : 0);
    }
    for (std::size_t j = 0; j < x.size(); ++j) x[j] = x[j] * std + mean[j];
    return x;
  }
};

}  // namespace fq::test
