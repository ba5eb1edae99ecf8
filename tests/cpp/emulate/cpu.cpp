// Takes the place of csrc/dispatch/cpu.cpp: everything of x86 is there.
#include "dispatch/cpu.hpp"

namespace fq::cpu {

bool has_avx2() { return true; }
bool has_avx512() { return true; }
bool has_avx512_vbmi() { return true; }
bool has_avx512_bf16() { return true; }
bool has_neon() { return false; }
bool has_neon_bf16() { return false; }

}  // namespace fq::cpu
