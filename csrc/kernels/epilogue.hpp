// What becomes of a product a * b: shared by the gemm families.
#pragma once

namespace fq {

enum class Epilogue {
  Store,    // a * b
  Add,      // c + a * b, c being the start of the sum
  Relu,     // max(a * b, 0); NaN becomes 0
  AddRelu,  // max(c + a * b, 0)
};

}  // namespace fq
