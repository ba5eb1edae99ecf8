#include "core/shared_lock.hpp"

#include <pthread.h>

#include <algorithm>
#include <new>
#include <set>

#include "core/check.hpp"
#include "core/parallel.hpp"

namespace fq {
namespace {

template <class Ready>
void wait(std::condition_variable& changed, std::unique_lock<std::mutex>& guard,
          const std::function<bool()>& interrupted, Ready ready) {
  while (!changed.wait_for(guard, kPollInterval, ready)) {
    if (!interrupted) continue;
    guard.unlock();  // it may wait for what another thread holds, in Python the GIL
    const bool stop = interrupted();
    guard.lock();
    if (stop) throw Interrupted();
  }
}

}  // namespace

// All locks, for the child of a fork, which has none of the threads that were inside.
struct SharedLock::Registry {
  std::mutex mutex;
  std::set<SharedLock*> locks;

  static Registry& get() {
    static Registry& registry = *new Registry;  // outlives every lock
    return registry;
  }
  Registry() {
    pthread_atfork([] { get().mutex.lock(); }, [] { get().mutex.unlock(); },
                   [] {
                     for (SharedLock* lock : get().locks) lock->after_fork();
                     get().mutex.unlock();
                   });
  }
};

SharedLock::SharedLock() {
  Registry& registry = Registry::get();
  const std::lock_guard guard(registry.mutex);
  registry.locks.insert(this);
}

SharedLock::~SharedLock() {
  Registry& registry = Registry::get();
  const std::lock_guard guard(registry.mutex);
  registry.locks.erase(this);
}

void SharedLock::after_fork() {
  // They may be held by threads that are gone; to destroy them would wait for these.
  new (&mutex_) std::mutex;
  new (&changed_) std::condition_variable;
  n_readers_ = is_held() ? 1 : 0;
  n_long_ = n_waiting_writers_ = 0;
  is_torn_ = is_torn_ || is_written_;
  is_written_ = false;
}

void SharedLock::check_whole() const {
  check<StateError>(!is_torn_,
                    "this process was forked while another thread changed the index: it is of no "
                    "use here, read or copy one");
}

std::vector<const SharedLock*>& SharedLock::held() {
  thread_local std::vector<const SharedLock*> locks;
  return locks;
}

bool SharedLock::is_held() const {
  return std::find(held().begin(), held().end(), this) != held().end();
}

void SharedLock::check_may_write() const {
  check<StateError>(!is_held(), "an index cannot be changed inside a search of its own");
}

SharedLock::Reading::Reading(SharedLock& lock, const std::function<bool()>& interrupted,
                             bool is_long)
    : lock_(lock), is_long_(is_long && !lock.is_held()) {
  const bool inside = lock.is_held();
  held().push_back(&lock);
  if (inside) return;
  std::unique_lock guard(lock.mutex_);
  try {
    wait(lock.changed_, guard, interrupted,
         [&] { return !lock.is_written_ && (lock.n_waiting_writers_ == 0 || lock.n_long_ > 0); });
  } catch (...) {
    held().pop_back();
    throw;
  }
  if (lock.is_torn_) held().pop_back();
  lock.check_whole();
  ++lock.n_readers_;
  lock.n_long_ += is_long_;
}

SharedLock::Reading::~Reading() {
  const auto last = std::find(held().rbegin(), held().rend(), &lock_);
  held().erase(std::next(last).base());
  if (lock_.is_held()) return;
  const std::lock_guard guard(lock_.mutex_);
  lock_.n_long_ -= is_long_;
  if (--lock_.n_readers_ == 0) lock_.changed_.notify_all();
}

SharedLock::Writing::Writing(SharedLock& lock, const std::function<bool()>& interrupted)
    : lock_(lock) {
  lock.check_may_write();
  std::unique_lock guard(lock.mutex_);
  ++lock.n_waiting_writers_;
  try {
    wait(lock.changed_, guard, interrupted,
         [&] { return !lock.is_written_ && lock.n_readers_ == 0; });
  } catch (...) {
    if (!guard) guard.lock();  // what was asked has thrown
    if (--lock.n_waiting_writers_ == 0) lock.changed_.notify_all();
    throw;
  }
  --lock.n_waiting_writers_;
  lock.check_whole();
  lock.is_written_ = true;
}

SharedLock::Writing::~Writing() {
  const std::lock_guard guard(lock_.mutex_);
  lock_.is_written_ = false;
  lock_.changed_.notify_all();
}

}  // namespace fq
