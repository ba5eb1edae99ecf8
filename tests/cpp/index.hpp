// A small index of random codes, and calls of its engine.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/engine.hpp"
#include "core/qinco_decode.hpp"
#include "support.hpp"

namespace fq::test {

struct Call : SearchArgs {
  const Engine* engine;
  idx_t k;
};

struct Result {
  std::vector<float> D;
  std::vector<idx_t> I;
  bool operator==(const Result&) const = default;
};

inline Result run_search(const Call& call, int n_threads = 1) {
  const auto size = static_cast<std::size_t>(call.n * call.k);
  Result r{std::vector<float>(size), std::vector<idx_t>(size)};
  call.engine->search(call, call.k, r.D.data(), r.I.data(), {n_threads, {}, 0});
  return r;
}

// The centroids in the original space are what the model's base decodes to; the additive codebooks
// are random, so the shortlist is deliberately bad.
struct Index {
  static constexpr idx_t nlist = 5, d = 12, n = 400, nq = 21;
  Rng rng;
  Model model;
  Metric metric;
  std::shared_ptr<const QincoWeights> weights;
  std::shared_ptr<const AdditiveTables> tables;
  std::vector<float> centroids, q, extra;
  bool has_extra;
  std::vector<idx_t> list_no, ids;
  std::vector<std::uint8_t> codes;
  std::shared_ptr<Engine> engine;

  explicit Index(Metric metric_, bool ivf = true, bool has_extra_ = false)
      : model(rng, ivf, true, d, 20, ivf ? 3 : 2),
        metric(metric_),
        weights(std::make_shared<QincoWeights>(model.weights())),
        tables(std::make_shared<AdditiveTables>(3, 16, d, rng.floats(3 * 16 * d, 0.3f).data())),
        centroids(nlist * d),
        q(rng.floats(nq * d, 2)),
        extra(rng.floats(n)),
        has_extra(has_extra_),
        codes(rng.codes(n * 3, 16)) {
    for (idx_t i = 0; i < n; ++i) {
      list_no.push_back(rng.integer(0, nlist - 2));  // the last list stays empty
      ids.push_back(i * 7 - 100);
      extra[i] = 0.5f + std::abs(extra[i]);
    }
    const std::vector<idx_t> all{0, 1, 2, 3, 4};
    decode(*weights, nlist, all.data(), codes.data(), 3, ivf ? 0 : 1, centroids.data(), {1});
    if (has_extra) round_extra();
    engine = filled(parts());
  }

  // To such as what is stored gives back.
  void round_extra() {
    std::vector<float> of_code(n);
    if (metric == Metric::L2) {
      tables->bias(nlist, centroids.data(), n, list_no.data(), codes.data(), of_code.data(), {1});
      for (idx_t i = 0; i < n; ++i)
        extra[i] = std::max(to_float(to_bf16(of_code[i] + extra[i])) - of_code[i], 0.0f);
      return;
    }
    tables->norms(nlist, centroids.data(), n, list_no.data(), codes.data(), of_code.data(), {1});
    for (idx_t i = 0; i < n; ++i)
      extra[i] = of_code[i] / (1 + to_float(to_bf16(length_ratio(of_code[i], extra[i]) - 1)));
  }

  Engine::Parts parts() const {
    return {nlist, 3, 4, metric, centroids.data(), tables, weights, {}, {}, nullptr, has_extra};
  }
  std::shared_ptr<Engine> filled(const Engine::Parts& from) const {
    auto made = std::make_shared<Engine>(from);
    made->add(n, list_no.data(), codes.data(), extra.data(), ids.data(), {1});
    return made;
  }

  Call call(idx_t k, idx_t nprobe, idx_t nshort) const {
    Call call{{nq, q.data()}, engine.get(), k};
    call.nprobe = nprobe;
    call.nshort = nshort;
    return call;
  }

  std::vector<float> decoded(const QincoWeights& by) const {
    std::vector<float> x(n * d);
    decode(by, n, list_no.data(), codes.data(), 3, 3, x.data(), {1});
    for (idx_t i = 0; i < n && has_extra && metric == Metric::InnerProduct; ++i)
      stretch(&x[i * d], d, extra[i]);
    return x;
  }

  // The model with other codebooks: a student of it, be it a bad one.
  std::shared_ptr<const QincoWeights> student() const {
    Model small = model;
    for (auto& step : small.steps)
      for (float& c : step.codebook) c *= 0.9f;
    return std::make_shared<QincoWeights>(small.weights());
  }
};

}  // namespace fq::test
