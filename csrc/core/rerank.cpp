#include "core/rerank.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

// Of a query's candidates ranked in bf16, so many more than k are decoded in float32; where that
// would be more than half of them, all are. Each query decides alone, whatever its batch.
constexpr idx_t kMore = 8;
idx_t worth_ranking(idx_t k) { return 2 * (k + kMore) + 1; }

constexpr float kInf = std::numeric_limits<float>::infinity();

class BlockReranker {
 public:
  BlockReranker(const Reranking& how, const float* q, RerankScratch& scratch)
      : lists_(how.lists),
        codec_(how.weights),
        table_(how.table),
        q_(q),
        metric_(how.metric),
        extras_(how.extras),
        rate_(how.rate),
        s_(scratch) {}

  int M() const { return M_; }

  // The entries to decode: those that early exit does not give up for what the tables said already.
  void take(TopK* shortlists, idx_t nq, const EarlyExit* exit, float margin, idx_t k) {
    idx_t n_all = 0;
    s_.entries.clear();
    for (idx_t i = 0; i < nq; ++i) {
      const std::vector<Candidate>& sorted = shortlists[i].sorted();
      n_all += static_cast<idx_t>(sorted.size());
      float limit = kInf;
      if (exit && exit->tables() && static_cast<idx_t>(sorted.size()) > k)
        limit = bound(exit->margin(*exit->tables(), k, margin),
                      sorted[static_cast<std::size_t>(k) - 1].score, i);
      for (const Candidate& c : sorted)
        if (!(c.score > limit)) s_.entries.push_back({i, c});
    }
    s_.n_entries += n_all - n();
    s_.n_steps_saved += (n_all - n()) * (M_ - n_first_);
  }

  void read_codes() {
    s_.n_entries += n();
    s_.list_no.resize(s_.entries.size());
    s_.codes.resize(static_cast<std::size_t>(n() * M_));
    s_.x.resize(static_cast<std::size_t>(n() * dp_));
    s_.original.assign(static_cast<std::size_t>(dp_), 0.0f);
    for (idx_t i = 0; i < n(); ++i) {
      const Candidate& c = s_.entries[i].candidate;
      lists_.read_code(c.list_no, c.offset, M_, s_.codes.data() + i * M_);
    }
    if (!extras_) return;
    s_.extra.resize(s_.entries.size());
    for (idx_t i = 0; i < n(); ++i) {
      const Candidate& c = s_.entries[i].candidate;
      const float beside = bias_at(bias_of(lists_, rate_, c.list_no), c.offset);
      s_.extra[i] = extras_->of(c.list_no, s_.codes.data() + i * M_, beside, s_.sum);
    }
  }

  idx_t n() const { return static_cast<idx_t>(s_.entries.size()); }

  // From here on by the codec's weights or a student's: if these are others than before, back to no
  // code decoded.
  void use(const QincoWeights& weights, bool in_bf16) {
    if (w_ == &weights && in_bf16_ == in_bf16) return;
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
      if (s_.poll) (*s_.poll)();
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
    approximate(exit, checkpoint);
    drop([&](idx_t query) { return n_scores() > k ? bound(margin, kth_score(k), query) : kInf; });
  }

  // Drops the entries that are out of reach of a radius.
  void drop_outside(const EarlyExit& exit, const EarlyExit::Checkpoint& checkpoint, float factor,
                    float radius) {
    approximate(exit, checkpoint);
    drop([&](idx_t query) {
      return range_bound(radius, checkpoint, factor, q_ + query * d_, d_, metric_);
    });
  }

  bool any_query_with(idx_t n_entries) const {
    for (idx_t i = n_entries - 1; i < n(); ++i)
      if (s_.entries[i].query == s_.entries[i - n_entries + 1].query) return true;
    return false;
  }

  // Drops all but the best k + kMore of each query that has more to rank, once all is decoded.
  void drop_ranked(idx_t k) {
    put_scores();
    drop([&](idx_t) { return n_scores() >= worth_ranking(k) ? kth_score(k + kMore) : kInf; });
  }

  // The scores of the entries, by x̂ as it is.
  void put_scores() {
    for (idx_t i = 0; i < n(); ++i) {
      original(i);
      s_.entries[i].candidate.score = score(i);
    }
  }

 private:
  bool by_student() const { return w_ != &codec_; }

  float bound(float margin, float kth, idx_t query) const {
    return exit_bound(kth, margin, q_ + query * d_, d_, metric_);
  }

  // The same with a tail.
  void approximate(const EarlyExit& exit, const EarlyExit::Checkpoint& checkpoint) {
    for (idx_t i = 0; i < n(); ++i) {
      exit.add_tail(checkpoint, s_.codes.data() + i * M_, original(i), s_.decode.terms);
      s_.entries[i].candidate.score = score(i);
    }
  }

