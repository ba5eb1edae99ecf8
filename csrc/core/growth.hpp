// Room for what is added little by little.
#pragma once

#include <algorithm>
#include <vector>

namespace fq {

// Geometric growth, with half the slack of doubling.
template <class T>
void reserve_for(std::vector<T>& v, std::size_t n) {
  if (n > v.capacity()) v.reserve(std::max(n, v.capacity() + v.capacity() / 2));
}

}  // namespace fq
