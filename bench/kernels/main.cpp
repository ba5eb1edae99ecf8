// Kernel times of every level that this CPU can run, against scalar; one thread, best of 7.
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
  auto levels = available_levels();
  std::reverse(levels.begin(), levels.end());
  for (SimdLevel level : levels) {
    const LutScan kernel = lut_scan_kernel(level);
    const double s = seconds([&] {
      float out[kScanBlock];
      for (int b = 0; b < n_blocks; ++b) {
        kernel(codes.data() + block_bytes * static_cast<std::size_t>(b), M, nbits, lut.data(), out);
        sink = sink + out[b % kScanBlock];
      }
    });
    if (level == SimdLevel::Scalar) scalar = s;
    std::printf("lut_scan  M %2d nbits %d  %7d codes  %-8s %7.3f ns/code  %5.1fx\n", M, nbits,
                n_blocks * kScanBlock, level_name(level), s * 1e9 / (n_blocks * kScanBlock),
                scalar / s);
  }
}

void gemm_f32(idx_t n, idx_t m, idx_t k) {
  const auto a = random_floats(static_cast<std::size_t>(n * k));
  const auto b = random_floats(static_cast<std::size_t>(k * m));
  std::vector<float> c(static_cast<std::size_t>(n * m));
  const double flop = 2.0 * static_cast<double>(n * m * k);
  const int rounds = static_cast<int>(1e8 / flop) + 1;
  double scalar = 0;
  auto levels = available_levels();
  std::reverse(levels.begin(), levels.end());
  for (SimdLevel level : levels) {
    const GemmF32 kernel = gemm_f32_kernel(level);
    const double s = seconds([&] {
      for (int r = 0; r < rounds; ++r)
        kernel(n, m, k, a.data(), b.data(), c.data(), Epilogue::Store);
    });
    if (level == SimdLevel::Scalar) scalar = s;
    std::printf("gemm_f32  n %4d m %4d k %3d         %-8s %7.1f GFLOP/s  %5.1fx\n",
                static_cast<int>(n), static_cast<int>(m), static_cast<int>(k), level_name(level),
                rounds * flop / s * 1e-9, scalar / s);
  }
}

}  // namespace

int main() {
  for (int nbits : {8, 7, 6, 5, 4}) lut_scan(8, nbits, 1 << 9);
  lut_scan(16, 8, 1 << 9);
  lut_scan(8, 8, 1 << 16);  // 32 MB of codes: beyond the caches
  gemm_f32(128, 128, 128);
  gemm_f32(128, 256, 128);
  gemm_f32(128, 128, 256);
  gemm_f32(128, 384, 384);
  gemm_f32(16, 2048, 128);  // the tables of a block of queries
  gemm_f32(1, 256, 128);
}
