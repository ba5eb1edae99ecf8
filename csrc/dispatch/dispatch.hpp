// Which implementation of each kernel family runs.
//
// A level is the name of a set of instructions and of the files that use it. The best one that the
// CPU supports is chosen once, at first use; FAISS_QINCO_SIMD=<level> asks for another one. A
// family without an implementation for a level runs its best one below it.
#pragma once

#include <string>
#include <vector>

#include "kernels/gemm_bf16/contract.hpp"
#include "kernels/gemm_f32/contract.hpp"
#include "kernels/lut_scan/contract.hpp"
#include "kernels/lut_scan_batch/contract.hpp"
#include "kernels/lut_scan_u8/contract.hpp"
#include "kernels/rows/contract.hpp"

namespace fq {

// Worst first, so that levels compare; a CPU has those of one architecture.
enum class SimdLevel { Scalar, Neon, NeonBf16, Avx2, Avx512, Avx512Vbmi, Avx512Bf16 };

const char* level_name(SimdLevel level);

// What this CPU can run, best first.
std::vector<SimdLevel> available_levels();

// The level called `name`, or the best one for a null or empty name. CheckError if it does not
// exist or cannot run here.
SimdLevel parse_level(const char* name);

// The level in use: parse_level(FAISS_QINCO_SIMD), asked once.
SimdLevel active_level();

// An implementation by level, for tests and benchmarks; without a level, the one in use.
LutScan lut_scan_kernel(SimdLevel level);
LutScanU8 lut_scan_u8_kernel(SimdLevel level);
LutScanBatch lut_scan_batch_kernel(SimdLevel level);
GemmF32 gemm_f32_kernel(SimdLevel level);
GemmBf16 gemm_bf16_kernel(SimdLevel level);
RoundBf16 round_bf16_kernel(SimdLevel level);
SumRows sum_rows_kernel(SimdLevel level);
SquaredNorms squared_norms_kernel(SimdLevel level);
ScoreRows score_rows_kernel(SimdLevel level);
inline LutScan lut_scan_kernel() { return lut_scan_kernel(active_level()); }
inline LutScanU8 lut_scan_u8_kernel() { return lut_scan_u8_kernel(active_level()); }
inline LutScanBatch lut_scan_batch_kernel() { return lut_scan_batch_kernel(active_level()); }
inline GemmF32 gemm_f32_kernel() { return gemm_f32_kernel(active_level()); }
inline GemmBf16 gemm_bf16_kernel() { return gemm_bf16_kernel(active_level()); }
inline RoundBf16 round_bf16_kernel() { return round_bf16_kernel(active_level()); }
inline SumRows sum_rows_kernel() { return sum_rows_kernel(active_level()); }
inline SquaredNorms squared_norms_kernel() { return squared_norms_kernel(active_level()); }
inline ScoreRows score_rows_kernel() { return score_rows_kernel(active_level()); }

// Whether the level has instructions for gemm_bf16; else gemm_f32 is the faster one.
bool multiplies_bf16(SimdLevel level);

// Whether lists that several queries probe are scanned faster by lut_scan_batch than by
// lut_scan_u8 for each: where that takes many shuffles.
bool scans_batches(SimdLevel level);

}  // namespace fq
