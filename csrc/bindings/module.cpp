#include "bindings/arrays.hpp"
#include "core/parallel.hpp"

PYBIND11_MODULE(_core, m) {
  namespace py = pybind11;
  m.doc() =
      "Native core of faiss_qinco. Arrays are C-contiguous NumPy arrays: float32 vectors, int64 "
      "ids and list numbers, uint8 codes (n, M). Metric: 1 is L2 (D is the squared distance), 0 "
      "inner "
      "product. Bad arguments raise ValueError, bad dtypes TypeError.";

  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const fq::Interrupted&) {
      if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
    }
  });

  fq::bind::bind_simd(m);
  fq::bind::bind_codes(m);
  fq::bind::bind_list_builder(m);
  fq::bind::bind_lut(m);
  fq::bind::bind_qinco(m);
  fq::bind::bind_selection(m);
  fq::bind::bind_search(m);
  fq::bind::bind_engine(m);
}
