#include "core/selection.hpp"

#include <pybind11/functional.h>

#include "bindings/arrays.hpp"

namespace fq::bind {
namespace {

// A faiss::IDSelector without faiss's headers, which its wheels lack. is_member is the first
// virtual function of the class (faiss/impl/IDSelector.h) and bool returns in a register, so under
// the Itanium ABI the first entry of the object's table is this function. (A class of our own with
// that virtual function would not do: compilers know that nothing derives from it.) Python checks
// with selectors whose answers are known before it hands over an address.
using IsMember = bool (*)(const void* selector, idx_t id);

class FaissFilter final : public IdFilter {
 public:
  FaissFilter(std::uintptr_t address, bool cheap)
      : cheap_(cheap),
        selector_(reinterpret_cast<const void*>(address)),
        is_member_(**static_cast<const IsMember* const*>(selector_)) {}

  bool is_cheap() const override { return cheap_; }
  bool accepts(idx_t id) const override {
    try {
      return is_member_(selector_, id);
    } catch (...) {
      // A Python callback raised: its error is better than faiss's, which only says that.
      const py::gil_scoped_acquire gil;
      if (PyErr_Occurred()) throw py::error_already_set();
      throw;
    }
  }

  void accept(const ListIds& ids, std::uint64_t* words) const override {
    accept_each(ids, words, [this](idx_t id) { return accepts(id); });
  }

 private:
  bool cheap_;
  const void* selector_;
  IsMember is_member_;
};

class PythonFilter final : public IdFilter {
 public:
  explicit PythonFilter(py::function is_member) : is_member_(std::move(is_member)) {}
  ~PythonFilter() override {
    const py::gil_scoped_acquire gil;
    is_member_.release().dec_ref();
  }

  bool accepts(idx_t id) const override {
    const py::gil_scoped_acquire gil;
    return is_member_(id).cast<bool>();
  }

  void accept(const ListIds& ids, std::uint64_t* words) const override {
    const py::gil_scoped_acquire gil;
    accept_each(ids, words, [this](idx_t id) { return accepts(id); });
  }

 private:
  py::function is_member_;
};

py::array_t<bool> accept(const IdFilter& self, const Ids& ids) {
  check_array("ids", ids, {kAny});
  const idx_t n = ids.shape(0);
  ListIds list;
  list.reserve(n, 8);
  for (idx_t i = 0; i < n; ++i) list.push_back(ids.at(i));
  std::vector<std::uint64_t> words(static_cast<std::size_t>((n + 63) / 64));
  self.accept(list, words.data());
  py::array_t<bool> out(n);
  for (idx_t i = 0; i < n; ++i) out.mutable_at(i) = words[i / 64] >> i % 64 & 1;
  return out;
}

}  // namespace

void bind_selection(py::module_& m) {
  using py::arg;
  py::class_<IdFilter>(m, "IdFilter", "Which ids a search may return.")
      .def_static(
          "range",
          [](idx_t begin, idx_t end) -> std::unique_ptr<IdFilter> {
            return std::make_unique<RangeFilter>(begin, end);
          },
          arg("begin"), arg("end"), "begin <= id < end.")
      .def_static(
          "bitmap",
          [](std::uint64_t n, std::uintptr_t address) -> std::unique_ptr<IdFilter> {
            return std::make_unique<BitmapFilter>(n,
                                                  reinterpret_cast<const std::uint8_t*>(address));
          },
          arg("n"), arg("address"),
          "Bit id % 8 of byte id // 8 of the n bytes at an address. Not checked.")
      .def_static(
          "set",
          [](const Ids& ids) -> std::unique_ptr<IdFilter> {
            check_array("ids", ids, {kAny});
            return std::make_unique<IdsFilter>(ids.shape(0), ids.data());
          },
          arg("ids"), "Those of ids (n) int64, copied.")
      .def_static(
          "faiss",
          [](std::uintptr_t address, bool cheap) -> std::unique_ptr<IdFilter> {
            return std::make_unique<FaissFilter>(address, cheap);
          },
          arg("address"), arg("cheap"),
          "A faiss::IDSelector at an address, which must outlive the filter. Not checked. cheap: "
          "whether it answers in nanoseconds.")
      .def_static(
          "python",
          [](py::function is_member) -> std::unique_ptr<IdFilter> {
            return std::make_unique<PythonFilter>(std::move(is_member));
          },
          arg("is_member"), "Asks a function of an id, with the GIL.")
      .def("accept", accept, arg("ids"), "Whether each of ids (n) int64 is accepted, (n) bool.");
}

}  // namespace fq::bind
