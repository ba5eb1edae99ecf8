// rows: what happens to rows of numbers between two products. cols: a multiple of 16, d: any. Every
// level gives the same bits as scalar (but for the payload of a NaN); no alignment is asked for.
//
// sum_rows: out[i] = the sum of rows[i * n_terms + t], t = 0 .. n_terms - 1, in that order; with
// `clip`, max(sum, 0), where NaN becomes 0.
//   rows: (n, n_terms) pointers to cols floats, n_terms >= 1     out: (n, cols), row-major
// out[i] may be among its own terms; apart from that nothing may overlap.
//
// squared_norms: out[i] = sum_j x[i][j]^2, x: (n, cols) row-major, added up as sum_terms does
// (core/distance.hpp): 16 partial sums, then halves of them onto each other.
//
// score_rows: out[i] = exact_score of q (d) and x[i], (n, d) row-major: |q - x[i]|^2, or with
// `inner_product` -<q, x[i]>.
#pragma once

#include <cstdint>

namespace fq {

using SumRows = void (*)(std::int64_t n, std::int64_t n_terms, std::int64_t cols,
                         const float* const* rows, float* out, bool clip);

void sum_rows_scalar(std::int64_t n, std::int64_t n_terms, std::int64_t cols,
                     const float* const* rows, float* out, bool clip);
void sum_rows_neon(std::int64_t n, std::int64_t n_terms, std::int64_t cols,
                   const float* const* rows, float* out, bool clip);
void sum_rows_avx2(std::int64_t n, std::int64_t n_terms, std::int64_t cols,
                   const float* const* rows, float* out, bool clip);
void sum_rows_avx512(std::int64_t n, std::int64_t n_terms, std::int64_t cols,
                     const float* const* rows, float* out, bool clip);

using SquaredNorms = void (*)(std::int64_t n, std::int64_t cols, const float* x, float* out);

void squared_norms_scalar(std::int64_t n, std::int64_t cols, const float* x, float* out);
void squared_norms_neon(std::int64_t n, std::int64_t cols, const float* x, float* out);
void squared_norms_avx2(std::int64_t n, std::int64_t cols, const float* x, float* out);
void squared_norms_avx512(std::int64_t n, std::int64_t cols, const float* x, float* out);

using ScoreRows = void (*)(std::int64_t n, std::int64_t d, const float* q, const float* x,
                           bool inner_product, float* out);

void score_rows_scalar(std::int64_t n, std::int64_t d, const float* q, const float* x,
                       bool inner_product, float* out);
void score_rows_neon(std::int64_t n, std::int64_t d, const float* q, const float* x,
                     bool inner_product, float* out);
void score_rows_avx2(std::int64_t n, std::int64_t d, const float* q, const float* x,
                     bool inner_product, float* out);
void score_rows_avx512(std::int64_t n, std::int64_t d, const float* q, const float* x,
                       bool inner_product, float* out);

}  // namespace fq
