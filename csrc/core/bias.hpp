// What stands beside a code, in two bytes: a bias, or a ratio; see core/extra.
//
// They are a bfloat16, of an exponent as wide as a float's: what one outlier of a list needs costs
// the others nothing. Scores and bounds take the number that is stored, so that nothing is lost
// between them. Ratios are stored less 1, near which they are: that is four to eight times as
// exact.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/bytes.hpp"
#include "core/removal.hpp"
#include "core/types.hpp"
#include "kernels/gemm_bf16/bf16.hpp"
#include "kernels/lut_scan_u8/contract.hpp"

namespace fq {

enum class Beside { Nothing, Bias, Ratio };

constexpr int kBiasBytes = 2;
constexpr std::int64_t kBiasRow = kBiasBytes * kScanBlock;

inline float offset_of(Beside beside) { return beside == Beside::Ratio ? 1.0f : 0.0f; }

inline float bias_at(const BiasRows& bias, idx_t i) {
  bf16 half;
  std::memcpy(&half, bias.rows + i / kScanBlock * bias.block_bytes + kBiasBytes * (i % kScanBlock),
              sizeof(half));
  return to_float(half) + bias.offset;
}

// The i-th of a row.
inline void put_bias(std::uint8_t* row, idx_t i, float bias, float offset) {
  constexpr float kMost = 0x1.FEp127f;  // the largest that is finite
  const bf16 half = to_bf16(std::clamp(bias - offset, -kMost, kMost));
  std::memcpy(row + kBiasBytes * i, &half, sizeof(half));
}

// Biases of a list that stand apart from its blocks.
class BiasColumn {
 public:
  idx_t size() const { return size_; }
  std::size_t allocated() const { return rows_.allocated(); }
  BiasRows rows(float offset) const { return {rows_.data(), kBiasRow, offset}; }

  // For n in all; push_back cannot fail for what was reserved.
  void reserve(idx_t n) { rows_.reserve(bytes_for(n)); }
  void push_back(float bias, float offset) noexcept {
    rows_.resize(bytes_for(size_ + 1));
    put_bias(rows_.mutable_data() + size_ / kScanBlock * kBiasRow, size_ % kScanBlock, bias,
             offset);
    ++size_;
  }
  // May throw: its entries in another order.
  BiasColumn reordered(const std::vector<idx_t>& order) const {
    BiasColumn made;
    made.reserve(size_);
    for (const idx_t from : order) made.push_back(bias_at(rows(0), from), 0);
    return made;
  }
  void replace(idx_t i, float bias, float offset) noexcept {
    put_bias(rows_.mutable_data() + i / kScanBlock * kBiasRow, i % kScanBlock, bias, offset);
  }
  void shrink(idx_t n) noexcept {
    size_ = n;
    rows_.resize(bytes_for(n));
  }
  void remove(const Removal& removal) noexcept {
    std::uint8_t* p = rows_.mutable_data();  // rows are as long as what they hold: one array
    removal.visit_moves([p](idx_t from, idx_t to, idx_t n) {
      std::memmove(p + kBiasBytes * to, p + kBiasBytes * from,
                   static_cast<std::size_t>(kBiasBytes * n));
    });
    shrink(removal.n_kept());
    rows_.release_unused();
  }

 private:
  static std::size_t bytes_for(idx_t n) {
    return static_cast<std::size_t>((n + kScanBlock - 1) / kScanBlock * kBiasRow);
  }
  Bytes rows_;
  idx_t size_ = 0;
};

}  // namespace fq
