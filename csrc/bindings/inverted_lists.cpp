#include "core/inverted_lists.hpp"

#include "bindings/arrays.hpp"
#include "core/bitpack.hpp"

namespace fq::bind {
namespace {

// Changes hold the GIL, so that two Python threads cannot change the lists at once.

Ids add(InvertedLists& self, const Ids& list_no, const Bytes& codes, const Floats& bias,
        const Ids& ids) {
  check_array("list_no", list_no, {kAny});
  const auto n = list_no.shape(0);
  check_array("codes", codes, {n, self.M()});
  check_array("bias", bias, {n});
  check_array("ids", ids, {n});
  Ids offsets(n);
  self.add(n, list_no.data(), codes.data(), bias.data(), ids.data(), offsets.mutable_data());
  return offsets;
}

Ids sizes(const InvertedLists& self) {
  Ids out(self.nlist());
  for (idx_t l = 0; l < self.nlist(); ++l) out.mutable_at(l) = self.list(l).size();
  return out;
}

Bytes get_codes(const InvertedLists& self, idx_t list_no) {
  const idx_t n = self.list(list_no).size();
  Bytes out({n, static_cast<idx_t>(self.M())});
  for (idx_t o = 0; o < n; ++o) self.read_code(list_no, o, out.mutable_data() + o * self.M());
  return out;
}

Bytes gather(const InvertedLists& self, const Ids& list_no, const Ids& offset) {
  check_array("list_no", list_no, {kAny});
  const auto n = list_no.shape(0);
  check_array("offset", offset, {n});
  Bytes out({n, static_cast<py::ssize_t>(self.M())});
  std::uint8_t* codes = out.mutable_data();
  const py::gil_scoped_release nogil;
  self.gather(n, list_no.data(), offset.data(), codes);
  return out;
}

py::tuple locate(const InvertedLists& self, idx_t id0, idx_t n) {
  check(n >= 0, "n: expected at least 0, got ", n);
  Ids list_no(n), offset(n);
  idx_t *l = list_no.mutable_data(), *o = offset.mutable_data();
  {
    const py::gil_scoped_release nogil;
    self.locate(id0, n, l, o);
  }
  return py::make_tuple(list_no, offset);
}

py::tuple export_lists(const InvertedLists& self) {
  const idx_t n = self.ntotal();
  Bytes codes({n, static_cast<idx_t>(self.code_size())});
  Floats bias(n);
  Ids ids(n);
  std::uint8_t* c = codes.mutable_data();
  float* b = bias.mutable_data();
  idx_t* i = ids.mutable_data();
  {
    const py::gil_scoped_release nogil;
    self.export_to(c, b, i);
  }
  return py::make_tuple(codes, bias, ids);
}

void import_lists(InvertedLists& self, const Ids& sizes, const Bytes& codes, const Floats& bias,
                  const Ids& ids) {
  check_array("sizes", sizes, {self.nlist()});
  check_array("codes", codes, {kAny, self.code_size()});
  check_array("bias", bias, {codes.shape(0)});
  check_array("ids", ids, {codes.shape(0)});
  self.import_from(sizes.data(), codes.shape(0), codes.data(), bias.data(), ids.data());
}

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

void bind_inverted_lists(py::module_& m) {
  using py::arg;
  py::class_<InvertedLists>(
      m, "InvertedLists",
      "Codes, bias (float32) and ids of the stored vectors, list by list. A vector costs code_size "
      "+ 4 bytes, and those of its id: none while the ids of a list are its offsets, else 4, 5 or "
      "8, what the widest id of the list needs. Concurrent reads are safe; a change must not "
      "overlap with a search.")
      .def(py::init<idx_t, int, int>(), arg("nlist"), arg("M"), arg("nbits") = 8,
           "M codes of nbits (4 to 8) per vector.")
      .def_property_readonly("nlist", &InvertedLists::nlist)
      .def_property_readonly("M", &InvertedLists::M)
      .def_property_readonly("nbits", &InvertedLists::nbits)
      .def_property_readonly("code_size", &InvertedLists::code_size,
                             "Bytes of a packed code, ceil(M * nbits / 8).")
      .def_property_readonly("ntotal", &InvertedLists::ntotal, "Number of stored vectors.")
      .def(
          "add", add, arg("list_no"), arg("codes"), arg("bias"), arg("ids"),
          "Append entries: list_no (n) int64, codes (n, M) uint8 one byte per step, bias (n) "
          "float32, ids (n) int64. Entries with list_no -1 are not stored. Returns the offsets (n) "
          "int64 inside their lists, -1 where not stored. Nothing is stored if it raises.")
      .def("sizes", sizes, "Sizes of the lists, (nlist) int64.")
      .def("get_codes", get_codes, arg("list_no"), "Codes of a list, (size, M) uint8.")
      .def(
          "get_ids",
          [](const InvertedLists& self, idx_t list_no) {
            const auto& ids = self.list(list_no).ids;
            Ids out(ids.size());
            for (idx_t o = 0; o < ids.size(); ++o) out.mutable_at(o) = ids[o];
            return out;
          },
          arg("list_no"), "Ids of a list, (size) int64; a copy.")
      .def(
          "get_bias",
          [](const InvertedLists& self, idx_t list_no) {
            const auto& bias = self.list(list_no).bias;
            return Floats(static_cast<py::ssize_t>(bias.size()), bias.data());
          },
          arg("list_no"), "Bias of a list, (size) float32; a copy.")
      .def(
          "gather", gather, arg("list_no"), arg("offset"),
          "Codes (n, M) uint8 of the entries (list_no, offset), both (n) int64; a row of 255 where "
          "list_no is -1.")
      .def("locate", locate, arg("id0"), arg("n"),
           "Where the ids id0 .. id0 + n - 1 are stored: (list_no, offset), both (n) int64, -1 "
           "where "
           "they are not; of duplicates the last in list order. Reads all ids.")
      .def(
          "memory",
          [](const InvertedLists& self) {
            const auto memory = self.memory();
            py::dict out;
            out["codes"] = memory.codes;
            out["bias"] = memory.bias;
            out["ids"] = memory.ids;
            return out;
          },
          "Bytes allocated for codes, bias and ids, room to grow included.")
      .def("reset", &InvertedLists::reset, "Remove all entries.")
      .def("export", export_lists,
           "(codes (ntotal, code_size) uint8 packed, bias (ntotal) float32, ids (ntotal) int64), "
           "list after list; with sizes(), all there is to save.")
      .def("import_", import_lists, arg("sizes"), arg("codes"), arg("bias"), arg("ids"),
           "Replace the contents by what `export` gave; sizes (nlist) int64.");
  m.def("pack_codes", pack, arg("codes"), arg("nbits"),
        "(n, M) uint8, one byte per step -> (n, ceil(M * nbits / 8)) uint8, low bits first.");
  m.def("unpack_codes", unpack, arg("packed"), arg("M"), arg("nbits"),
        "The inverse of pack_codes: (n, M) uint8.");
}

}  // namespace fq::bind
