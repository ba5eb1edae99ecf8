#include "core/lut.hpp"

#include <algorithm>
#include <memory>

#include "bindings/arrays.hpp"
#include "core/parallel.hpp"

namespace fq::bind {
namespace {

std::shared_ptr<AdditiveTables> make(const Floats& codebooks) {
  check_array("codebooks", codebooks, {kAny, kAny, kAny});
  auto size = [&](int axis) {  // far above what the constructor accepts, but still an int
    return static_cast<int>(std::min<py::ssize_t>(codebooks.shape(axis), 1 << 20));
  };
  return std::make_shared<AdditiveTables>(size(0), size(1), codebooks.shape(2), codebooks.data());
}

Floats compute(const AdditiveTables& self, const Floats& q, int metric, int n_threads) {
  check_array("q", q, {kAny, self.d()});
  const idx_t n = q.shape(0), M = self.M(), K = self.K(), kBlock = 16;
  Floats out({n, M, K});
  float* lut = out.mutable_data();
  const Metric which = to_metric(metric);
  const Execution run = execution(n_threads);
  const py::gil_scoped_release nogil;
  parallel_for((n + kBlock - 1) / kBlock, run, [&](idx_t block, int) {
    const idx_t begin = block * kBlock, rows = std::min(kBlock, n - begin);
    self.compute(rows, q.data() + begin * self.d(), which, lut + begin * M * K);
  });
  return out;
}

Floats bias(const AdditiveTables& self, const Floats& centroids, const Ids& list_no,
            const Bytes& codes, int n_threads) {
  check_array("centroids", centroids, {kAny, self.d()});
  check_array("list_no", list_no, {kAny});
  const auto n = list_no.shape(0);
  check_array("codes", codes, {n, self.M()});
  Floats out(n);
  float* values = out.mutable_data();
  const Execution run = execution(n_threads);
  const py::gil_scoped_release nogil;
  self.bias(centroids.shape(0), centroids.data(), n, list_no.data(), codes.data(), values, run);
  return out;
}

}  // namespace

void bind_lut(py::module_& m) {
  using py::arg;
  py::class_<AdditiveTables, std::shared_ptr<AdditiveTables>>(
      m, "AdditiveTables",
      "Additive codebooks (M, K, d) float32 whose sum approximates the residual x - centroid, in "
      "the original space. K is a power of two from 16 to 256.")
      .def(py::init(&make), arg("codebooks"))
      .def_property_readonly("M", &AdditiveTables::M)
      .def_property_readonly("K", &AdditiveTables::K)
      .def_property_readonly("d", &AdditiveTables::d)
      .def("compute", compute, arg("q"), arg("metric") = 1, arg("n_threads") = 1,
           "Look-up tables (nq, M, K) float32 of queries (nq, d): -2 <q, C> for L2, -<q, C> for "
           "inner product (scores are minimised).")
      .def("bias", bias, arg("centroids"), arg("list_no"), arg("codes"), arg("n_threads") = 1,
           "The L2 bias 2 <centroid, r> + |r|^2 of stored vectors, (n) float32; for inner product "
           "store zeros. centroids (nlist, d) float32, list_no (n) int64, codes (n, M) uint8; 0 "
           "where list_no is -1.");
}

}  // namespace fq::bind
