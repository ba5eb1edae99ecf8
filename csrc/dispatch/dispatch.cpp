#include "dispatch/dispatch.hpp"

#include <cstdlib>

#include "core/check.hpp"
#include "dispatch/cpu.hpp"

namespace fq {
namespace {

struct LevelInfo {
  SimdLevel level;
  const char* name;
  bool (*supported)();
};

constexpr LevelInfo kLevels[] = {
    // best first
    {SimdLevel::Avx512Bf16, "avx512_bf16", cpu::has_avx512_bf16},
    {SimdLevel::Avx512Vbmi, "avx512_vbmi", cpu::has_avx512_vbmi},
    {SimdLevel::Avx512, "avx512", cpu::has_avx512},
    {SimdLevel::Avx2, "avx2", cpu::has_avx2},
    {SimdLevel::NeonBf16, "neon_bf16", cpu::has_neon_bf16},
    {SimdLevel::Neon, "neon", cpu::has_neon},
    {SimdLevel::Scalar, "scalar", [] { return true; }},
};

template <class Kernel>
struct Implementation {
  SimdLevel level;
  Kernel kernel;
};

constexpr Implementation<LutScan> kLutScan[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx512, lut_scan_avx512},
    {SimdLevel::Avx2, lut_scan_avx2},
#endif
    {SimdLevel::Scalar, lut_scan_scalar},
};

constexpr Implementation<LutScanU8> kLutScanU8[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx512Vbmi, lut_scan_u8_avx512_vbmi},
    {SimdLevel::Avx512, lut_scan_u8_avx512},
    {SimdLevel::Avx2, lut_scan_u8_avx2},
#elif defined(FAISS_QINCO_AARCH64)
    {SimdLevel::Neon, lut_scan_u8_neon},
#endif
    {SimdLevel::Scalar, lut_scan_u8_scalar},
};

constexpr Implementation<LutScanBatch> kLutScanBatch[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx2, lut_scan_batch_avx2},
#elif defined(FAISS_QINCO_AARCH64)
    {SimdLevel::Neon, lut_scan_batch_neon},
#endif
    {SimdLevel::Scalar, lut_scan_batch_scalar},
};

constexpr Implementation<GemmF32> kGemmF32[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx512, gemm_f32_avx512},
    {SimdLevel::Avx2, gemm_f32_avx2},
#elif defined(FAISS_QINCO_AARCH64)
    {SimdLevel::Neon, gemm_f32_neon},
#endif
    {SimdLevel::Scalar, gemm_f32_scalar},
};

constexpr Implementation<GemmBf16> kGemmBf16[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx512Bf16, gemm_bf16_avx512_bf16},
#elif defined(FAISS_QINCO_AARCH64)
    {SimdLevel::NeonBf16, gemm_bf16_neon_bf16},
#endif
    {SimdLevel::Scalar, gemm_bf16_scalar},
};

constexpr Implementation<RoundBf16> kRoundBf16[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx512Bf16, round_bf16_avx512_bf16},
#elif defined(FAISS_QINCO_AARCH64)
    {SimdLevel::NeonBf16, round_bf16_neon_bf16},
#endif
    {SimdLevel::Scalar, round_bf16_scalar},
};

constexpr Implementation<SumRows> kSumRows[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx512, sum_rows_avx512},
    {SimdLevel::Avx2, sum_rows_avx2},
#elif defined(FAISS_QINCO_AARCH64)
    {SimdLevel::Neon, sum_rows_neon},
#endif
    {SimdLevel::Scalar, sum_rows_scalar},
};

constexpr Implementation<SquaredNorms> kSquaredNorms[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx512, squared_norms_avx512},
    {SimdLevel::Avx2, squared_norms_avx2},
#elif defined(FAISS_QINCO_AARCH64)
    {SimdLevel::Neon, squared_norms_neon},
#endif
    {SimdLevel::Scalar, squared_norms_scalar},
};

constexpr Implementation<ScoreRows> kScoreRows[] = {
#if defined(FAISS_QINCO_X86)
    {SimdLevel::Avx512, score_rows_avx512},
    {SimdLevel::Avx2, score_rows_avx2},
#elif defined(FAISS_QINCO_AARCH64)
    {SimdLevel::Neon, score_rows_neon},
#endif
    {SimdLevel::Scalar, score_rows_scalar},
};

template <class Kernel, std::size_t N>
Kernel best(const Implementation<Kernel> (&family)[N], SimdLevel level) {
  for (const auto& one : family)
    if (one.level <= level) return one.kernel;
  return family[N - 1].kernel;
}

}  // namespace

const char* level_name(SimdLevel level) {
  for (const auto& info : kLevels)
    if (info.level == level) return info.name;
  return "unknown";
}

std::vector<SimdLevel> available_levels() {
  std::vector<SimdLevel> levels;
  for (const auto& info : kLevels)
    if (info.supported()) levels.push_back(info.level);
  return levels;
}

SimdLevel parse_level(const char* name) {
  const auto levels = available_levels();
  if (name == nullptr || *name == '\0') return levels.front();
  std::string names;
  for (SimdLevel level : levels) {
    if (std::string(name) == level_name(level)) return level;
    names += std::string(names.empty() ? "" : ", ") + level_name(level);
  }
  check(false, "FAISS_QINCO_SIMD: expected one of ", names, " (what this CPU can run), got '", name,
        "'");
  return SimdLevel::Scalar;
}

SimdLevel active_level() {
  static const SimdLevel level = parse_level(std::getenv("FAISS_QINCO_SIMD"));
  return level;
}

LutScan lut_scan_kernel(SimdLevel level) { return best(kLutScan, level); }
LutScanU8 lut_scan_u8_kernel(SimdLevel level) { return best(kLutScanU8, level); }
LutScanBatch lut_scan_batch_kernel(SimdLevel level) { return best(kLutScanBatch, level); }
GemmF32 gemm_f32_kernel(SimdLevel level) { return best(kGemmF32, level); }
GemmBf16 gemm_bf16_kernel(SimdLevel level) { return best(kGemmBf16, level); }
RoundBf16 round_bf16_kernel(SimdLevel level) { return best(kRoundBf16, level); }
SumRows sum_rows_kernel(SimdLevel level) { return best(kSumRows, level); }
SquaredNorms squared_norms_kernel(SimdLevel level) { return best(kSquaredNorms, level); }
ScoreRows score_rows_kernel(SimdLevel level) { return best(kScoreRows, level); }

bool multiplies_bf16(SimdLevel level) { return gemm_bf16_kernel(level) != gemm_bf16_scalar; }

bool scans_batches(SimdLevel level) { return level < SimdLevel::Avx512Vbmi; }

}  // namespace fq
