#include "core/rerank.hpp"

#include <algorithm>
#include <limits>

#include "core/distance.hpp"

namespace fq {
namespace {

// Of a query's candidates ranked in bf16, so many more than k are decoded in float32; where that
// would be more than half of them, all are. Each query decides alone, whatever its batch.
constexpr idx_t kMore = 8;
idx_t worth_ranking(idx_t k) { return 2 * (k + kMore) + 1; }

class BlockReranker {
 public:
  BlockReranker(const QincoWeights& weights, const FirstStepTable* table, int M, const float* q,
                Metric metric, RerankScratch& scratch)
      : codec_(weights), w_(&weights), table_(table), M_(M), q_(q), metric_(metric), s_(scratch) {}

  // The entries to decode: those that `exit` does not give up for what the tables said already.
  void start(const InvertedLists& lists, std::vector<TopK>& shortlists, idx_t nq,
             const EarlyExit* exit, float margin, idx_t k) {
    idx_t n_all = 0;
    s_.entries.clear();
    for (idx_t i = 0; i < nq; ++i) {
      const std::vector<Candidate>& sorted = shortlists[i].sorted();
      n_all += static_cast<idx_t>(sorted.size());
      float limit = std::numeric_limits<float>::infinity();
      if (exit && exit->tables() && static_cast<idx_t>(sorted.size()) > k)
        limit = bound(margin * exit->tables()->margin(k),
                      sorted[static_cast<std::size_t>(k) - 1].score, i);
      for (const Candidate& c : sorted)
        if (!(c.score > limit)) s_.entries.push_back({i, c});
    }
    s_.n_entries += n_all;
    s_.n_steps_saved += (n_all - n()) * (M_ - n_first_);
    s_.list_no.resize(s_.entries.size());
    s_.codes.resize(static_cast<std::size_t>(n() * M_));
    s_.x.resize(static_cast<std::size_t>(n() * dp_));
    s_.original.assign(static_cast<std::size_t>(dp_), 0.0f);
    for (idx_t i = 0; i < n(); ++i) {
      const Candidate& c = s_.entries[i].candidate;
      lists.read_code(c.list_no, c.offset, s_.codes.data() + i * M_);
    }
  }

  idx_t n() const { return static_cast<idx_t>(s_.entries.size()); }
  bool in_bf16() const { return in_bf16_; }

  // Back to no code decoded; from here on by the codec's weights or a student's.
  void restart(const QincoWeights& weights, bool in_bf16) {
    w_ = &weights;
    in_bf16_ = in_bf16;
    for (idx_t i = 0; i < n(); ++i) s_.list_no[i] = s_.entries[i].candidate.list_no;
    decode_start(*w_, n(), s_.list_no.data(), s_.codes.data(), M_, s_.x.data());
    n_done_ = n_first_;
  }

  void decode_to(int n_codes) {
    const bool look_up = table_ && !by_student() && table_->in_bf16() == in_bf16_ &&
                         n_done_ == n_first_ && n_codes > n_first_;
    for (idx_t begin = 0; begin < n(); begin += kDecodeBlock) {
      const idx_t rows = std::min(kDecodeBlock, n() - begin);
      const idx_t* list_no = s_.list_no.data() + begin;
      const std::uint8_t* codes = s_.codes.data() + begin * M_;
      float* x = s_.x.data() + begin * dp_;
      if (look_up) table_->look_up(rows, list_no, codes, M_, x);
      decode_steps(*w_, in_bf16_, rows, list_no, codes, M_, n_done_ + look_up, n_codes, x,
                   s_.decode);
    }
    n_done_ += look_up;
    s_.n_steps_saved += look_up * n();
    (by_student() ? s_.n_student_steps : s_.n_steps) += n() * (n_codes - n_done_);
    n_done_ = n_codes;
  }

  // Drops the entries that are out of reach of the best k of their query.
  void drop(const EarlyExit& exit, const EarlyExit::Checkpoint& checkpoint, float margin, idx_t k) {
    for (idx_t i = 0; i < n(); ++i) {
      exit.add_tail(checkpoint, s_.codes.data() + i * M_, original(i), s_.decode.terms);
      s_.entries[i].candidate.score = score(i);
    }
    margin *= checkpoint.margin(k);
    drop(k, k + 1, [&](float kth, idx_t query) { return bound(margin, kth, query); });
  }

  bool any_query_with(idx_t n_entries) const {
    for (idx_t i = n_entries - 1; i < n(); ++i)
      if (s_.entries[i].query == s_.entries[i - n_entries + 1].query) return true;
    return false;
  }

