#include "core/parallel.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/check.hpp"

using namespace fq;

TEST_CASE("parallel_for: each block once, workers in range") {
  for (int n_threads : {1, 2, 5})
    for (idx_t n_blocks : {0, 1, 2, 100}) {
      std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n_blocks));
      const Execution run{n_threads};
      std::atomic<bool> in_range{true};
      parallel_for(n_blocks, run, [&](idx_t block, int worker) {
        ++seen[static_cast<std::size_t>(block)];
        if (worker < 0 || worker >= n_workers(n_blocks, run)) in_range = false;
      });
      for (const auto& count : seen) CHECK(count == 1);
      CHECK(in_range);
    }
  CHECK_THROWS_AS(parallel_for(1, {0}, [](idx_t, int) {}), CheckError);
}

TEST_CASE("parallel_for: an exception of any worker reaches the caller") {
  for (int n_threads : {1, 3})
    CHECK_THROWS_WITH_AS(parallel_for(50, {n_threads},
                                      [](idx_t block, int) {
                                        if (block == 20) throw std::runtime_error("block 20");
                                      }),
                         "block 20", std::runtime_error);
}

TEST_CASE("parallel_for: interruption stops it soon") {
  using namespace std::chrono_literals;
  std::atomic<int> done{0};
  const Execution run{2, [] { return true; }};
  CHECK_THROWS_AS(parallel_for(1000, run,
                               [&](idx_t, int) {
                                 ++done;
                                 std::this_thread::sleep_for(10ms);
                               }),
                  Interrupted);
  CHECK(done < 100);
}
