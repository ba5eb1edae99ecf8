#include "core/qinco_encode.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/check.hpp"
#include "core/parallel.hpp"
#include "core/row_sums.hpp"
#include "core/topk.hpp"
#include "dispatch/dispatch.hpp"

namespace fq {
namespace {

constexpr idx_t kHypotheses = 384;  // of a block of vectors: enough rows for the products
constexpr int kMaxBeam = 4096;      // so that A * B, and what it allocates, stays small
constexpr idx_t kCandidates = 96;   // evaluated together: their activations stay in cache

using Floats = std::vector<float>;

float* at(Floats& v, idx_t row, idx_t cols) { return v.data() + row * cols; }

using Rounded = std::vector<bf16>;

struct Scratch {
  Floats x;                                     // (vectors, dp), normalised
  Floats error, next_error;                     // x̂ - x of the hypotheses
  Floats norm, next_norm;                       // its squared norm
  std::vector<std::uint8_t> codes, next_codes;  // (hypotheses, M)

  std::vector<idx_t> parents;  // the hypotheses that have candidates
  Floats x_hat, x_z, x_h;      // of each: x̂, and the products with it that the candidates share

  // Of the candidates, vector by vector: which parent, its codeword, x̂ - x, its squared norm.
  std::vector<idx_t> parent;
  std::vector<int> codeword;
  Floats candidates, distance;

  Floats scores;                    // of pre-selection, (hypotheses, K)
  Floats few;                       // of them, or minima
  std::vector<int> best;            // chosen from scores
  Floats h, z;                      // activations of kCandidates; z where Out follows
  std::vector<const float*> terms;  // rows to be added up
  Floats residual, rest;            // x - base of a vector, and scratch
  // What products in bf16 take of the above.
  Rounded rounded, h_rounded, z_rounded;
};

// A number that at least n of the scores do not exceed, and few more than n + `more`.
float near_nth(const Floats& score, int n, int more) {
  float low = score[0], high = score[0];
  for (const float s : score) low = std::min(low, s), high = std::max(high, s);
  return bound_of_nth(score.data(), static_cast<idx_t>(score.size()), n, more, low, high);
}

// The n smallest of m scores, by index; of equal ones the first, NaN counted as infinite. The
// scores are dealt out to groups: a bound of the n smallest of the groups' minima is one of the n
// smallest scores, and few others keep it.
void smallest(const float* score, int m, int n, Floats& few, std::vector<int>& chosen) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr int kRun = 16;
  const int groups = (4 * n + kRun - 1) / kRun * kRun;
  float bound = kInf;
  if (groups < m) {
    few.assign(static_cast<std::size_t>(groups), kInf);
    for (int i = 0; i < m; i += groups)
      for (int j = 0, end = std::min(groups, m - i); j < end; ++j)
        few[j] = score[i + j] < few[j] ? score[i + j] : few[j];
    bound = near_nth(few, n, n / 8);
  }
  chosen.resize(static_cast<std::size_t>(m));
  std::size_t count = 0;
  for (int i = 0; i < m; i += kRun) {
    const int end = std::min(kRun, m - i);
    int any = 0;
    for (int j = 0; j < end; ++j) any |= !(score[i + j] > bound);
    if (!any) continue;
    for (int j = 0; j < end; ++j) {  // no branch: it could not be predicted
      chosen[count] = i + j;
      count += !(score[i + j] > bound);
    }
  }
  chosen.resize(count);
  auto key = [&](int i) { return score[i] < kInf ? score[i] : kInf; };
  if (count > static_cast<std::size_t>(n)) {
    few.clear();
    for (const int i : chosen) few.push_back(key(i));
    bound = near_nth(few, n, 0);
    count = 0;
    for (std::size_t i = 0; i < few.size(); ++i) {
      chosen[count] = chosen[i];
      count += few[i] <= bound;
    }
    chosen.resize(count);
  }
  if (count > static_cast<std::size_t>(n)) {  // equal scores
    auto before = [&](int i, int j) { return key(i) != key(j) ? key(i) < key(j) : i < j; };
    std::nth_element(chosen.begin(), chosen.begin() + n, chosen.end(), before);
    chosen.resize(static_cast<std::size_t>(n));
    std::sort(chosen.begin(), chosen.end());
  }
}

class BlockEncoder {
 public:
  BlockEncoder(const QincoWeights& weights, int A, int B, const AdditiveTerm* term,
               Scratch& scratch)
      : w_(weights), A_(A), B_(B), term_(term), s_(scratch) {}

