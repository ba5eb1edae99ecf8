// What this CPU and its operating system allow.
#pragma once

namespace fq::cpu {

bool has_avx2();    // AVX2 and FMA
bool has_avx512();  // AVX-512 F, BW, DQ and VL
bool has_avx512_vbmi();
bool has_avx512_bf16();  // VBMI too
bool has_neon();
bool has_neon_bf16();

}  // namespace fq::cpu
