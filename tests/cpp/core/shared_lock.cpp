#include "core/shared_lock.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "core/check.hpp"
#include "core/parallel.hpp"

using namespace fq;
using namespace std::chrono_literals;

namespace {
const std::function<bool()> kNever;
}

TEST_CASE("shared lock: concurrent readers see no writer, and a writer nobody") {
  SharedLock lock;
  std::atomic<int> readers{0}, writers{0}, wrong{0}, together{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i)
        if (t < 4) {
          const SharedLock::Reading reading(lock, kNever);
          together = std::max<int>(together, ++readers);
          wrong += writers != 0;
          --readers;
        } else {
          const SharedLock::Writing writing(lock, kNever);
          wrong += ++writers != 1 || readers != 0;
          --writers;
        }
    });
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(SharedLock::held().empty());
}

TEST_CASE("shared lock: concurrent readers pass a writer that waits for a long reading") {
  SharedLock lock;
  std::atomic<bool> written{false};
  std::optional<SharedLock::Reading> save;
  save.emplace(lock, kNever, true);
  std::thread writer([&] {
    const SharedLock::Writing writing(lock, kNever);
    written = true;
  });
  std::this_thread::sleep_for(5ms);
  std::thread([&] { const SharedLock::Reading reading(lock, kNever); }).join();
  CHECK(!written);
  save.reset();
  writer.join();
  CHECK(written);
}

TEST_CASE("shared lock: concurrent readers cannot keep a writer out") {
  SharedLock lock;
  std::atomic<bool> written{false};
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; ++t)
    readers.emplace_back([&] {
      while (!written) {
        const SharedLock::Reading reading(lock, kNever);
        std::this_thread::sleep_for(2ms);
      }
    });
  std::this_thread::sleep_for(5ms);
  {
    const SharedLock::Writing writing(lock, kNever);
    written = true;
  }
  for (auto& thread : readers) thread.join();
}

TEST_CASE("shared lock: a reading inside a reading waits for nobody, a writing is refused") {
  SharedLock lock, other;
  std::thread writer;
  {
    const SharedLock::Reading outer(lock, kNever);
    writer = std::thread([&] { const SharedLock::Writing writing(lock, kNever); });
    std::this_thread::sleep_for(20ms);  // it waits by now
    const SharedLock::Reading inner(lock, kNever);
    std::atomic<int> n_inside{0};
    parallel_for(50, {3}, [&](idx_t, int) {
      const SharedLock::Reading by_worker(lock, kNever);
      CHECK_THROWS_AS(lock.check_may_write(), StateError);
      ++n_inside;
      std::this_thread::sleep_for(1ms);
    });
    CHECK(n_inside == 50);
    CHECK_THROWS_WITH_AS(SharedLock::Writing(lock, kNever),
                         "an index cannot be changed inside a search of its own", StateError);
    const SharedLock::Writing another(other, kNever);
  }
  writer.join();
  CHECK_NOTHROW(lock.check_may_write());
  const SharedLock::Writing writing(lock, kNever);
}

TEST_CASE("shared lock: readings may end in any order") {
  SharedLock a, b;
  auto first = std::make_unique<SharedLock::Reading>(a, kNever);
  auto other = std::make_unique<SharedLock::Reading>(b, kNever);
  auto second = std::make_unique<SharedLock::Reading>(a, kNever);
  first.reset();
  CHECK_THROWS_AS(a.check_may_write(), StateError);
  second.reset();
  const SharedLock::Writing writing(a, kNever);
  CHECK_THROWS_AS(b.check_may_write(), StateError);
}

TEST_CASE("shared lock: a wait ends when it is interrupted, and leaves nothing behind") {
  SharedLock lock;
  const std::function<bool()> at_once = [] { return true; };
  {
    const SharedLock::Reading reading(lock, kNever);
    std::thread([&] {
      CHECK_THROWS_AS(SharedLock::Writing(lock, at_once), Interrupted);
      const SharedLock::Reading beside(lock, kNever);  // no writer waits any more
    }).join();
  }
  {
    const SharedLock::Writing writing(lock, kNever);
    std::thread([&] {
      CHECK_THROWS_AS(SharedLock::Reading(lock, at_once), Interrupted);
      CHECK(SharedLock::held().empty());
    }).join();
  }
  const SharedLock::Writing writing(lock, at_once);  // nothing to wait for
}