  // Drops all but the best k + kMore of each query that has more to rank, once all is decoded.
  void drop_ranked(idx_t k) {
    for (idx_t i = 0; i < n(); ++i) {
      original(i);
      s_.entries[i].candidate.score = score(i);
    }
    drop(k + kMore, worth_ranking(k), [](float kth, idx_t) { return kth; });
  }

  void finish(std::vector<TopK>& results) {
    for (idx_t i = 0; i < n(); ++i) {
      original(i);
      const auto& [query, c] = s_.entries[i];
      results[query].push({score(i), c.id, c.list_no, c.offset});
    }
  }

 private:
  bool by_student() const { return w_ != &codec_; }

  float bound(float margin, float kth, idx_t query) const {
    return exit_bound(kth, margin, q_ + query * d_, d_, metric_);
  }

  // Of queries with at least n_entries, drops the entries whose score exceeds what
  // bound(k-th best, query) says.
  template <class Bound>
  void drop(idx_t k, idx_t n_entries, Bound bound) {
    idx_t kept = 0;
    for (idx_t begin = 0, end; begin < n(); begin = end) {
      const idx_t query = s_.entries[begin].query;
      s_.scores.clear();
      for (end = begin; end < n() && s_.entries[end].query == query; ++end)
        s_.scores.push_back(s_.entries[end].candidate.score);
      float limit = std::numeric_limits<float>::infinity();
      if (end - begin >= n_entries) {
        const auto kth = s_.scores.begin() + static_cast<std::ptrdiff_t>(k) - 1;
        std::nth_element(s_.scores.begin(), kth, s_.scores.end());
        limit = bound(*kth, query);
      }
      for (idx_t i = begin; i < end; ++i)
        if (!(s_.entries[i].candidate.score > limit)) keep(i, kept++);
    }
    s_.n_steps_saved += (n() - kept) * (M_ - (by_student() ? n_first_ : n_done_));
    s_.entries.resize(static_cast<std::size_t>(kept));
  }

  // x̂ of an entry in the original space.
  float* original(idx_t i) {
    for (idx_t j = 0; j < d_; ++j) s_.original[j] = s_.x[i * dp_ + j] * w_->std() + w_->mean()[j];
    return s_.original.data();
  }

  float score(idx_t i) const {
    return exact_score(q_ + s_.entries[i].query * d_, s_.original.data(), d_, metric_);
  }

  void keep(idx_t from, idx_t to) {
    if (from == to) return;
    s_.entries[to] = s_.entries[from];
    std::copy_n(s_.codes.data() + from * M_, M_, s_.codes.data() + to * M_);
    std::copy_n(s_.x.data() + from * dp_, dp_, s_.x.data() + to * dp_);
  }

  const QincoWeights& codec_;
  const QincoWeights* w_;  // the codec's or a student's, of the same d and base
  const FirstStepTable* table_;
  const int M_;
  const float* q_;
  const Metric metric_;
  RerankScratch& s_;
  const idx_t d_ = codec_.d(), dp_ = codec_.base().cols;
  const int n_first_ = codec_.ivf() ? 0 : 1;  // codes that need no network
  bool in_bf16_ = false;
  int n_done_ = 0;
};

}  // namespace

void rerank_block(const InvertedLists& lists, const QincoWeights& weights,
                  const FirstStepTable* table, const QincoWeights* student, const EarlyExit* exit,
                  float margin, idx_t nq, const float* q, idx_t k, Metric metric,
                  std::vector<TopK>& shortlists, std::vector<TopK>& results,
                  RerankScratch& scratch) {
  BlockReranker block(weights, table, lists.M(), q, metric, scratch);
  block.start(lists, shortlists, nq, exit, margin, k);
  const QincoWeights& first = exit && student ? *student : weights;
  block.restart(first, first.in_bf16());
  if (exit)
    for (const EarlyExit::Checkpoint& checkpoint : exit->checkpoints()) {
      block.decode_to(checkpoint.n_codes);
      block.drop(*exit, checkpoint, margin, k);
    }
  if (&first != &weights) block.restart(weights, weights.in_bf16());
  if (block.in_bf16()) {
    if (block.any_query_with(worth_ranking(k))) {
      block.decode_to(lists.M());
      block.drop_ranked(k);
    }
    block.restart(weights, false);
  }
  block.decode_to(lists.M());
  block.finish(results);
}

}  // namespace fq
