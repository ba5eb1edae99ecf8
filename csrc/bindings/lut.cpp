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
           "inner product (scores are minimised).");
}

}  // namespace fq::bind
