#include <pybind11/stl.h>

#include <memory>

#include "bindings/arrays.hpp"
#include "core/lut.hpp"
#include "core/qinco_decode.hpp"
#include "core/qinco_encode.hpp"
#include "core/qinco_weights.hpp"
#include "dispatch/dispatch.hpp"

namespace fq::bind {
namespace {

using MaybeFloats = std::optional<Floats>;

void add_step(QincoWeights& self, const Floats& codebook, const MaybeFloats& in_proj,
              const Floats& concat_weight, const MaybeFloats& concat_bias, const Floats& up,
              const Floats& down, const MaybeFloats& out_proj, const MaybeFloats& preselect) {
  self.add_step(view(codebook), view(in_proj), view(concat_weight), view(concat_bias), view(up),
                view(down), view(out_proj), view(preselect));
}

Bytes encode_vectors(const QincoWeights& weights, const Floats& x,
                     const std::optional<Ids>& list_no, int A, int B, int n_threads,
                     const AdditiveTables* tables, const std::optional<Floats>& bases,
                     float additive_weight) {
  check_array("x", x, {kAny, weights.d()});
  const idx_t n = x.shape(0);
  if (list_no) check_array("list_no", *list_no, {n});
  check((tables != nullptr) == bases.has_value(), "bases: expected with tables, and not without");
  if (bases) check_array("bases", *bases, {weights.ivf() ? weights.n_base() : 1, weights.d()});
  const AdditiveTerm term{tables, data_or_null(bases), additive_weight};
  Bytes codes({n, static_cast<idx_t>(weights.M())});
  std::uint8_t* out = codes.mutable_data();
  const Execution run = execution(n_threads);
  const py::gil_scoped_release nogil;
  encode(weights, n, x.data(), data_or_null(list_no), A, B, tables ? &term : nullptr, out, run);
  return codes;
}

Floats decode_codes(const QincoWeights& weights, const std::optional<Ids>& list_no,
                    const Bytes& codes, int n_threads, std::optional<int> n_steps) {
  check_array("codes", codes, {kAny, kAny});
  const idx_t n = codes.shape(0), M = codes.shape(1);
  if (list_no) check_array("list_no", *list_no, {n});
  const int n_codes = n_steps ? *n_steps : static_cast<int>(std::min<idx_t>(M, 1 << 20));
  Floats out({n, weights.d()});
  float* x = out.mutable_data();
  const Execution run = execution(n_threads);
  const py::gil_scoped_release nogil;
  decode(weights, n, data_or_null(list_no), codes.data(), M, n_codes, x, run);
  return out;
}

}  // namespace

void bind_qinco(py::module_& m) {
  using py::arg;
  py::class_<QincoWeights, std::shared_ptr<QincoWeights>>(
      m, "QincoWeights",
      "Weights of a trained model, compiled for decoding. The steps are added in order; the object "
      "must not be changed while it is in use.")
      .def(py::init([](int nbits, bool ivf, bool skip, const Floats& mean, float std,
                       const Floats& base, std::optional<bool> in_bf16) {
             return std::make_shared<QincoWeights>(
                 nbits, ivf, skip, view(mean), std, view(base),
                 in_bf16.value_or(multiplies_bf16(active_level())));
           }),
           arg("nbits"), arg("ivf"), arg("skip"), arg("mean"), arg("std"), arg("base"),
           arg("in_bf16") = py::none(),
           "mean (d) float32 and std (one number) map a normalised vector to x * std + mean. base "
           "(n_base, d) float32, NORMALISED: the IVF centroids if ivf, else the first codebook (K, "
           "d). skip: a step returns c + Out z (QINCo2), else Out z (QINCo1). in_bf16: encode, and "
           "rank "
           "shortlists, with products in bfloat16 (None: where the CPU has instructions for them).")
      .def(
          "add_step", add_step, arg("codebook"), arg("in_proj"), arg("concat_weight"),
          arg("concat_bias"), arg("up"), arg("down"), arg("out_proj"),
          arg("preselect") = py::none(),
          "One step, all float32 in torch's (out, in) layout: codebook (K, d), in_proj (d_e, d) or "
          "None, concat_weight (d_e, d_e + d), concat_bias (d_e) or None, up (L, d_h, d_e), down "
          "(L, "
          "d_e, d_h), out_proj (d, d_e) or None, preselect (K, d) or None. None: identity (d_e == "
          "d), "
          "no bias, no pre-selection.")
      .def_property_readonly("d", &QincoWeights::d)
      .def_property_readonly("d_e", &QincoWeights::d_e)
      .def_property_readonly("d_h", &QincoWeights::d_h)
      .def_property_readonly("L", &QincoWeights::L)
      .def_property_readonly(
          "M", &QincoWeights::M,
          "Codes of a vector: the steps, plus the first codebook without an IVF.")
      .def_property_readonly("K", &QincoWeights::K)
      .def_property_readonly("nbits", &QincoWeights::nbits)
      .def_property_readonly("ivf", &QincoWeights::ivf)
      .def_property_readonly("skip", &QincoWeights::skip)
      .def_property_readonly("in_bf16", &QincoWeights::in_bf16)
      .def_property_readonly("n_base", &QincoWeights::n_base);
  m.def("encode", encode_vectors, arg("weights"), arg("x"), arg("list_no"), arg("A"), arg("B"),
        arg("n_threads") = 1, arg("tables") = py::none(), arg("bases") = py::none(),
        arg("additive_weight") = 0.0f,
        "Codes (n, M) uint8 of x (n, d) float32, finite, in the original space, by beam search. "
        "list_no (n) int64 with an IVF, else None. A: codewords pre-selected per hypothesis (K: "
        "all). B: hypotheses, up to 4096. tables: of the last hypotheses that one is taken whose "
        "squared error, with additive_weight times that of the tables on bases (n_base, d) float32 "
        "(1, d without an IVF), is the least. Ctrl-C raises KeyboardInterrupt.");
  m.def("decode", decode_codes, arg("weights"), arg("list_no"), arg("codes"), arg("n_threads") = 1,
        arg("n_steps") = py::none(),
        "Vectors (n, d) float32 in the original space. list_no (n) int64, needed with an IVF; -1 "
        "gives a row of NaN. codes (n, M) uint8. n_steps: how many leading codes to use (default "
        "all of `codes`): a prefix of a code is a coarser code.");
}

}  // namespace fq::bind
