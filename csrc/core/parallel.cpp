#include "core/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "core/check.hpp"
#include "core/shared_lock.hpp"

namespace fq {

int n_workers(idx_t n_blocks, const Execution& run) {
  check(run.n_threads >= 1, "n_threads: expected at least 1, got ", run.n_threads);
  return static_cast<int>(std::clamp<idx_t>(n_blocks, 1, run.n_threads));
}

void parallel_for(idx_t n_blocks, const Execution& run, const std::function<void(idx_t, int)>& fn) {
  std::atomic<idx_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::exception_ptr error;

  const std::vector<const SharedLock*> held = SharedLock::held();
  Poll poll(run);

  auto work = [&](int worker) {
    try {
      if (worker > 0) SharedLock::held() = held;
      while (!stop.load(std::memory_order_relaxed)) {
        const idx_t block = next.fetch_add(1, std::memory_order_relaxed);
        if (block >= n_blocks) return;
        fn(block, worker);
        if (worker == 0) poll();
      }
    } catch (...) {
      stop = true;
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  };

  const int n = n_workers(n_blocks, run);
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(n - 1));
  try {
    for (int worker = 1; worker < n; ++worker) threads.emplace_back(work, worker);
  } catch (...) {
    // No more threads, or no memory for one: those that run do all the blocks.
  }
  work(0);
  for (auto& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace fq
