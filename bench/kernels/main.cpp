// Kernel times of every level that this CPU can run, against scalar; one thread, best of 7. Beyond
// the caches, also the share of the read bandwidth that the same run measured. gemm_bf16 is
// compared with the best gemm_f32.
//
//   cmake --preset bench && cmake --build --preset bench && build/bench/bench_kernels
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>
#include <vector>

#include "core/bitpack.hpp"
#include "core/types.hpp"
#include "dispatch/dispatch.hpp"

namespace {

using namespace fq;

template <class Run>
double seconds(Run run) {
  using clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int repeat = 0; repeat < 7; ++repeat) {
    const auto start = clock::now();
    run();
    best = std::min(best, std::chrono::duration<double>(clock::now() - start).count());
  }
  return best;
}

// Levels with a kernel of their own in the family, worst first.
template <class Kernel>
std::vector<SimdLevel> levels_of(Kernel (*kernel)(SimdLevel)) {
  std::vector<SimdLevel> own;
  auto levels = available_levels();
  std::reverse(levels.begin(), levels.end());
  for (SimdLevel level : levels)
    if (own.empty() || kernel(level) != kernel(own.back())) own.push_back(level);
  return own;
}

std::vector<float> random_floats(std::size_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> dist;
  std::vector<float> v(n);
  for (float& x : v) x = dist(rng);
  return v;
}

void lut_scan(int M, int nbits, int n_blocks) {
  const auto lut = random_floats(static_cast<std::size_t>(M) << nbits);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n_blocks * packed_size(M, nbits)) *
                                  kScanBlock);
  std::mt19937 rng(2);
  for (auto& c : codes) c = static_cast<std::uint8_t>(rng());
  const std::size_t block_bytes = codes.size() / static_cast<std::size_t>(n_blocks);
  volatile float sink = 0;
  double scalar = 0;
  for (SimdLevel level : levels_of<LutScan>(lut_scan_kernel)) {
    const LutScan kernel = lut_scan_kernel(level);
    const double s = seconds([&] {
      float out[kScanBlock];
      for (int b = 0; b < n_blocks; ++b) {
        kernel(codes.data() + block_bytes * static_cast<std::size_t>(b), M, nbits, lut.data(), out);
        sink = sink + out[b % kScanBlock];
      }
    });
    if (level == SimdLevel::Scalar) scalar = s;
    std::printf("lut_scan  M %2d nbits %d  %7d codes  %-11s %7.3f ns/code  %5.1fx\n", M, nbits,
                n_blocks * kScanBlock, level_name(level), s * 1e9 / (n_blocks * kScanBlock),
                scalar / s);
  }
}

// Bytes per second of a sum over memory far larger than the caches.
double read_bandwidth() {
  const std::vector<std::uint64_t> words(std::size_t{1} << 25, 1);  // 256 MB
  volatile std::uint64_t sink = 0;
  const double s = seconds([&] {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < words.size(); i += 8) {  // a cache line
      __builtin_prefetch(reinterpret_cast<const char*>(&words[i]) + 4096);
      for (std::size_t j = 0; j < 8; ++j) sum += words[i + j];
    }
    sink = sum;
  });
  return static_cast<double>(words.size() * sizeof(words[0])) / s;
}