  void encode(idx_t n, const float* x, const idx_t* list_no, std::uint8_t* codes) {
    n_ = n;
    const idx_t d = w_.d();
    s_.x.assign(static_cast<std::size_t>(n * dp_), 0.0f);
    for (idx_t i = 0; i < n; ++i)
      for (idx_t j = 0; j < d; ++j) at(s_.x, i, dp_)[j] = (x[i * d + j] - w_.mean()[j]) / w_.std();
    start(list_no);
    const int n_steps = static_cast<int>(w_.steps().size());
    for (int m = 0; m < n_steps; ++m) {
      const QincoStep& step = w_.steps()[static_cast<std::size_t>(m)];
      const int width = std::min(A_ * B_, hypotheses_ * w_.K());
      preselect(step, width);
      evaluate(step);
      const int keep = m + 1 < n_steps ? std::min(B_, width) : term_ ? width : 1;
      keep_best(width, keep, m + (w_.ivf() ? 0 : 1));
    }
    for (idx_t i = 0; i < n; ++i) {
      const int b = term_ ? best_for_tables(i, x + i * d, list_no ? list_no[i] : 0) : 0;
      std::copy_n(s_.codes.data() + (i * hypotheses_ + b) * M_, M_, codes + i * M_);
    }
  }

 private:
  // x̂ = the centroid, or the best B vectors of the first codebook.
  void start(const idx_t* list_no) {
    hypotheses_ = w_.ivf() ? 1 : std::min(w_.steps().empty() ? 1 : B_, w_.K());
    s_.codes.assign(static_cast<std::size_t>(n_ * hypotheses_ * M_), 0);
    s_.error.resize(static_cast<std::size_t>(n_ * hypotheses_ * dp_));
    s_.norm.resize(static_cast<std::size_t>(n_ * hypotheses_));
    if (!w_.ivf()) {
      s_.scores.resize(static_cast<std::size_t>(n_ * w_.K()));
      multiply(n_, s_.x.data(), nullptr, w_.base_columns(), s_.scores.data(), nullptr,
               Epilogue::Store);
    }
    for (idx_t i = 0; i < n_; ++i) {
      if (!w_.ivf()) {
        float* score = at(s_.scores, i, w_.K());
        for (int k = 0; k < w_.K(); ++k) score[k] = w_.base_half_norms()[k] - score[k];
        smallest(score, w_.K(), hypotheses_, s_.few, s_.best);
      }
      for (int b = 0; b < hypotheses_; ++b) {
        const idx_t row = i * hypotheses_ + b, base = w_.ivf() ? list_no[i] : s_.best[b];
        if (!w_.ivf()) s_.codes[row * M_] = static_cast<std::uint8_t>(base);
        const float* start = w_.base().data.data() + base * dp_;
        float* e = at(s_.error, row, dp_);
        for (idx_t j = 0; j < dp_; ++j) e[j] = start[j] - at(s_.x, i, dp_)[j];
      }
    }
    squared_norms_kernel()(n_ * hypotheses_, dp_, s_.error.data(), s_.norm.data());
  }

  // The `width` candidates of each vector, of all hypotheses and codewords those with the least
  // error before the network: |x̂ + p_k - x|² / 2 = |x̂ - x|² / 2 + <p_k, x̂ - x> + |p_k|² / 2.
  void preselect(const QincoStep& step, int width) {
    const idx_t rows = n_ * hypotheses_;
    const int K = w_.K(), per_vector = hypotheses_ * K;
    if (width < per_vector) {
      s_.scores.resize(static_cast<std::size_t>(rows * K));
      multiply(rows, s_.error.data(), rounded(s_.error, rows * dp_), step.preselect,
               s_.scores.data(), nullptr, Epilogue::Store);
      for (idx_t r = 0; r < rows; ++r) {
        float* score = at(s_.scores, r, K);
        const float half_norm = s_.norm[r] / 2;
        for (int k = 0; k < K; ++k) score[k] += step.preselect_half_norms[k] + half_norm;
      }
    }
    s_.parents.clear();
    s_.parent.clear();
    s_.codeword.clear();
    s_.best.resize(static_cast<std::size_t>(width));
    for (idx_t i = 0; i < n_; ++i) {
      if (width < per_vector)
        smallest(at(s_.scores, i, per_vector), per_vector, width, s_.few, s_.best);
      else
        std::iota(s_.best.begin(), s_.best.end(), 0);
      for (const int one : s_.best) {
        const idx_t hypothesis = i * hypotheses_ + one / K;
        if (s_.parents.empty() || s_.parents.back() != hypothesis) s_.parents.push_back(hypothesis);
        s_.parent.push_back(static_cast<idx_t>(s_.parents.size()) - 1);
        s_.codeword.push_back(one % K);
      }
    }
  }

