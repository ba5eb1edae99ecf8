#include "dispatch/cpu.hpp"

#if defined(FAISS_QINCO_X86)
#include <cpuid.h>

#include <cstdint>

namespace fq::cpu {
namespace {

struct Features {
  std::uint32_t ecx1 = 0, ebx7 = 0, ecx7 = 0, eax7_1 = 0, xcr0 = 0;

  Features() {
    std::uint32_t a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) ecx1 = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) ebx7 = b, ecx7 = c;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) eax7_1 = a;
    // XGETBV tells whether the system saves the wide registers; it exists only with OSXSAVE.
    if (ecx1 & bit_OSXSAVE) __asm__("xgetbv" : "=a"(xcr0), "=d"(d) : "c"(0));
  }

  bool system_saves(std::uint32_t state) const { return (xcr0 & state) == state; }
};

const Features& features() {
  static const Features f;
  return f;
}

constexpr std::uint32_t kYmmState = 0x06, kZmmState = 0xe6;
constexpr std::uint32_t kAvx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;

}  // namespace

bool has_avx2() {
  const Features& f = features();
  return (f.ebx7 & bit_AVX2) && (f.ecx1 & bit_FMA) && f.system_saves(kYmmState);
}

bool has_avx512() {
  const Features& f = features();
  return has_avx2() && (f.ebx7 & kAvx512) == kAvx512 && f.system_saves(kZmmState);
}

bool has_avx512_vbmi() { return has_avx512() && (features().ecx7 & bit_AVX512VBMI); }

bool has_avx512_bf16() { return has_avx512_vbmi() && (features().eax7_1 & bit_AVX512BF16); }

bool has_neon() { return false; }
bool has_neon_bf16() { return false; }

}  // namespace fq::cpu

#else

#if defined(FAISS_QINCO_AARCH64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace fq::cpu {
bool has_avx2() { return false; }
bool has_avx512() { return false; }
bool has_avx512_vbmi() { return false; }
bool has_avx512_bf16() { return false; }
#if defined(FAISS_QINCO_AARCH64)
bool has_neon() { return true; }  // part of the architecture
#else
bool has_neon() { return false; }
#endif
#if defined(FAISS_QINCO_AARCH64) && defined(HWCAP2_BF16)
bool has_neon_bf16() { return getauxval(AT_HWCAP2) & HWCAP2_BF16; }
#else
bool has_neon_bf16() { return false; }  // elsewhere the system is asked in other ways
#endif
}  // namespace fq::cpu

#endif
