#include <pybind11/stl.h>

#include "bindings/arrays.hpp"
#include "dispatch/dispatch.hpp"

namespace fq::bind {

void bind_simd(py::module_& m) {
  m.def(
      "simd_level", [] { return std::string(level_name(active_level())); },
      "Name of the instruction set in use. Chosen once, at first use: the best one of this CPU, or "
      "the one named by FAISS_QINCO_SIMD (ValueError if it cannot run here).");
  m.def(
      "simd_levels",
      [] {
        std::vector<std::string> names;
        for (SimdLevel level : available_levels()) names.push_back(level_name(level));
        return names;
      },
      "Names of the instruction sets that this CPU can run, best first.");
}

}  // namespace fq::bind