  // Drops the entries whose score exceeds limit(query), which may look at the scores of its query.
  template <class Limit>
  void drop(Limit limit_of) {
    idx_t kept = 0;
    for (idx_t begin = 0, end; begin < n(); begin = end) {
      const idx_t query = s_.entries[begin].query;
      s_.scores.clear();
      for (end = begin; end < n() && s_.entries[end].query == query; ++end)
        s_.scores.push_back(s_.entries[end].candidate.score);
      const float limit = limit_of(query);
      for (idx_t i = begin; i < end; ++i)
        if (!(s_.entries[i].candidate.score > limit)) keep(i, kept++);
    }
    s_.n_steps_saved += (n() - kept) * (M_ - (by_student() ? n_first_ : n_done_));
    s_.entries.resize(static_cast<std::size_t>(kept));
  }
  idx_t n_scores() const { return static_cast<idx_t>(s_.scores.size()); }
  float kth_score(idx_t k) {
    const auto kth = s_.scores.begin() + static_cast<std::ptrdiff_t>(k) - 1;
    std::nth_element(s_.scores.begin(), kth, s_.scores.end());
    return *kth;
  }

  // x̂ of an entry in the original space.
  float* original(idx_t i) {
    for (idx_t j = 0; j < d_; ++j) s_.original[j] = s_.x[i * dp_ + j] * w_->std() + w_->mean()[j];
    return s_.original.data();
  }

  // Of s_.original, the i-th entry's, which with inner product it stretches to its length.
  float score(idx_t i) {
    const bool l2 = metric_ == Metric::L2;
    if (extras_ && !l2) stretch(s_.original.data(), d_, s_.extra[i]);
    const float* q = q_ + s_.entries[i].query * d_;
    float score;
    score_rows_kernel()(1, d_, q, s_.original.data(), !l2, &score);
    return extras_ && l2 ? score + s_.extra[i] : score;
  }

  void keep(idx_t from, idx_t to) {
    if (from == to) return;
    s_.entries[to] = s_.entries[from];
    if (extras_) s_.extra[to] = s_.extra[from];
    std::copy_n(s_.codes.data() + from * M_, M_, s_.codes.data() + to * M_);
    std::copy_n(s_.x.data() + from * dp_, dp_, s_.x.data() + to * dp_);
  }

  const InvertedLists& lists_;
  const QincoWeights& codec_;
  const QincoWeights* w_ = nullptr;  // the codec's or a student's, of the same d and base
  const FirstStepTable* table_;
  const float* q_;
  const Metric metric_;
  const std::optional<Extras>& extras_;
  const Rate* rate_;
  RerankScratch& s_;
  const int M_ = n_codes(lists_, rate_);  // that count
  const idx_t d_ = codec_.d(), dp_ = codec_.base().cols;
  const int n_first_ = codec_.ivf() ? 0 : 1;  // codes that need no network
  bool in_bf16_ = false;
  int n_done_ = 0;
};

}  // namespace

void rerank_block(const Reranking& how, idx_t nq, const float* q, idx_t k, TopK* shortlists,
                  TopK* results, RerankScratch& scratch) {
  BlockReranker block(how, q, scratch);
  block.take(shortlists, nq, how.exit, how.margin, k);
  block.read_codes();
  if (how.exit)
    for (const EarlyExit::Checkpoint& checkpoint : how.exit->checkpoints()) {
      const float margin = how.exit->margin(checkpoint, k, how.margin);
      if (std::isinf(margin)) continue;
      block.use(how.first(), how.first().in_bf16());
      block.decode_to(checkpoint.n_codes);
      block.drop(*how.exit, checkpoint, margin, k);
    }
  if (how.weights.in_bf16() && block.any_query_with(worth_ranking(k))) {
    block.use(how.weights, true);
    block.decode_to(block.M());
    block.drop_ranked(k);
  }
  block.use(how.weights, false);
  block.decode_to(block.M());
  block.put_scores();
  for (const auto& [query, candidate] : scratch.entries) results[query].push(candidate);
}

void rerank_range(const Reranking& how, const float* q, float radius, RerankScratch& scratch) {
  BlockReranker block(how, q, scratch);
  block.read_codes();
  if (how.exit)
    for (const EarlyExit::Checkpoint& checkpoint : how.exit->checkpoints()) {
      if (!checkpoint.has_range_margin()) continue;
      block.use(how.first(), how.first().in_bf16());
      block.decode_to(checkpoint.n_codes);
      block.drop_outside(*how.exit, checkpoint, how.margin, radius);
    }
  block.use(how.weights, false);
  block.decode_to(block.M());
  block.put_scores();
}

}  // namespace fq
