// Bytes of a list: its own, or a view of a file's, which are copied before the first change. Its
// own begin at a cache line.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace fq {

class Bytes {
 public:
  Bytes() = default;
  Bytes(Bytes&& other) noexcept { swap(other); }
  Bytes& operator=(Bytes&& other) noexcept {
    Bytes(std::move(other)).swap(*this);
    return *this;
  }
  ~Bytes() {
    if (capacity_ > 0) ::operator delete[](data_, kAlignment);
  }

  // They must outlive it.
  static Bytes view(const std::uint8_t* data, std::size_t n) {
    Bytes bytes;
    bytes.data_ = const_cast<std::uint8_t*>(data);
    bytes.size_ = n;
    return bytes;
  }

  std::size_t size() const { return size_; }
  const std::uint8_t* data() const { return data_; }
  std::size_t allocated() const { return capacity_; }

  // To be changed; after a reserve() that did not throw, or where nothing is to be.
  std::uint8_t* mutable_data() { return data_; }

  // Bytes of its own, and room for n in all: exactly, the first time, then by geometric growth with
  // half the slack of doubling. May throw, and then changes nothing.
  void reserve(std::size_t n) {
    n = std::max(n, size_);
    if (n <= capacity_) return;
    move_to(capacity_ == 0 ? n : std::max(n, capacity_ + capacity_ / 2));
  }

  // Within what is reserved. New bytes are zero.
  void resize(std::size_t n) noexcept {
    if (n > size_) std::fill(data_ + size_, data_ + n, std::uint8_t{0});
    size_ = n;
  }

  // Gives back what no growth to come justifies, unless there is no memory to copy to.
  void release_unused() noexcept {
    if (size_ >= capacity_ / 2) return;
    try {
      size_ == 0 ? Bytes().swap(*this) : move_to(size_);
    } catch (const std::bad_alloc&) {
    }
  }

  void swap(Bytes& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

 private:
  static constexpr std::align_val_t kAlignment{64};

  void move_to(std::size_t capacity) {
    Bytes moved;
    moved.data_ = static_cast<std::uint8_t*>(::operator new[](capacity, kAlignment));
    moved.capacity_ = capacity;
    moved.size_ = size_;
    std::copy_n(data_, size_, moved.data_);
    swap(moved);
  }

  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0, capacity_ = 0;  // capacity 0: not its own
};

}  // namespace fq
