// Readers together, or one writer alone. A waiting writer goes before readers that come later, so
// that a stream of searches cannot keep an add waiting for ever; but while it has to wait for a
// long reading, such as a save, others may read as well. Waits can be interrupted.
//
// A thread may read inside its own reading, also while a writer waits, and so may the workers that
// it runs by parallel_for: a filter that is called by a search can search. It cannot write there:
// it would wait for itself. In the child of a fork the other threads are not there, and their
// readings are not either; if one of them was writing, what the lock protects is of no use there.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

namespace fq {

class SharedLock {
 public:
  SharedLock();
  ~SharedLock();
  SharedLock(const SharedLock&) = delete;
  SharedLock& operator=(const SharedLock&) = delete;

  // While they live. They wait until they may, and throw Interrupted once `interrupted`, which may
  // be null and is asked now and then by this thread, says so. To be destroyed by the same thread.
  class Reading {
   public:
    Reading(SharedLock& lock, const std::function<bool()>& interrupted, bool is_long = false);
    ~Reading();
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;

   private:
    SharedLock& lock_;
    bool is_long_;
  };
  class Writing {
   public:
    Writing(SharedLock& lock, const std::function<bool()>& interrupted);
    ~Writing();
    Writing(const Writing&) = delete;
    Writing& operator=(const Writing&) = delete;

   private:
    SharedLock& lock_;
  };

  bool may_write() const { return !is_held(); }  // false inside a reading of this thread
  void check_may_write() const;                  // or StateError

  // The locks that this thread reads under, an entry for each Reading. parallel_for gives its
  // workers those of the caller.
  static std::vector<const SharedLock*>& held();

 private:
  bool is_held() const;
  void check_whole() const;
  void after_fork();  // in the child
  struct Registry;

  std::mutex mutex_;
  std::condition_variable changed_;
  int n_readers_ = 0, n_long_ = 0, n_waiting_writers_ = 0;
  bool is_written_ = false, is_torn_ = false;  // torn: by a fork in the middle of a change
};

}  // namespace fq
