#include "core/list_builder.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "bindings/arrays.hpp"
#include "bindings/sections.hpp"

namespace fq::bind {
namespace {

using ListNos = Array<std::uint32_t>;
using Halves = Array<std::uint16_t>;

ListBuilder::Rows rows_of(const ListNos& list_no, const std::optional<Ids>& ids, idx_t first_id) {
  check_array("list_no", list_no, {kAny});
  if (ids) check_array("ids", *ids, {list_no.shape(0)});
  ListBuilder::Rows rows;
  rows.n = list_no.shape(0);
  rows.list_no = list_no.data();
  rows.ids = data_or_null(ids);
  rows.first_id = first_id;
  return rows;
}

void count(ListBuilder& self, const ListNos& list_no, const std::optional<Ids>& ids,
           idx_t first_id) {
  const ListBuilder::Rows rows = rows_of(list_no, ids, first_id);
  const py::gil_scoped_release nogil;
  self.count(rows);
}

void fill(ListBuilder& self, const ListNos& list_no, const Bytes& codes,
          const std::optional<Halves>& beside, const std::optional<Ids>& ids, idx_t first_id,
          int n_threads) {
  ListBuilder::Rows rows = rows_of(list_no, ids, first_id);
  check_array("codes", codes, {rows.n, self.code_size()});
  if (beside) check_array("beside", *beside, {rows.n});
  check(beside.has_value() == (self.beside() != Beside::Nothing), "beside: expected ",
        beside ? "none" : "some");
  rows.codes = codes.data();
  rows.beside = data_or_null(beside);
  const Execution run = execution(n_threads);
  const py::gil_scoped_release nogil;
  self.fill(rows, run);
}

void finish(ListBuilder& self, int n_threads) {
  const Execution run = execution(n_threads);
  const py::gil_scoped_release nogil;
  self.finish(run);
}

py::tuple heads(const ListBuilder& self) {
  return heads_of(self.nlist(), [&](idx_t l) { return self.head(l); });
}

py::tuple nbytes(const ListBuilder& self) {
  Ids blocks(self.nlist()), ids(self.nlist());
  for (idx_t l = 0; l < self.nlist(); ++l) {
    blocks.mutable_at(l) = static_cast<idx_t>(self.blocks_nbytes(l));
    ids.mutable_at(l) = static_cast<idx_t>(self.ids_nbytes(l));
  }
  return py::make_tuple(blocks, ids);
}

py::tuple export_section(const py::object& builder, bool ids, idx_t list_no, std::size_t part) {
  return export_section_of(builder.cast<const ListBuilder&>().lists(), builder, ids, list_no, part);
}

}  // namespace

void bind_list_builder(py::module_& m) {
  using py::arg;
  const auto none = py::none();
  py::class_<ListBuilder>(
      m, "ListBuilder",
      "The lists of an index for its file, from rows that are gone through several times: first "
      "`count` of all of them; then, for some lists at a time, `begin`, `fill` of the same rows in "
      "the same order, `finish`, and `export_section`. What an add of all rows to an empty index "
      "makes. Not for several threads at once.")
      .def(py::init([](idx_t nlist, int M, int nbits, bool beside) {
             return std::make_unique<ListBuilder>(nlist, M, nbits,
                                                  beside ? Beside::Bias : Beside::Nothing);
           }),
           py::kw_only(), arg("nlist"), arg("M"), arg("nbits"), arg("beside"),
           "beside: whether two bytes stand beside a code.")
      .def("count", count, arg("list_no"), arg("ids").none(true), arg("first_id"),
           "list_no (n) uint32, 0xFFFFFFFF for rows that are not stored; ids (n), None: from "
           "first_id on.")
      .def("heads", heads, "As those of Engine, of what was counted.")
      .def("nbytes", nbytes, "Of the scan blocks and of the ids of each list: two (nlist) int64.")
      .def("begin", &ListBuilder::begin, arg("first"), arg("last"), "Lists first .. last - 1.")
      .def("fill", fill, arg("list_no"), arg("codes"), arg("beside").none(true),
           arg("ids").none(true), arg("first_id"), arg("n_threads") = 1,
           "codes (n, code_size) packed; beside (n) uint16, as they are stored.")
      .def("finish", finish, arg("n_threads") = 1)
      .def("export_section", export_section, arg("ids"), arg("list_no"), arg("part"),
           "As that of Engine, of the lists since `begin`, numbered from 0 on.");
}

}  // namespace fq::bind
