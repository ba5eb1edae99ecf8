#include "core/bytes.hpp"

#include <doctest/doctest.h>

using namespace fq;

TEST_CASE("bytes: many small reservations copy few times, and waste half at most") {
  Bytes bytes;
  int n_copies = 0;
  for (std::size_t n = 1; n <= 100'000; ++n) {
    const std::size_t before = bytes.allocated();
    bytes.reserve(n);
    bytes.resize(n);
    n_copies += bytes.allocated() != before;
    CHECK(bytes.allocated() <= n + n / 2 + 1);
  }
  CHECK(n_copies < 40);  // log of 100,000 to the base 1.5 is 28.4
  for (std::size_t n = 1; n < 100'000; ++n) CHECK(bytes.data()[n] == 0);
}

TEST_CASE("bytes: the first reservation is exact, a view gets bytes of its own") {
  Bytes bytes;
  bytes.reserve(1000);
  CHECK(bytes.allocated() == 1000);
  const std::uint8_t file[] = {1, 2, 3};
  Bytes view = Bytes::view(file, 3);
  CHECK(view.allocated() == 0);
  view.reserve(0);
  CHECK(view.data() != file);
  CHECK(view.allocated() == 3);
  view.mutable_data()[0] = 9;
  CHECK(file[0] == 1);
  CHECK(view.data()[2] == 3);
}
