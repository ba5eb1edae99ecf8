#include "core/search.hpp"

#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "bindings/arrays.hpp"
#include "core/coarse.hpp"

namespace fq::bind {
namespace {

py::tuple assign_vectors(const Floats& centroids, const Floats& x, idx_t nprobe, int metric,
                         int n_threads) {
  check_array("centroids", centroids, {kAny, kAny});
  check_array("x", x, {kAny, centroids.shape(1)});
  check(nprobe >= 1, "nprobe: expected at least 1, got ", nprobe);
  const idx_t n = x.shape(0);
  Ids list_no({n, nprobe});
  Floats distance({n, nprobe});
  idx_t* l = list_no.mutable_data();
  float* s = distance.mutable_data();
  const Metric which = to_metric(metric);
  const Execution run = execution(n_threads);
  {
    const py::gil_scoped_release nogil;
    const Centroids to(centroids.shape(0), centroids.shape(1), centroids.data(),
                       n >= kFewestForProduct);
    assign(to, n, x.data(), nprobe, which, l, s, run);
  }
  return py::make_tuple(list_no, distance);
}

void add_checkpoint(EarlyExit& self, int n_codes, std::vector<float> margins, const Floats& tail,
                    std::pair<float, float> range_margin) {
  check_array("tail", tail, {self.tail_size(n_codes), self.K(), self.d()});
  self.add_checkpoint(n_codes, std::move(margins), tail.data(), range_margin.first,
                      range_margin.second);
}

}  // namespace

void bind_search(py::module_& m) {
  using py::arg;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  py::class_<EarlyExit, std::shared_ptr<EarlyExit>>(
      m, "EarlyExit",
      "Checkpoints at which candidates that are out of reach leave re-ranking. To be complete "
      "before an Engine gets it.")
      .def(py::init<int, int, idx_t, std::vector<idx_t>>(), arg("M"), arg("K"), arg("d"), arg("ks"),
           "ks: the numbers of results, ascending, that the margins of a checkpoint are for.")
      .def("add_checkpoint", add_checkpoint, arg("n_codes"), arg("margins"), arg("tail"),
           arg("range_margin") = std::make_pair(kInf, kInf),
           "After n_codes codes, in ascending order. tail (M - n_codes, K, d) float32: additive "
           "codebooks of what the other codes add; (0, K, d) for no codes, where the tables rank. "
           "margins: for each of ks results, how far beyond the k-th best distance (not squared; "
           "for inner product beyond the similarity, per unit of |q|) a candidate may be; between "
           "them linear in log k, beyond the last the last. range_margin (a, b): in range_search, "
           "max(a, b * sqrt(radius)) beyond the squared distance, or max(a, b * |q|) beyond the "
           "similarity. inf, in either: not calibrated, nobody is dropped.");
  py::class_<SearchStats>(
      m, "SearchStats",
      "What all searches of this process have done, since its start or the last `reset`. As those "
      "of faiss.cvar.indexIVF_stats, where they are added as well: nq queries, nlist lists visited "
      "for them that are not empty, ndis codes scanned, those that a selector accepts (all, where "
      "a call has few queries and no min_codes or max_codes: ids are then asked for one by one). "
      "n_reranked: entries of shortlists, or candidates of a range; n_steps: networks run for "
      "them, n_steps_saved: and not run, by early exit or a table; n_student_steps: networks of "
      "students run for them. With a torch device, only the first three count.")
      .def_property_readonly("nq", [](const SearchStats& s) { return s.nq.load(); })
      .def_property_readonly("nlist", [](const SearchStats& s) { return s.nlist.load(); })
      .def_property_readonly("ndis", [](const SearchStats& s) { return s.ndis.load(); })
      .def_property_readonly("n_reranked", [](const SearchStats& s) { return s.n_reranked.load(); })
      .def_property_readonly("n_steps", [](const SearchStats& s) { return s.n_steps.load(); })
      .def_property_readonly("n_steps_saved",
                             [](const SearchStats& s) { return s.n_steps_saved.load(); })
      .def_property_readonly("n_student_steps",
                             [](const SearchStats& s) { return s.n_student_steps.load(); })
      .def("reset",
           [](SearchStats& s) {
             s.nq = s.nlist = s.ndis = 0;
             s.n_reranked = s.n_steps = s.n_steps_saved = s.n_student_steps = 0;
           })
      .def(
          "add_to",
          [](SearchStats& s, std::uintptr_t address) {
            s.also = reinterpret_cast<std::size_t*>(address);
          },
          arg("address"),
          "Add nq, nlist and ndis to the three numbers (size_t) there as well from now on; 0: "
          "nowhere.");
  m.attr("search_stats") = py::cast(&search_stats, py::return_value_policy::reference);
  m.def(
      "assign", assign_vectors, arg("centroids"), arg("x"), arg("nprobe"), arg("metric") = 1,
      arg("n_threads") = 1,
      "The nprobe best centroids of each vector: (list_no (n, nprobe) int64, distance (n, nprobe) "
      "float32: squared L2 or similarity), ties by list number. Beyond nlist, and for a vector "
      "with a NaN or an inf: -1 and FLT_MAX (L2) or -FLT_MAX.");
}

}  // namespace fq::bind