// In runs of 32 blocks, as the shortlist calls it. `bandwidth` 0: the codes fit in a cache.
void lut_scan_u8(int M, std::int64_t n, double bandwidth) {
  constexpr std::int64_t kRun = 32 * kScanBlock;
  std::mt19937 rng(2);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(n * (M + 2)));
  std::vector<std::uint8_t> lut(static_cast<std::size_t>(256 * M));
  for (auto& c : codes) c = static_cast<std::uint8_t>(rng());
  for (auto& t : lut) t = static_cast<std::uint8_t>(rng());
  const std::int64_t block_bytes = kScanBlock * (M + 2);  // a code and its bias
  const int rounds = static_cast<int>((1 << 20) / n) + 1;
  double scalar = 0;
  for (SimdLevel level : levels_of<LutScanU8>(lut_scan_u8_kernel)) {
    const LutScanU8 kernel = lut_scan_u8_kernel(level);
    std::uint64_t survivors[kRun / kScanBlock];
    volatile std::uint64_t sink = 0;
    const double s = seconds([&] {
      for (int r = 0; r < rounds; ++r)
        for (std::int64_t i = 0; i < n; i += kRun) {
          const std::uint8_t* blocks = codes.data() + i * (M + 2);
          const BiasRows bias{blocks + kScanBlock * M, block_bytes, 0};
          kernel(blocks, block_bytes, std::min(kRun, n - i), M, lut.data(), bias, 1.5f, 1, 100, 400,
                 survivors);
          sink = sink + survivors[0];
        }
    });
    const double code_seconds = s / (static_cast<double>(n) * rounds);
    if (level == SimdLevel::Scalar) scalar = s;
    std::printf("lut_scan_u8  M %2d  %8d codes  %-11s %7.3f ns/code  %5.1fx", M,
                static_cast<int>(n), level_name(level), code_seconds * 1e9, scalar / s);
    if (bandwidth > 0)
      std::printf("  %3.0f %% of %.1f GB/s", 100 * (M + 2) / code_seconds / bandwidth,
                  bandwidth * 1e-9);
    std::printf("\n");
  }
}

void gemm(idx_t n, idx_t m, idx_t k) {
  const auto a = random_floats(static_cast<std::size_t>(n * k));
  const auto w = random_floats(static_cast<std::size_t>(m * k));
  std::vector<float> b(w.size()), c(static_cast<std::size_t>(n * m));
  std::vector<bf16> a16(a.size()), b16(b.size()), c16(c.size());
  pack_gemm_f32(m, k, k, w.data(), k, b.data());
  pack_gemm_bf16(m, k, k, w.data(), k, b16.data());
  round_bf16_kernel()(n * k, a.data(), a16.data());
  const double flop = 2.0 * static_cast<double>(n * m * k);
  const int rounds = static_cast<int>(1e8 / flop) + 1;
  auto rate = [&](auto product) {
    return rounds * flop * 1e-9 / seconds([&] {
             for (int r = 0; r < rounds; ++r) product();
           });
  };
  auto print = [&](const char* family, SimdLevel level, double gflops, double reference) {
    std::printf("%-10s n %4d m %4d k %3d  %-11s %7.1f GFLOP/s  %6.2fx\n", family,
                static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), level_name(level),
                gflops, gflops / reference);
  };
  double scalar = 0, best = 0;
  for (SimdLevel level : levels_of<GemmF32>(gemm_f32_kernel)) {
    const double gflops = rate([&, kernel = gemm_f32_kernel(level)] {
      kernel(n, m, k, a.data(), b.data(), c.data(), Epilogue::Store);
    });
    if (level == SimdLevel::Scalar) scalar = gflops;
    best = std::max(best, gflops);
    print("gemm_f32", level, gflops, scalar);
  }
  for (SimdLevel level : levels_of<GemmBf16>(gemm_bf16_kernel)) {
    const double gflops = rate([&, kernel = gemm_bf16_kernel(level)] {
      kernel(n, m, k, a16.data(), b16.data(), c.data(), c16.data(), Epilogue::Store);
    });
    print("gemm_bf16", level, gflops, best);
  }
}

}  // namespace

int main() {
  for (int nbits : {8, 7, 6, 5, 4}) lut_scan(8, nbits, 1 << 9);
  lut_scan(16, 8, 1 << 9);
  lut_scan(8, 8, 1 << 16);  // 32 MB of codes: beyond the caches
  for (int M : {8, 16, 32}) lut_scan_u8(M, 1 << 15, 0);
  const double bandwidth = read_bandwidth();
  for (int M : {8, 16}) lut_scan_u8(M, 1 << 24, bandwidth);
  gemm(128, 128, 128);
  gemm(128, 256, 128);
  gemm(128, 128, 256);
  gemm(128, 384, 384);
  gemm(16, 2048, 128);  // the tables of a block of queries
  gemm(1, 256, 128);
}
