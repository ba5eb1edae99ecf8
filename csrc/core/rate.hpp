// A rate: searching by the first codes of what is stored.
//
// Every step of a codec is trained on its own error, so the prefix of a code is a code, of fewer
// bytes to read and fewer networks to run. The tables of whole codes are of no use to it: their
// codewords make up for each other. So a rate has tables of its own, and what stands beside a code
// goes with the tables. Codes are scanned and decoded where they are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/inverted_lists.hpp"
#include "core/lut.hpp"

namespace fq {

struct Rate {
  std::shared_ptr<const AdditiveTables> tables;  // of the first tables->M() codes
  idx_t n_fitted;                                // stored vectors that these are fitted to
  // Of each list; no lists where nothing stands beside codes.
  std::vector<BiasColumn> bias = {};

  std::size_t nbytes() const {
    std::size_t sum = tables->nbytes() + bias.capacity() * sizeof(bias[0]);
    for (const BiasColumn& column : bias) sum += column.allocated();
    return sum;
  }
  // What is stored has gone.
  void forget() noexcept {
    for (BiasColumn& column : bias) column = {};
    n_fitted = 0;
  }
};

// codes: (n, M) -> (n, m).
inline std::vector<std::uint8_t> first_codes(idx_t n, const std::uint8_t* codes, int M, int m) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(n * m));
  for (idx_t i = 0; i < n; ++i) std::copy_n(codes + i * M, m, out.data() + i * m);
  return out;
}

// With a rate, or null for whole codes: how many codes count, and what stands beside those of a
// list.
inline int n_codes(const InvertedLists& lists, const Rate* rate) {
  return rate ? rate->tables->M() : lists.M();
}
inline BiasRows bias_of(const InvertedLists& lists, const Rate* rate, idx_t list_no) {
  if (!rate || rate->bias.empty()) return lists.bias(list_no);
  return rate->bias[static_cast<std::size_t>(list_no)].rows(offset_of(lists.beside()));
}

}  // namespace fq
