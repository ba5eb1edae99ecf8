// Blocks of work over std::thread. No OpenMP: its runtimes collide with those of torch and faiss.
#pragma once

#include <chrono>
#include <exception>
#include <functional>

#include "core/types.hpp"

namespace fq {

struct Interrupted : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

constexpr auto kPollInterval = std::chrono::milliseconds(50);

// Called often by the calling thread, throws Interrupted soon after `run` has been.
class Poll {
 public:
  explicit Poll(const Execution& run) : run_(run) {}
  void operator()() {
    if (!run_.interrupted || Clock::now() - last_ < kPollInterval) return;
    if (run_.interrupted()) throw Interrupted();
    last_ = Clock::now();
  }

 private:
  using Clock = std::chrono::steady_clock;
  const Execution& run_;
  Clock::time_point last_ = Clock::now();
};

// Number of workers that parallel_for uses at most: `worker` below is smaller than this.
int n_workers(idx_t n_blocks, const Execution& run);

// Calls fn(block, worker) for each block in [0, n_blocks). The calling thread is worker 0 and
// polls run.interrupted; threads live only during the call, so a fork between calls is safe.
// They read under the locks that the caller reads under. Where threads cannot be had, fewer do it.
// The first exception of any worker is rethrown here once all have stopped.
void parallel_for(idx_t n_blocks, const Execution& run,
                  const std::function<void(idx_t block, int worker)>& fn);

}  // namespace fq
