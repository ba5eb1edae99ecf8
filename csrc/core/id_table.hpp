// A hash table from ids, any at all, to numbers: 16 bytes a slot, a quarter of them empty at least.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "core/types.hpp"

namespace fq {

class IdTable {
 public:
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};  // no number is this one

  std::size_t size() const { return size_; }
  std::size_t allocated() const { return slots_.capacity() * sizeof(Slot); }

  // Room for n ids. May throw, and then changes nothing; put cannot fail for what was reserved.
  void reserve(std::size_t n) {
    if (n_slots_for(n) > slots_.size()) rehash(n_slots_for(n));
  }
  // Gives back what no growth to come justifies. May throw as reserve.
  void release_unused() {
    if (size_ * 8 < slots_.size() * 3) rehash(n_slots_for(size_));
  }

  // The number of an id, to be read or replaced; null: there is none.
  std::uint64_t* find(idx_t id) {
    if (slots_.empty()) return nullptr;
    Slot& slot = slots_[slot_of(id)];
    return slot.number == kNone ? nullptr : &slot.number;
  }
  const std::uint64_t* find(idx_t id) const { return const_cast<IdTable*>(this)->find(id); }

  void put(idx_t id, std::uint64_t number) {
    Slot& slot = slots_[slot_of(id)];
    size_ += slot.number == kNone;
    slot = {id, number};
  }

  void erase(idx_t id) {
    if (!find(id)) return;
    --size_;
    // Those behind it move up, unless the slot they belong in comes after the gap.
    std::size_t gap = slot_of(id);
    for (std::size_t i = gap;;) {
      i = (i + 1) & mask();
      if (slots_[i].number == kNone) break;
      if (((i - home(slots_[i].id)) & mask()) < ((i - gap) & mask())) continue;
      slots_[gap] = slots_[i];
      gap = i;
    }
    slots_[gap].number = kNone;
  }

 private:
  struct Slot {
    idx_t id;
    std::uint64_t number;
  };

  static std::size_t n_slots_for(std::size_t n) { return std::bit_ceil(n * 4 / 3 + 1); }
  void rehash(std::size_t n_slots) {
    std::vector<Slot> before(n_slots, Slot{0, kNone});
    before.swap(slots_);
    size_ = 0;
    for (const Slot& slot : before)
      if (slot.number != kNone) put(slot.id, slot.number);
  }
  std::size_t mask() const { return slots_.size() - 1; }
  std::size_t home(idx_t id) const {  // murmur's mixing: ids come in patterns
    auto h = static_cast<std::uint64_t>(id);
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdu;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53u;
    return static_cast<std::size_t>(h ^ (h >> 33)) & mask();
  }
  std::size_t slot_of(idx_t id) const {  // its own, or an empty one
    std::size_t i = home(id);
    while (slots_[i].number != kNone && slots_[i].id != id) i = (i + 1) & mask();
    return i;
  }

  std::size_t size_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace fq