  // x̂ + f(c_k, x̂) - x of every candidate, and its norm.
  void evaluate(const QincoStep& step) {
    const idx_t rows = static_cast<idx_t>(s_.parents.size()), ep = step.table.cols;
    const idx_t n = static_cast<idx_t>(s_.parent.size()), hp = step.up_table.cols;
    const bool project = !step.out.empty();
    s_.x_hat.resize(static_cast<std::size_t>(rows * dp_));
    sum_rows(rows, dp_, s_.x_hat.data(), false, s_.terms, [&](idx_t r, auto add) {
      add(at(s_.error, s_.parents[r], dp_));
      add(at(s_.x, s_.parents[r] / hypotheses_, dp_));
    });
    auto shared = [&](const Floats& from, const Weight& weight, Floats& to) {
      to.resize(static_cast<std::size_t>(rows * weight.cols));
      multiply(rows, from.data(), rounded(from, rows * weight.rows), weight, to.data(), nullptr,
               Epilogue::Store);
    };
    shared(s_.x_hat, step.x_weight, s_.x_z);
    if (hp) shared(step.direct ? s_.x_hat : s_.x_z, step.first_up, s_.x_h);
    s_.candidates.resize(static_cast<std::size_t>(n * dp_));
    s_.distance.resize(static_cast<std::size_t>(n));
    s_.h.resize(static_cast<std::size_t>(kCandidates * hp));
    if (project) s_.z.resize(static_cast<std::size_t>(kCandidates * ep));

    for (idx_t begin = 0; begin < n; begin += kCandidates) {
      const idx_t count = std::min(kCandidates, n - begin);
      float* y = at(s_.candidates, begin, dp_);
      float* z = project ? s_.z.data() : y;
      auto codeword = [&](const Matrix& table, idx_t i) {
        return table.data.data() + s_.codeword[begin + i] * table.cols;
      };
      sum_rows(count, ep, z, false, s_.terms, [&](idx_t i, auto add) {
        add(codeword(step.table, i));
        add(at(s_.x_z, s_.parent[begin + i], ep));
      });
      if (hp)
        sum_rows(count, hp, s_.h.data(), true, s_.terms, [&](idx_t i, auto add) {
          add(codeword(step.up_table, i));
          add(at(s_.x_h, s_.parent[begin + i], hp));
        });
      bf16* h_rounded = hp ? rounded(s_.h, count * hp, s_.h_rounded) : nullptr;
      bf16* z_rounded =
          project ? rounded(s_.z, count * ep, s_.z_rounded) : sized(s_.z_rounded, count * ep);
      for (std::size_t l = 0; l < step.up.size(); ++l) {
        multiply(count, s_.h.data(), h_rounded, step.down[l], z, z_rounded, Epilogue::Add);
        multiply(count, z, z_rounded, step.up[l], w_.in_bf16() ? nullptr : s_.h.data(), h_rounded,
                 Epilogue::Relu);
      }
      auto add_last = [&](float* c, bf16* c_rounded) {
        multiply(count, s_.h.data(), h_rounded, step.last_down, c, c_rounded, Epilogue::Add);
      };
      if (hp && !step.direct) add_last(z, z_rounded);
      sum_rows(count, dp_, y, false, s_.terms, [&](idx_t i, auto add) {
        if (!project) add(y + i * dp_);
        add(at(s_.error, s_.parents[s_.parent[begin + i]], dp_));
        if (w_.skip()) add(codeword(step.codebook, i));
      });
      if (project) multiply(count, z, z_rounded, step.out, y, nullptr, Epilogue::Add);
      if (hp && step.direct) add_last(y, nullptr);
      squared_norms_kernel()(count, dp_, y, s_.distance.data() + begin);
    }
  }

  // What a product takes beside float32: null, or room for n rounded numbers, or these.
  bf16* sized(Rounded& to, idx_t n) {
    if (!w_.in_bf16()) return nullptr;
    to.resize(static_cast<std::size_t>(n));
    return to.data();
  }
  bf16* rounded(const Floats& from, idx_t n, Rounded& to) {
    if (w_.in_bf16()) round_bf16_kernel()(n, from.data(), sized(to, n));
    return sized(to, n);
  }
  bf16* rounded(const Floats& from, idx_t n) { return rounded(from, n, s_.rounded); }

