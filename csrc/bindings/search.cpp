#include "core/search.hpp"

#include <pybind11/stl.h>

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
    assign(centroids.shape(0), centroids.data(), centroids.shape(1), n, x.data(), nprobe, which, l,
           s, run);
  }
  return py::make_tuple(list_no, distance);
}

SearchArgs search_args(const InvertedLists& lists, const std::optional<Floats>& centroids,
                       const std::optional<Ids>& coarse_list_no,
                       const std::optional<Floats>& coarse_score, const AdditiveTables& tables,
                       const QincoWeights* weights, const Floats& q, idx_t k, idx_t nprobe,
                       idx_t nshort, int metric, const IdFilter* filter, ScanLimits limits) {
  check_array("q", q, {kAny, tables.d()});
  const idx_t n = q.shape(0);
  check(k >= 1, "k: expected at least 1, got ", k);
  if (centroids) check_array("centroids", *centroids, {lists.nlist(), tables.d()});
  if (coarse_list_no) check_array("coarse_list_no", *coarse_list_no, {n, nprobe});
  if (coarse_score) check_array("coarse_score", *coarse_score, {n, nprobe});
  return {lists,
          tables,
          weights,
          data_or_null(centroids),
          data_or_null(coarse_list_no),
          data_or_null(coarse_score),
          n,
          q.data(),
          k,
          nprobe,
          nshort,
          to_metric(metric),
          filter,
          limits};
}

py::tuple search_vectors(const InvertedLists& lists, const std::optional<Floats>& centroids,
                         const std::optional<Ids>& coarse_list_no,
                         const std::optional<Floats>& coarse_score, const AdditiveTables& tables,
                         const QincoWeights* weights, const Floats& q, idx_t k, idx_t nprobe,
                         idx_t nshort, int metric, const IdFilter* filter, idx_t max_codes,
                         bool whole_lists, int n_threads, const EarlyExit* early_exit,
                         float exit_margin, const QincoWeights* student,
                         const FirstStepTable* table) {
  SearchArgs args = search_args(lists, centroids, coarse_list_no, coarse_score, tables, weights, q,
                                k, nprobe, nshort, metric, filter, {max_codes, whole_lists});
  args.early_exit = early_exit;
  args.exit_margin = exit_margin;
  args.student = student;
  args.table = table;
  Floats D({args.n, k});
  Ids I({args.n, k});
  float* D_data = D.mutable_data();
  idx_t* I_data = I.mutable_data();
  const Execution run = execution(n_threads);
  {
    const py::gil_scoped_release nogil;
    search(args, D_data, I_data, run);
  }
  return py::make_tuple(D, I);
}

py::tuple shortlist_vectors(const InvertedLists& lists, const std::optional<Floats>& centroids,
                            const std::optional<Ids>& coarse_list_no,
                            const std::optional<Floats>& coarse_score, const AdditiveTables& tables,
                            const Floats& q, idx_t k, idx_t nprobe, int metric,
                            const IdFilter* filter, idx_t max_codes, bool whole_lists,
                            int n_threads) {
  const SearchArgs args =
      search_args(lists, centroids, coarse_list_no, coarse_score, tables, nullptr, q, k, nprobe, 0,
                  metric, filter, {max_codes, whole_lists});
  std::vector<float> D(static_cast<std::size_t>(args.n * k));
  Ids I({args.n, k}), list_no({args.n, k});
  Bytes codes({args.n, k, idx_t{lists.M()}});
  idx_t* I_data = I.mutable_data();
  const ResultCodes found{list_no.mutable_data(), codes.mutable_data()};
  const Execution run = execution(n_threads);
  {
    const py::gil_scoped_release nogil;
    search(args, D.data(), I_data, run, found);
  }
  return py::make_tuple(I, list_no, codes);
}

py::tuple range_search_vectors(const InvertedLists& lists, const std::optional<Floats>& centroids,
                               const std::optional<Ids>& coarse_list_no,
                               const std::optional<Floats>& coarse_score,
                               const AdditiveTables& tables, const QincoWeights* weights,
                               const Floats& q, float radius, idx_t nprobe, idx_t nshort,
                               int metric, const IdFilter* filter, idx_t max_empty_lists,
                               int n_threads) {
  const SearchArgs args =
      search_args(lists, centroids, coarse_list_no, coarse_score, tables, weights, q, 1, nprobe,
                  nshort, metric, filter, {0, false, max_empty_lists});
  const Execution run = execution(n_threads);
  std::vector<RangeHits> hits;
  {
    const py::gil_scoped_release nogil;
    hits = range_search(args, radius, run);
  }
  py::array_t<std::uint64_t> lims(args.n + 1);
  std::uint64_t* lim = lims.mutable_data();
  lim[0] = 0;
  for (idx_t i = 0; i < args.n; ++i) lim[i + 1] = lim[i] + hits[i].I.size();
  Floats D(static_cast<py::ssize_t>(lim[args.n]));
  Ids I(static_cast<py::ssize_t>(lim[args.n]));
  float* D_data = D.mutable_data();
  idx_t* I_data = I.mutable_data();
  for (RangeHits& hit : hits) {
    D_data = std::copy(hit.D.begin(), hit.D.end(), D_data);
    I_data = std::copy(hit.I.begin(), hit.I.end(), I_data);
    hit = {};
  }
  return py::make_tuple(lims, D, I);
}

}  // namespace

