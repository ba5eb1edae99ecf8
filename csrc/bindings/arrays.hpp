// NumPy arrays <-> what core takes. Only safe casts are made (int32 to int64, never float64 to
// float32): anything else is a TypeError from pybind11.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "core/check.hpp"
#include "core/qinco_weights.hpp"
#include "core/types.hpp"

namespace fq::bind {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Floats = Array<float>;
using Ids = Array<idx_t>;
using Bytes = Array<std::uint8_t>;

constexpr py::ssize_t kAny = -1;  // a dimension that the argument itself decides

template <class T>
void check_array(const char* name, const Array<T>& a, const std::vector<py::ssize_t>& shape) {
  bool ok = a.ndim() == static_cast<py::ssize_t>(shape.size());
  for (std::size_t i = 0; ok && i < shape.size(); ++i)
    ok = shape[i] == kAny || shape[i] == a.shape(static_cast<py::ssize_t>(i));
  if (ok) return;
  std::string expected, got;
  for (auto n : shape) expected += (n == kAny ? "any" : std::to_string(n)) + ", ";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) got += std::to_string(a.shape(i)) + ", ";
  check(false, name, ": expected shape (", expected, "), got (", got, ")");
}

inline ArrayView view(const std::optional<Floats>& a) {
  if (!a) return {};
  return {a->data(), {a->shape(), a->shape() + a->ndim()}};
}

template <class T>
const T* data_or_null(const std::optional<Array<T>>& a) {
  return a ? a->data() : nullptr;
}

inline Metric to_metric(int metric) {
  check(metric == 0 || metric == 1,
        "metric: expected 1 (METRIC_L2) or 0 (METRIC_INNER_PRODUCT), got ", metric);
  return static_cast<Metric>(metric);
}

// Ctrl-C: core asks from the calling thread, which has released the GIL. The pending
// KeyboardInterrupt stays set, and the translator of Interrupted hands it on.
inline Execution execution(int n_threads) {
  return {n_threads, [] {
            const py::gil_scoped_acquire gil;
            return PyErr_CheckSignals() != 0;
          }};
}

void bind_simd(py::module_& m);
void bind_codes(py::module_& m);
void bind_engine(py::module_& m);
void bind_list_builder(py::module_& m);
void bind_lut(py::module_& m);
void bind_qinco(py::module_& m);
void bind_search(py::module_& m);
void bind_selection(py::module_& m);

}  // namespace fq::bind