  // The best `keep` candidates of each vector become its hypotheses.
  void keep_best(int width, int keep, int column) {
    s_.next_error.resize(static_cast<std::size_t>(n_ * keep * dp_));
    s_.next_norm.resize(static_cast<std::size_t>(n_ * keep));
    s_.next_codes.resize(static_cast<std::size_t>(n_ * keep * M_));
    for (idx_t i = 0; i < n_; ++i) {
      smallest(s_.distance.data() + i * width, width, keep, s_.few, s_.best);
      for (int b = 0; b < keep; ++b) {
        const idx_t from = i * width + s_.best[b], to = i * keep + b;
        std::copy_n(at(s_.candidates, from, dp_), dp_, at(s_.next_error, to, dp_));
        s_.next_norm[to] = s_.distance[from];
        const idx_t parent = s_.parents[s_.parent[from]];
        std::copy_n(s_.codes.data() + parent * M_, M_, s_.next_codes.data() + to * M_);
        s_.next_codes[to * M_ + column] = static_cast<std::uint8_t>(s_.codeword[from]);
      }
    }
    s_.error.swap(s_.next_error);
    s_.norm.swap(s_.next_norm);
    s_.codes.swap(s_.next_codes);
    hypotheses_ = keep;
  }

  // Of the last hypotheses of vector i the one of the least error, that of the tables included.
  int best_for_tables(idx_t i, const float* x, idx_t base) {
    s_.residual.resize(static_cast<std::size_t>(w_.d()));
    for (idx_t j = 0; j < w_.d(); ++j) s_.residual[j] = x[j] - term_->bases[base * w_.d() + j];
    const double weight = term_->weight / (static_cast<double>(w_.std()) * w_.std());
    int best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (int b = 0; b < hypotheses_; ++b) {
      const idx_t row = i * hypotheses_ + b;
      const double error =
          s_.norm[row] +
          weight * term_->tables->error(s_.residual.data(), s_.codes.data() + row * M_, s_.rest);
      if (error < least) least = error, best = b;
    }
    return best;
  }

  const QincoWeights& w_;
  const int A_, B_;
  const AdditiveTerm* term_;
  Scratch& s_;
  const idx_t dp_ = w_.base().cols;
  const int M_ = w_.M();
  idx_t n_ = 0;         // vectors of the block
  int hypotheses_ = 1;  // of each vector
};

}  // namespace

void encode(const QincoWeights& weights, idx_t n, const float* x, const idx_t* list_no, int A,
            int B, const AdditiveTerm* term, std::uint8_t* codes, const Execution& run) {
  check(A >= 1 && A <= weights.K(), "A: expected 1 to ", weights.K(), ", got ", A);
  check(B >= 1 && B <= kMaxBeam, "B: expected 1 to ", kMaxBeam, ", got ", B);
  check((list_no != nullptr) == weights.ivf(),
        "list_no: expected one per vector for a model with an IVF, and None without");
  if (term)
    check(term->tables->M() == weights.M() && term->tables->K() == weights.K() &&
              term->tables->d() == weights.d() && term->weight >= 0,
          "tables: expected those of a model of ", weights.M(),
          " codes, and a weight of 0 or more");
  for (const QincoStep& step : weights.steps())
    check(A == weights.K() || !step.preselect.empty(),
          "A: the model has no pre-selection codebooks, expected A = ", weights.K(), ", got ", A);
  if (list_no)
    for (idx_t i = 0; i < n; ++i)
      if (list_no[i] < 0 || list_no[i] >= weights.n_base())
        check(false, "list_no[", i, "]: expected 0 to ", weights.n_base() - 1, ", got ",
              list_no[i]);
  // Blocks that are small enough for all workers.
  const idx_t share = n / (4 * std::max(run.n_threads, 1)) + 1;
  const idx_t block = std::min(std::max<idx_t>(kHypotheses / B, 1), share);
  const idx_t n_blocks = (n + block - 1) / block;
  std::vector<Scratch> scratch(static_cast<std::size_t>(n_workers(n_blocks, run)));
  parallel_for(n_blocks, run, [&](idx_t b, int worker) {
    const idx_t begin = b * block;
    BlockEncoder(weights, A, B, term, scratch[worker])
        .encode(std::min(block, n - begin), x + begin * weights.d(),
                list_no ? list_no + begin : nullptr, codes + begin * weights.M());
  });
}

}  // namespace fq