void bind_search(py::module_& m) {
  using py::arg;
  py::class_<EarlyExit>(m, "EarlyExit",
                        "Checkpoints at which candidates that are out of reach leave re-ranking.")
      .def(py::init<int, int, idx_t>(), arg("M"), arg("K"), arg("d"))
      .def(
          "add_checkpoint",
          [](EarlyExit& self, int n_codes, std::vector<float> margins, const Floats& tail) {
            check_array("tail", tail, {self.tail_size(n_codes), self.K(), self.d()});
            self.add_checkpoint(n_codes, std::move(margins), tail.data());
          },
          arg("n_codes"), arg("margins"), arg("tail"),
          "After n_codes codes, in ascending order. tail (M - n_codes, K, d) float32: additive "
          "codebooks of what the other codes add; (0, K, d) for no codes, where the tables rank. "
          "margins: for 1, 10, 100 … results, how far beyond the k-th best distance "
          "(not squared; for inner product beyond the similarity, per unit of |q|) a candidate "
          "may be.");
  py::class_<SearchStats>(m, "SearchStats")
      .def_property_readonly("nq", [](const SearchStats& s) { return s.nq.load(); })
      .def_property_readonly("n_reranked", [](const SearchStats& s) { return s.n_reranked.load(); })
      .def_property_readonly("n_steps", [](const SearchStats& s) { return s.n_steps.load(); })
      .def_property_readonly("n_steps_saved",
                             [](const SearchStats& s) { return s.n_steps_saved.load(); })
      .def_property_readonly("n_student_steps",
                             [](const SearchStats& s) { return s.n_student_steps.load(); })
      .def("reset", [](SearchStats& s) {
        s.nq = s.n_reranked = s.n_steps = s.n_steps_saved = s.n_student_steps = 0;
      });
  m.attr("search_stats") = py::cast(&search_stats, py::return_value_policy::reference);
  m.def(
      "assign", assign_vectors, arg("centroids"), arg("x"), arg("nprobe"), arg("metric") = 1,
      arg("n_threads") = 1,
      "The nprobe best centroids of each vector: (list_no (n, nprobe) int64, distance (n, nprobe) "
      "float32: squared L2 or similarity), ties by list number. Beyond nlist, and for a vector "
      "with "
      "a NaN or an inf: -1 and FLT_MAX (L2) or -FLT_MAX.");
  m.def(
      "search", search_vectors, arg("lists"), arg("centroids"), arg("coarse_list_no"),
      arg("coarse_score"), arg("tables"), arg("weights"), arg("q"), arg("k"), arg("nprobe"),
      arg("nshort"), arg("metric"), arg("filter") = py::none(), arg("max_codes") = 0,
      arg("whole_lists") = false, arg("n_threads") = 1, arg("early_exit") = py::none(),
      arg("exit_margin") = 1.0f, arg("student") = py::none(), arg("table") = py::none(),
      "Search q (n, d) float32: coarse, tables, shortlist, re-ranking. Returns (D (n, k) float32: "
      "squared L2 or similarity, best first; I (n, k) int64), padded with FLT_MAX (L2) or -FLT_MAX "
      "and -1; a query with a NaN or an inf gives padding only.\n\n"
      "Either centroids (nlist, d) float32, from which nprobe lists are chosen; or coarse_list_no "
      "(n, nprobe) int64, -1 is skipped, with coarse_score (n, nprobe) float32 as FAISS gives it, "
      "or with centroids, from which the scores are then computed. nshort: how many candidates are "
      "decoded with `weights` (at least k); 0: none, D is the additive distance. filter: "
      "which ids may be found, None: all; asked about every id of a probed list or, where that is "
      "less work, about what would enter a shortlist. max_codes: "
      "how many selected codes of a query to scan, 0: all; with whole_lists the list where their "
      "number is reached is scanned to its end. early_exit: an EarlyExit, or None to decode the "
      "whole shortlist; exit_margin scales its margins; student: weights of a cheaper model of the "
      "same codes that decodes up to its checkpoints, None: `weights` do. table: of `weights`; the "
      "result is the same. It does not depend on n_threads or on the batch. Ctrl-C raises "
      "KeyboardInterrupt.");
  m.def("shortlist", shortlist_vectors, arg("lists"), arg("centroids"), arg("coarse_list_no"),
        arg("coarse_score"), arg("tables"), arg("q"), arg("k"), arg("nprobe"), arg("metric"),
        arg("filter") = py::none(), arg("max_codes") = 0, arg("whole_lists") = false,
        arg("n_threads") = 1,
        "The k best of each query by additive distance, as search finds them with nshort 0, and "
        "their codes: (I (n, k) int64, list_no (n, k) int64, codes (n, k, M) uint8, one byte per "
        "step). Missing ones come last, with I and list_no -1 and codes 0.");
  m.def("range_search", range_search_vectors, arg("lists"), arg("centroids"), arg("coarse_list_no"),
        arg("coarse_score"), arg("tables"), arg("weights"), arg("q"), arg("radius"), arg("nprobe"),
        arg("nshort"), arg("metric"), arg("filter") = py::none(), arg("max_empty_lists") = 0,
        arg("n_threads") = 1,
        "What is nearer than radius (L2) or more similar than it: (lims (n + 1) uint64, D and I "
        "(lims[n]) float32 and int64; those of query i are lims[i] to lims[i + 1], in no "
        "particular order). Arguments as for search. With nshort, every code inside by its "
        "additive distance is decoded, and the next best up to nshort codes; the exact distance "
        "decides. max_empty_lists: end the query after so many lists in a row without a code "
        "inside by its additive distance, 0: never.");
}

}  // namespace fq::bind
