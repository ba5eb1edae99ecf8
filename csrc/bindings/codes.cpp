#include <algorithm>

#include "bindings/arrays.hpp"
#include "core/bitpack.hpp"
#include "core/inverted_lists.hpp"

namespace fq::bind {
namespace {

Bytes pack(const Bytes& codes, int nbits) {
  check_array("codes", codes, {kAny, kAny});
  const auto n = codes.shape(0);
  const int M = static_cast<int>(std::min<py::ssize_t>(codes.shape(1), 1 << 20));
  check_code_shape(M, nbits);
  Bytes out({n, static_cast<py::ssize_t>(packed_size(M, nbits))});
  pack_codes(n, M, nbits, codes.data(), out.mutable_data());
  return out;
}

Bytes unpack(const Bytes& packed, int M, int nbits) {
  check_code_shape(M, nbits);
  check_array("packed", packed, {kAny, packed_size(M, nbits)});
  Bytes out({packed.shape(0), static_cast<py::ssize_t>(M)});
  unpack_codes(packed.shape(0), M, nbits, packed.data(), out.mutable_data());
  return out;
}

}  // namespace

void bind_codes(py::module_& m) {
  using py::arg;
  m.def("pack_codes", pack, arg("codes"), arg("nbits"),
        "(n, M) uint8, one byte per step -> (n, ceil(M * nbits / 8)) uint8, low bits first.");
  m.def("unpack_codes", unpack, arg("packed"), arg("M"), arg("nbits"),
        "The inverse of pack_codes: (n, M) uint8.");
}

}  // namespace fq::bind
