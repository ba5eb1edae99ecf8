#include "dispatch/dispatch.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "core/check.hpp"

using namespace fq;

TEST_CASE("dispatch: best first, scalar always") {
  const auto levels = available_levels();
  CHECK(std::is_sorted(levels.rbegin(), levels.rend()));
  CHECK(levels.back() == SimdLevel::Scalar);
  CHECK((lut_scan_kernel(SimdLevel::Scalar) == lut_scan_scalar));
  CHECK((gemm_f32_kernel(SimdLevel::Scalar) == gemm_f32_scalar));
  CHECK((gemm_bf16_kernel(SimdLevel::Scalar) == gemm_bf16_scalar));
  for (SimdLevel level : levels)
    CHECK(multiplies_bf16(level) ==
          (level == SimdLevel::Avx512Bf16 || level == SimdLevel::NeonBf16));
#if defined(FAISS_QINCO_X86)
  // A family without a kernel for the level: the next one below serves.
  CHECK((gemm_f32_kernel(SimdLevel::Avx512Bf16) == gemm_f32_avx512));
  CHECK((gemm_bf16_kernel(SimdLevel::Avx2) == gemm_bf16_scalar));
#endif
}

TEST_CASE("dispatch: the override by name") {
  CHECK(parse_level(nullptr) == available_levels().front());
  CHECK(parse_level("") == available_levels().front());
  CHECK(parse_level("scalar") == SimdLevel::Scalar);
  for (SimdLevel level : available_levels()) CHECK(parse_level(level_name(level)) == level);
  CHECK_THROWS_WITH_AS(parse_level("avx1024"), doctest::Contains("scalar"), CheckError);
}
