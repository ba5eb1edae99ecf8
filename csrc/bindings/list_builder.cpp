#include "core/list_builder.hpp"

#include <pybind11/stl.h>

#include <limits>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/heads.hpp"

namespace fq::bind {
namespace {

using Numbers = Array<std::uint32_t>;
using Halves = Array<std::uint16_t>;

void check_rows(idx_t n, const std::optional<Ids>& ids, idx_t first_id) {
  if (ids) check_array("ids", *ids, {n});
  check(first_id >= 0 && first_id <= std::numeric_limits<idx_t>::max() - n,
        "first_id: expected a number with room for those that follow, got ", first_id);
}

void count(ListBuilder& self, const Numbers& list_no, const std::optional<Ids>& ids,
           idx_t first_id) {
  check_array("list_no", list_no, {kAny});
  const idx_t n = list_no.shape(0);
  check_rows(n, ids, first_id);
  const py::gil_scoped_release nogil;
  self.count(n, list_no.data(), data_or_null(ids), first_id);
}

py::tuple counts(const ListBuilder& self) {
  const idx_t n = self.nlist();
  Ids sizes(n), least(n), most(n);
  Bytes are_offsets(n);
  for (idx_t l = 0; l < n; ++l) {
    const ListBuilder::Count& count = self.counts()[static_cast<std::size_t>(l)];
    sizes.mutable_at(l) = count.n;
    least.mutable_at(l) = count.least;
    most.mutable_at(l) = count.most;
    are_offsets.mutable_at(l) = count.are_offsets;
  }
  return py::make_tuple(sizes, least, most, are_offsets);
}

void set_counts(ListBuilder& self, const Ids& sizes, const Ids& least, const Ids& most,
                const Bytes& are_offsets) {
  const idx_t n = self.nlist();
  check_array("sizes", sizes, {n});
  check_array("least", least, {n});
  check_array("most", most, {n});
  check_array("are_offsets", are_offsets, {n});
  std::vector<ListBuilder::Count> given;
  for (idx_t l = 0; l < n; ++l)
    given.push_back({sizes.at(l), least.at(l), most.at(l), are_offsets.at(l) != 0});
  self.set_counts(std::move(given));
}

py::tuple heads(const ListBuilder& self) {
  return heads_of(self.nlist(), [&](idx_t l) { return self.head(l); });
}

py::tuple nbytes(const ListBuilder& self) {
  const idx_t n = self.nlist();
  Ids blocks(n), ids(n);
  for (idx_t l = 0; l < n; ++l) {
    blocks.mutable_at(l) = static_cast<idx_t>(self.block_nbytes(l));
    ids.mutable_at(l) = static_cast<idx_t>(self.ids_nbytes(l));
  }
  return py::make_tuple(blocks, ids);
}

void add(ListBuilder& self, const Numbers& list_no, const Bytes& codes,
         const std::optional<Halves>& beside, const std::optional<Ids>& ids, idx_t first_id,
         int n_threads) {
  check_array("list_no", list_no, {kAny});
  const idx_t n = list_no.shape(0);
  check_array("codes", codes, {n, self.code_size()});
  if (beside) check_array("beside", *beside, {n});
  check_rows(n, ids, first_id);
  const Execution run = execution(n_threads);
  const py::gil_scoped_release nogil;
  self.add(n, list_no.data(), codes.data(), data_or_null(beside), data_or_null(ids), first_id, run);
}

py::tuple write(const ListBuilder& self, idx_t first, idx_t end, int n_threads) {
  check(first >= 0 && first <= end && end <= self.nlist(), "first, end: expected lists of ",
        self.nlist(), ", got ", first, ", ", end);
  std::size_t n_blocks = 0, n_ids = 0;
  for (idx_t l = first; l < end; ++l) {
    n_blocks += self.block_nbytes(l);
    n_ids += self.ids_nbytes(l);
  }
  Bytes blocks(static_cast<idx_t>(n_blocks)), ids(static_cast<idx_t>(n_ids));
  std::uint8_t *to_blocks = blocks.mutable_data(), *to_ids = ids.mutable_data();
  {
    const Execution run = execution(n_threads);
    const py::gil_scoped_release nogil;
    self.write(first, end, to_blocks, to_ids, run);
  }
  return py::make_tuple(blocks, ids);
}

}  // namespace

void bind_list_builder(py::module_& m) {
  using py::arg;
  const auto none = py::none();
  py::class_<ListBuilder>(
      m, "ListBuilder",
      "The lists of an index file, of rows that come twice: to be counted, and then, some lists at "
      "a time, to be stored. Not for several threads at once.")
      .def(py::init<idx_t, int, bool>(), arg("nlist"), arg("code_size"), arg("has_beside"),
           "has_beside: whether two bytes stand beside each code.")
      .def("count", count, arg("list_no"), arg("ids") = none, arg("first_id") = 0,
           "list_no (n,) uint32, 0xFFFFFFFF for rows that are not stored; ids (n,) int64, None: "
           "first_id and what follows.")
      .def("counts", counts,
           "What was counted: sizes, least and most of the ids (nlist,) int64, and whether they "
           "came as 0, 1, 2 and so on, (nlist,) uint8.")
      .def("set_counts", set_counts, arg("sizes"), arg("least"), arg("most"), arg("are_offsets"),
           "Go on from what counts() gave.")
      .def("heads", heads, "As Engine.heads of the lists once they are stored.")
      .def("nbytes", nbytes, "What lists take of the two sections, (nlist,) int64 each.")
      .def_property_readonly("record_nbytes", &ListBuilder::record_nbytes,
                             "Bytes of memory for each vector of the lists that have begun.")
      .def("begin", &ListBuilder::begin, arg("first"), arg("end"),
           "Make room for the lists first .. end - 1; those before are forgotten.")
      .def("add", add, arg("list_no"), arg("codes"), arg("beside") = none, arg("ids") = none,
           arg("first_id") = 0, arg("n_threads") = 1,
           "Store those of the rows, which were counted and come in the same order, that are in "
           "these lists. codes (n, code_size) uint8, packed; beside (n,) uint16.")
      .def("write", write, arg("first"), arg("end"), arg("n_threads") = 1,
           "The lists first .. end - 1 as they lie in a file: blocks and ids, uint8.");
}

}  // namespace fq::bind
