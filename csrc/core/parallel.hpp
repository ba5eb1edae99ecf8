// Blocks of work over std::thread. No OpenMP: its runtimes collide with those of torch and faiss.
#pragma once

#include <exception>
#include <functional>

#include "core/types.hpp"

namespace fq {

struct Interrupted : std::exception {
  const char* what() const noexcept override { return "interrupted"; }
};

// Number of workers that parallel_for uses at most: `worker` below is smaller than this.
int n_workers(idx_t n_blocks, const Execution& run);

// Calls fn(block, worker) for each block in [0, n_blocks). The calling thread is worker 0 and
// polls run.interrupted; threads live only during the call, so a fork between calls is safe.
// The first exception of any worker is rethrown here once all have stopped.
void parallel_for(idx_t n_blocks, const Execution& run,
                  const std::function<void(idx_t block, int worker)>& fn);

}  // namespace fq
