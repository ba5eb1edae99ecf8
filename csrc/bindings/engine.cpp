#include "core/engine.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/heads.hpp"

namespace fq::bind {
namespace {

// Whatever waits for the lock of an engine does so without the GIL, which the thread that it waits
// for may need.

class Reading {
 public:
  explicit Reading(const Engine& engine, bool is_long = false) : reading_(wait(engine, is_long)) {}

 private:
  static SharedLock::Reading wait(const Engine& engine, bool is_long) {
    const Execution run = execution(1);
    const py::gil_scoped_release nogil;
    return SharedLock::Reading(engine.lock(), run.interrupted, is_long);
  }
  SharedLock::Reading reading_;
};

// What `reading` returns.
class ReadingScope {
 public:
  explicit ReadingScope(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}
  void enter() {
    check<StateError>(!reading_, "this reading has been entered already");
    reading_.emplace(*engine_, true);
    thread_ = std::this_thread::get_id();
  }
  void exit() {
    check<StateError>(reading_ && thread_ == std::this_thread::get_id(),
                      "a reading is left once, by the thread that entered it");
    reading_.reset();
  }

 private:
  std::shared_ptr<Engine> engine_;
  std::optional<Reading> reading_;
  std::thread::id thread_;
};

template <class Work>
void without_gil(int n_threads, Work work) {
  const Execution run = execution(n_threads);
  const py::gil_scoped_release nogil;
  work(run);
}

std::shared_ptr<Engine> make(idx_t nlist, int M, int nbits, int metric, const Floats& centroids,
                             std::shared_ptr<AdditiveTables> tables,
                             std::shared_ptr<QincoWeights> weights,
                             std::shared_ptr<EarlyExit> early_exit,
                             std::shared_ptr<QincoWeights> student,
                             const std::optional<Floats>& bases, bool has_extra) {
  check(tables != nullptr, "tables: expected AdditiveTables, got None");
  check_array("centroids", centroids, {nlist, tables->d()});
  if (bases) check_array("bases", *bases, {nlist, tables->d()});
  return std::make_shared<Engine>(Engine::Parts{
      nlist, M, nbits, to_metric(metric), centroids.data(), std::move(tables), std::move(weights),
      std::move(early_exit), std::move(student), bases ? bases->data() : nullptr, has_extra});
}

// A view of a matrix (nlist, d) of the engine.
Floats matrix_of(const py::object& engine, const float* data) {
  const auto& self = engine.cast<const Engine&>();
  Floats view({self.nlist(), self.d()}, data, engine);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

// -- search -----------------------------------------------------------------------------------

SearchArgs search_args(const Engine& self, const Floats& q, int n_codes, idx_t nprobe,
                       const IdFilter* filter, const ScanLimits& limits,
                       const std::optional<Ids>& coarse_list_no,
                       const std::optional<Floats>& coarse_score) {
  check_array("q", q, {kAny, self.d()});
  const idx_t n = q.shape(0);
  if (coarse_list_no) check_array("coarse_list_no", *coarse_list_no, {n, nprobe});
  if (coarse_score) check_array("coarse_score", *coarse_score, {n, nprobe});
  SearchArgs args{n, q.data()};
  args.n_codes = n_codes;
  args.nprobe = nprobe;
  args.filter = filter;
  args.limits = limits;
  args.coarse_list_no = data_or_null(coarse_list_no);
  args.coarse_score = data_or_null(coarse_score);
  return args;
}

// The caller's buffer (n, k), or a new one.
template <class T>
Array<T> result(const char* name, const std::optional<py::array>& given, idx_t n, idx_t k) {
  if (!given) return Array<T>({n, k});
  if (!py::isinstance<py::array_t<T>>(*given))
    throw py::type_error(std::string(name) + ": expected dtype " +
                         py::str(py::dtype::of<T>()).cast<std::string>() + ", got " +
                         py::str(given->dtype()).cast<std::string>());
  check(py::isinstance<Array<T>>(*given) && given->writeable(), name,
        ": expected a C-contiguous array that can be written");
  auto out = py::reinterpret_borrow<Array<T>>(*given);
  check_array(name, out, {n, k});
  return out;
}

py::tuple search_vectors(const Engine& self, const Floats& q, idx_t k, int n_codes, idx_t nprobe,
                         idx_t nshort, float exit_margin, const IdFilter* filter, idx_t max_codes,
                         bool whole_lists, idx_t max_lists, idx_t min_codes,
                         const std::optional<Ids>& coarse_list_no,
                         const std::optional<Floats>& coarse_score, int n_threads,
                         const std::optional<py::array>& D_given,
                         const std::optional<py::array>& I_given,
                         const std::optional<py::array>& list_no,
                         const std::optional<py::array>& offset) {
  SearchArgs args =
      search_args(self, q, n_codes, nprobe, filter,
                  {max_codes, whole_lists, 0, max_lists, min_codes}, coarse_list_no, coarse_score);
  args.nshort = nshort;
  args.exit_margin = exit_margin;
  check(k >= 1, "k: expected at least 1, got ", k);
  auto D = result<float>("D", D_given, args.n, k);
  auto I = result<idx_t>("I", I_given, args.n, k);
  float* D_data = D.mutable_data();
  idx_t* I_data = I.mutable_data();
  check(list_no.has_value() == offset.has_value(), "list_no, offset: expected both or none");
  ResultEntries found;
  if (list_no) {
    found.list_no = result<idx_t>("list_no", list_no, args.n, k).mutable_data();
    found.offset = result<idx_t>("offset", offset, args.n, k).mutable_data();
  }
  without_gil(n_threads,
              [&](const Execution& run) { self.search(args, k, D_data, I_data, run, found); });
  return py::make_tuple(D, I);
}

py::tuple shortlist_vectors(const Engine& self, const Floats& q, idx_t k, int n_codes, idx_t nprobe,
                            const IdFilter* filter, idx_t max_codes, bool whole_lists,
                            idx_t max_lists, idx_t min_codes,
                            const std::optional<Ids>& coarse_list_no,
                            const std::optional<Floats>& coarse_score, int n_threads) {
  const SearchArgs args =
      search_args(self, q, n_codes, nprobe, filter,
                  {max_codes, whole_lists, 0, max_lists, min_codes}, coarse_list_no, coarse_score);
  check(k >= 1, "k: expected at least 1, got ", k);
  Ids I({args.n, k}), list_no({args.n, k});
  Bytes codes({args.n, k, idx_t{self.n_codes(args)}});
  std::vector<float> D(static_cast<std::size_t>(args.n * k));
  idx_t* I_data = I.mutable_data();
  Floats extra({self.has_extra() ? args.n : 0, k});
  const ResultEntries found{list_no.mutable_data(), nullptr, codes.mutable_data(),
                            extra.mutable_data()};
  without_gil(n_threads,
              [&](const Execution& run) { self.search(args, k, D.data(), I_data, run, found); });
  return py::make_tuple(I, list_no, codes, extra);
}

py::tuple range_search_vectors(const Engine& self, const Floats& q, float radius, int n_codes,
                               idx_t nprobe, idx_t nshort, float exit_margin,
                               const IdFilter* filter, idx_t max_codes, bool whole_lists,
                               idx_t max_lists, idx_t min_codes, idx_t max_empty_lists,
                               const std::optional<Ids>& coarse_list_no,
                               const std::optional<Floats>& coarse_score, int n_threads) {
  SearchArgs args =
      search_args(self, q, n_codes, nprobe, filter,
                  {max_codes, whole_lists, 0, max_lists, min_codes}, coarse_list_no, coarse_score);
  args.nshort = nshort;
  args.exit_margin = exit_margin;
  args.limits.max_empty_lists = max_empty_lists;
  std::vector<RangeHits> hits;
  without_gil(n_threads,
              [&](const Execution& run) { hits = self.range_search(args, radius, run); });
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

// -- vectors ----------------------------------------------------------------------------------

py::tuple encode_vectors(const Engine& self, const Floats& x, const std::optional<Ids>& list_no,
                         int A, int B, float additive_weight, int n_threads) {
  check_array("x", x, {kAny, self.d()});
  const idx_t n = x.shape(0);
  if (list_no) check_array("list_no", *list_no, {n});
  Ids found(n);
  Bytes codes({n, idx_t{self.M()}});
  idx_t* found_data = found.mutable_data();
  std::uint8_t* codes_data = codes.mutable_data();
  without_gil(n_threads, [&](const Execution& run) {
    self.encode(n, x.data(), data_or_null(list_no), A, B, additive_weight, found_data, codes_data,
                run);
  });
  return py::make_tuple(found, codes);
}

void add(Engine& self, const Ids& list_no, const Bytes& codes, const std::optional<Floats>& extra,
         const std::optional<Ids>& ids, int n_threads) {
  check_array("list_no", list_no, {kAny});
  const idx_t n = list_no.shape(0);
  check_array("codes", codes, {n, self.M()});
  if (extra) check_array("extra", *extra, {n});
  if (ids) check_array("ids", *ids, {n});
  without_gil(n_threads, [&](const Execution& run) {
    self.add(n, list_no.data(), codes.data(), data_or_null(extra), data_or_null(ids), run);
  });
}

idx_t remove(Engine& self, const IdFilter* filter, bool renumber, int n_threads) {
  idx_t n = 0;
  without_gil(n_threads, [&](const Execution& run) {
    n = renumber ? self.remove_numbers(filter, run) : self.remove(filter, run);
  });
  return n;
}

idx_t remove_ids(Engine& self, const Ids& ids, int n_threads) {
  check_array("ids", ids, {kAny});
  idx_t n = 0;
  without_gil(n_threads,
              [&](const Execution& run) { n = self.remove(ids.shape(0), ids.data(), run); });
  return n;
}

void update(Engine& self, const Ids& ids, const Ids& list_no, const Bytes& codes,
            const std::optional<Floats>& extra, int n_threads) {
  check_array("ids", ids, {kAny});
  const idx_t n = ids.shape(0);
  check_array("list_no", list_no, {n});
  check_array("codes", codes, {n, self.M()});
  if (extra) check_array("extra", *extra, {n});
  without_gil(n_threads, [&](const Execution& run) {
    self.update(n, ids.data(), list_no.data(), codes.data(), data_or_null(extra), run);
  });
}

Floats bias_of(const Engine& self, const Ids& list_no, const Bytes& codes,
               const std::optional<Floats>& extra, int n_threads) {
  check_array("list_no", list_no, {kAny});
  const idx_t n = list_no.shape(0);
  check_array("codes", codes, {n, self.M()});
  if (extra) check_array("extra", *extra, {n});
  Floats out(n);
  float* data = out.mutable_data();
  without_gil(n_threads, [&](const Execution& run) {
    self.bias(n, list_no.data(), codes.data(), data_or_null(extra), data, run);
  });
  return out;
}

Floats extras_of(const Engine& self, const Ids& list_no, const Bytes& codes, const Floats& beside,
                 int n_threads) {
  check_array("list_no", list_no, {kAny});
  const idx_t n = list_no.shape(0);
  check_array("codes", codes, {n, self.M()});
  check_array("bias", beside, {n});
  Floats out(n);
  float* data = out.mutable_data();
  without_gil(n_threads, [&](const Execution& run) {
    self.extras(n, list_no.data(), codes.data(), beside.data(), data, run);
  });
  return out;
}

Floats reconstruct(const Engine& self, idx_t id) {
  Floats x(self.d());
  float* data = x.mutable_data();
  without_gil(1, [&](const Execution& run) { self.reconstruct(id, data, run); });
  return x;
}

Floats reconstruct_n(const Engine& self, idx_t id0, idx_t n, int n_threads) {
  check(n >= 0, "n: expected at least 0, got ", n);
  Floats x({n, self.d()});
  float* data = x.mutable_data();
  without_gil(n_threads, [&](const Execution& run) { self.reconstruct_n(id0, n, data, run); });
  return x;
}

py::tuple locate(const Engine& self, const Ids& ids) {
  check_array("ids", ids, {kAny});
  const idx_t n = ids.shape(0);
  Ids list_no(n), offset(n);
  idx_t *l = list_no.mutable_data(), *o = offset.mutable_data();
  without_gil(1, [&](const Execution& run) { self.locate(n, ids.data(), l, o, run); });
  return py::make_tuple(list_no, offset);
}

Bytes codes_at(const Engine& self, const Ids& list_no, const Ids& offset) {
  check_array("list_no", list_no, {kAny});
  const idx_t n = list_no.shape(0);
  check_array("offset", offset, {n});
  Bytes codes({n, idx_t{self.M()}});
  std::uint8_t* data = codes.mutable_data();
  without_gil(
      1, [&](const Execution& run) { self.codes_at(n, list_no.data(), offset.data(), data, run); });
  return codes;
}

Floats reconstruct_at(const Engine& self, const Ids& list_no, const Ids& offset, int n_threads) {
  check_array("list_no", list_no, {kAny});
  const idx_t n = list_no.shape(0);
  check_array("offset", offset, {n});
  Floats x({n, self.d()});
  float* data = x.mutable_data();
  without_gil(n_threads, [&](const Execution& run) {
    self.reconstruct_at(n, list_no.data(), offset.data(), data, run);
  });
  return x;
}

// -- contents ---------------------------------------------------------------------------------

Ids sizes(const Engine& self) {
  const Reading reading(self);
  Ids out(self.nlist());
  for (idx_t l = 0; l < self.nlist(); ++l) out.mutable_at(l) = self.lists().list(l).size();
  return out;
}

Bytes get_codes(const Engine& self, idx_t list_no) {
  const Reading reading(self);
  const idx_t n = self.lists().list(list_no).size(), M = self.M();
  Bytes out({n, M});
  for (idx_t o = 0; o < n; ++o)
    self.lists().read_code(list_no, o, self.M(), out.mutable_data() + o * M);
  return out;
}

Ids get_ids(const Engine& self, idx_t list_no) {
  const Reading reading(self);
  const ListIds& ids = self.lists().list(list_no).ids;
  Ids out(ids.size());
  ids.read(0, ids.size(), out.mutable_data());
  return out;
}

Floats get_bias(const Engine& self, idx_t list_no) {
  const Reading reading(self);
  Floats out(self.lists().list(list_no).size());
  self.lists().read_bias(list_no, 0, out.shape(0), out.mutable_data());
  return out;
}

py::dict memory(const Engine& self) {
  const Reading reading(self);
  const InvertedLists::Memory memory = self.lists().memory();
  py::dict out;
  out["codes"] = memory.codes;
  out["bias"] = memory.bias;
  out["ids"] = memory.ids;
  out["lists"] = memory.lists;
  out["direct_map"] = self.direct_map_nbytes();
  out["rates"] = self.rates_nbytes();
  return out;
}

// What `write` of the lists says of the entries first .. first + n - 1.
template <class Array, class T>
Array exported(const Engine& self, idx_t first, std::vector<py::ssize_t> shape,
               void (InvertedLists::*write)(idx_t, idx_t, T*) const) {
  const Reading reading(self);
  const idx_t n = shape[0], stored = self.lists().ntotal();
  check(first >= 0 && n >= 0 && n <= stored - first, "first, n: expected some of ", stored,
        " entries, got ", first, ", ", n);
  Array out(shape);
  T* data = out.mutable_data();
  {
    const py::gil_scoped_release nogil;
    (self.lists().*write)(first, n, data);
  }
  return out;
}

Bytes export_codes(const Engine& self, idx_t first, idx_t n) {
  return exported<Bytes>(self, first, {n, self.code_size()}, &InvertedLists::export_codes);
}

Floats export_bias(const Engine& self, idx_t first, idx_t n) {
  return exported<Floats>(self, first, {n}, &InvertedLists::export_bias);
}

Array<std::uint16_t> export_beside(const Engine& self, idx_t first, idx_t n) {
  return exported<Array<std::uint16_t>>(self, first, {n}, &InvertedLists::export_beside);
}

Ids export_ids(const Engine& self, idx_t first, idx_t n) {
  return exported<Ids>(self, first, {n}, &InvertedLists::export_ids);
}

void import_lists(Engine& self, const Ids& sizes, const py::function& rows, idx_t n, idx_t ntotal) {
  check_array("sizes", sizes, {self.nlist()});
  const auto call = [&](idx_t first, idx_t m, std::uint8_t* codes, float* bias, idx_t* ids) {
    const py::gil_scoped_acquire gil;
    const py::tuple given = rows(first, m);
    check(given.size() == 3, "rows: expected codes, bias and ids, got ", given.size(), " parts");
    const auto c = given[0].cast<Bytes>();
    const auto b = given[1].cast<Floats>();
    const auto i = given[2].cast<Ids>();
    check_array("codes", c, {m, self.code_size()});
    check_array("bias", b, {m});
    check_array("ids", i, {m});
    std::copy_n(c.data(), c.size(), codes);
    std::copy_n(b.data(), m, bias);
    std::copy_n(i.data(), m, ids);
  };
  without_gil(1,
              [&](const Execution& run) { self.import_from(sizes.data(), n, call, ntotal, run); });
}

// -- as it lies in memory -----------------------------------------------------------------------

py::tuple heads(const Engine& self) {
  const Reading reading(self);
  return heads_of(self.nlist(), [&](idx_t l) { return self.lists().head(l); });
}

std::vector<const fq::Bytes*> section_parts(const Engine& self, bool ids, idx_t list_no) {
  const InvertedLists::List& list = self.lists().list(list_no);
  if (ids) return {&list.ids.sorted_bytes(), &list.ids.recent_bytes()};
  return {&list.blocks};
}

std::size_t section_nbytes(const Engine& self, bool ids) {
  const Reading reading(self);
  std::size_t n = 0;
  for (idx_t l = 0; l < self.nlist(); ++l)
    for (const fq::Bytes* part : section_parts(self, ids, l)) n += part->size();
  return n;
}

// The bytes of a section from a list and one of its parts on: up to kChunk copied, or one array
// that is longer as it is. And where to go on.
py::tuple export_section(const py::object& engine, bool ids, idx_t list_no, std::size_t part) {
  constexpr std::size_t kChunk = 1 << 20;
  const auto& self = engine.cast<const Engine&>();
  const Reading reading(self);
  std::vector<const fq::Bytes*> chunk;
  std::size_t n = 0;
  for (; list_no < self.nlist(); ++list_no, part = 0) {
    const auto parts = section_parts(self, ids, list_no);
    for (; part < parts.size() && (chunk.empty() || n + parts[part]->size() <= kChunk); ++part) {
      chunk.push_back(parts[part]);
      n += parts[part]->size();
    }
    if (part < parts.size()) break;
  }
  if (chunk.size() == 1 && n > kChunk)
    return py::make_tuple(Bytes(static_cast<idx_t>(n), chunk[0]->data(), engine), list_no, part);
  Bytes out(static_cast<idx_t>(n));
  std::uint8_t* to = out.mutable_data();
  for (const fq::Bytes* from : chunk) to = std::copy_n(from->data(), from->size(), to);
  return py::make_tuple(out, list_no, part);
}

// A section in the hands of InvertedLists::restore: an array, of which views are given out, or its
// size and a function that returns one piece after the other.
class Section {
 public:
  Section(const char* name, const py::object& source) : name_(name) {
    if (py::isinstance<py::array>(source)) {
      piece_ = source.cast<Bytes>();
      to_come_ = static_cast<std::size_t>(piece_.size());
    } else {
      const auto given = source.cast<py::tuple>();
      to_come_ = given[0].cast<std::size_t>();
      next_ = given[1];
    }
  }
  bool is_mapped() const { return !next_; }
  const Bytes& array() const { return piece_; }

  fq::Bytes take(std::size_t n) {
    check(n <= to_come_, name_, ": shorter than what is in it");
    to_come_ -= n;
    if (is_mapped()) {
      const std::uint8_t* begin = piece_.data() + at_;
      at_ += n;
      return fq::Bytes::view(begin, n);
    }
    fq::Bytes taken;
    taken.reserve(n);
    taken.resize(n);
    for (std::size_t have = 0; have < n;) {
      if (left() == 0) pull();
      const std::size_t m = std::min(n - have, left());
      std::copy_n(piece_.data() + at_, m, taken.mutable_data() + have);
      have += m, at_ += m;
    }
    return taken;
  }

  void check_end() const { check(to_come_ == 0, name_, ": longer than what is in it"); }

 private:
  std::size_t left() const { return static_cast<std::size_t>(piece_.size()) - at_; }
  void pull() {
    const py::gil_scoped_acquire gil;
    piece_ = next_().cast<Bytes>();
    at_ = 0;
    check(piece_.size() > 0, name_, ": shorter than it says");
  }

  const char* name_;
  std::size_t to_come_ = 0;
  py::object next_;
  Bytes piece_{0};
  std::size_t at_ = 0;
};

void restore(Engine& self, const Ids& sizes, const Ids& least, const Array<std::uint32_t>& made,
             const Bytes& bits, const py::object& blocks, const py::object& ids, idx_t ntotal,
             bool checked) {
  const idx_t n = self.nlist();
  check_array("sizes", sizes, {n});
  check_array("least", least, {n});
  check_array("made", made, {n, 3});
  check_array("bits", bits, {n, 2});
  std::vector<InvertedLists::Head> heads(static_cast<std::size_t>(n));
  for (idx_t l = 0; l < n; ++l)
    heads[static_cast<std::size_t>(l)] = {
        sizes.at(l),
        {{least.at(l), made.at(l, 0), made.at(l, 1), made.at(l, 2), bits.at(l, 0)}, bits.at(l, 1)}};
  Section of_blocks("blocks", blocks), of_ids("ids", ids);
  std::shared_ptr<const void> file;
  if (of_blocks.is_mapped())
    file = std::shared_ptr<const void>(
        new std::pair<Bytes, Bytes>(of_blocks.array(), of_ids.array()), [](const void* p) {
          const py::gil_scoped_acquire gil;
          delete static_cast<const std::pair<Bytes, Bytes>*>(p);
        });
  check(of_blocks.is_mapped() == of_ids.is_mapped(), "blocks, ids: expected two of a kind");
  without_gil(1, [&](const Execution& run) {
    self.restore(
        heads, [&](std::size_t m) { return of_blocks.take(m); },
        [&](std::size_t m) { return of_ids.take(m); }, std::move(file), checked, ntotal, run);
  });
  of_blocks.check_end();
  of_ids.check_end();
}

}  // namespace

void bind_engine(py::module_& m) {
  using py::arg;
  const auto none = py::none();
  py::class_<ReadingScope>(m, "Reading", "A `with` of Engine.reading.")
      .def("__enter__",
           [](py::object self) {
             self.cast<ReadingScope&>().enter();
             return self;
           })
      .def("__exit__", [](ReadingScope& self, const py::args&) { self.exit(); });
  py::class_<Engine, std::shared_ptr<Engine>>(
      m, "Engine",
      "What an index is: inverted lists of codes, centroids, tables and networks. Searches and "
      "other readings of several threads run together, a change alone: it waits for them, and "
      "those that come later for it; a wait ends with Ctrl-C. Inside a search (in its filter) or "
      "`reading` the thread may search and read again, and gets RuntimeError for a change. After "
      "a fork the child can use the engine if no other thread was inside a call of it.")
      .def(
          py::init(&make), py::kw_only(), arg("nlist"), arg("M"), arg("nbits"), arg("metric"),
          arg("centroids"), arg("tables"), arg("weights").none(true), arg("early_exit") = none,
          arg("student") = none, arg("bases") = none, arg("has_extra") = false,
          "centroids (nlist, d) float32, by which lists are chosen, and bases (nlist, d), what the "
          "tables' residuals are to, None: the centroids; both are copied. weights None: tables "
          "only. early_exit: an "
          "EarlyExit, None: a shortlist is decoded to the end. student: weights of a cheaper "
          "model of the same codes, which decodes up to the checkpoints of early_exit. "
          "has_extra: vectors that are added have a number of their own, which searches give back. "
          "L2: it is added to their bias and their distance. Inner product: the length that what "
          "is decoded is stretched to, for which a ratio is stored in place of the bias. "
          "ValueError where they do not fit together or are not finite. None of them may be "
          "changed later.")
      .def_property_readonly("d", &Engine::d)
      .def_property_readonly("nlist", &Engine::nlist)
      .def_property_readonly("M", &Engine::M)
      .def_property_readonly("nbits", &Engine::nbits)
      .def_property_readonly("metric",
                             [](const Engine& self) { return static_cast<int>(self.metric()); })
      .def_property_readonly(
          "centroids",
          [](const py::object& self) {
            return matrix_of(self, self.cast<const Engine&>().centroids());
          },
          "(nlist, d) float32, read-only, where they are.")
      .def_property_readonly(
          "bases",
          [](const py::object& self) {
            return matrix_of(self, self.cast<const Engine&>().bases());
          },
          "The same of what residuals are to.")
      .def_property_readonly("code_size", &Engine::code_size,
                             "Bytes of a packed code, ceil(M * nbits / 8).")
      .def_property_readonly("ntotal", &Engine::ntotal,
                             "Numbers given out, also to rows that were not stored.")
      .def_property_readonly(
          "n_stored",
          [](const Engine& self) {
            const Reading reading(self);
            return self.lists().ntotal();
          },
          "Vectors in the lists.")
      .def("search", search_vectors, arg("q"), arg("k"), py::kw_only(), arg("n_codes") = 0,
           arg("nprobe") = 1, arg("nshort") = 0, arg("exit_margin") = 1.0f, arg("filter") = none,
           arg("max_codes") = 0, arg("whole_lists") = false, arg("max_lists") = 0,
           arg("min_codes") = 0, arg("coarse_list_no") = none, arg("coarse_score") = none,
           arg("n_threads") = 1, arg("D") = none, arg("I") = none, arg("list_no") = none,
           arg("offset") = none,
           "Search q (n, d) float32: coarse, tables, shortlist, re-ranking. Returns (D (n, k) "
           "float32: squared L2 or similarity, best first; I (n, k) int64), padded with FLT_MAX "
           "(L2) or -FLT_MAX and -1; a query with a NaN or an inf gives padding only. D, I: "
           "C-contiguous buffers to fill; list_no, offset (n, k) int64: the same, with where the "
           "results are stored, -1 where they are missing.\n\n"
           "n_codes: scan and decode the first so many codes of each vector, without early exit, "
           "RuntimeError before set_rate; 0: all. "
           "nprobe lists of the nearest centroids; or coarse_list_no (n, nprobe) int64, -1 is "
           "skipped, with coarse_score (n, nprobe) float32 as FAISS gives it or computed from the "
           "centroids. nshort: how many candidates are decoded and ranked; the others "
           "follow in the order of the tables, with the additive distance or, if that is less, "
           "the last one before it. exit_margin: times the margins of early_exit; inf: no early "
           "exit. "
           "filter: which ids may be found, None: all; asked about every id of a probed list or, "
           "where that is less work, about what would enter a shortlist. max_codes: how many "
           "selected codes of a query to scan, 0: all; with whole_lists the list where their "
           "number is reached is scanned to its end. max_lists: how many lists that are not empty, "
           "0: all. min_codes: while fewer selected codes were scanned, go on after the lists of "
           "nprobe or coarse_list_no, in the order of the other centroids. The result does not "
           "depend on n_threads or on the batch. Ctrl-C raises KeyboardInterrupt.")
      .def(
          "shortlist", shortlist_vectors, arg("q"), arg("k"), py::kw_only(), arg("n_codes") = 0,
          arg("nprobe") = 1, arg("filter") = none, arg("max_codes") = 0, arg("whole_lists") = false,
          arg("max_lists") = 0, arg("min_codes") = 0, arg("coarse_list_no") = none,
          arg("coarse_score") = none, arg("n_threads") = 1,
          "The k best of each query by additive distance, as search finds them with nshort 0, and "
          "their codes: (I (n, k) int64, list_no (n, k) int64, codes (n, k, n_codes) uint8, one "
          "byte per step, extra (n, k) float32, (0, k) where vectors have none). Missing ones come "
          "last, with I and list_no -1, codes and extra 0.")
      .def("range_search", range_search_vectors, arg("q"), arg("radius"), py::kw_only(),
           arg("n_codes") = 0, arg("nprobe") = 1, arg("nshort") = 0, arg("exit_margin") = 1.0f,
           arg("filter") = none, arg("max_codes") = 0, arg("whole_lists") = false,
           arg("max_lists") = 0, arg("min_codes") = 0, arg("max_empty_lists") = 0,
           arg("coarse_list_no") = none, arg("coarse_score") = none, arg("n_threads") = 1,
           "What is nearer than radius (L2) or more similar than it: (lims (n + 1) uint64, D and I "
           "(lims[n]) float32 and int64; those of query i are lims[i] to lims[i + 1], in no "
           "particular order). Arguments as for search. nshort 0: the additive distance decides; "
           "else the exact one of all scanned codes but those that the range margins of "
           "early_exit rule out; none without it or with exit_margin inf. max_empty_lists: end the "
           "query after so many lists in a row without a code inside by its additive distance, 0: "
           "never.")
      .def("encode", encode_vectors, arg("x"), py::kw_only(), arg("list_no") = none, arg("A"),
           arg("B"), arg("additive_weight") = 0.0f, arg("n_threads") = 1,
           "(list_no (n) int64, codes (n, M) uint8) of x (n, d) float32. list_no: lists to encode "
           "for, None: those of the best centroids by the metric. -1 and codes 0 for what is given "
           "no list, not finite, or so long that |x|² overflows. A, B, additive_weight: as the "
           "function `encode`, by the engine's tables.")
      .def(
          "add", add, arg("list_no"), arg("codes"), py::kw_only(), arg("extra") = none,
          arg("ids") = none, arg("n_threads") = 1,
          "Store codes (n, M) uint8 in lists (n) int64, all or nothing; list -1: it takes a number "
          "only. extra (n) float32: of the vectors, where they have one. ids (n) int64, "
          "None: from ntotal on. RuntimeError inside a search of the same thread.")
      .def("remove", remove, arg("filter").none(true), py::kw_only(), arg("renumber") = false,
           arg("n_threads") = 1,
           "Take out what filter (None: any) accepts, all or nothing; how much that was, by which "
           "ntotal is less. renumber: numbers that were given to vectors which could not be stored "
           "count as well, and ids after them move up; RuntimeError with a direct map.")
      .def("remove_ids", remove_ids, arg("ids"), arg("n_threads") = 1,
           "The same for what has one of ids (n) int64, which need not be there.")
      .def("update", update, arg("ids"), arg("list_no"), arg("codes"), py::kw_only(),
           arg("extra") = none, arg("n_threads") = 1,
           "Other codes, as `encode` gave them, none with list_no -1, for ids (n) int64 that are "
           "stored, all or nothing. ValueError for an id that is given twice, RuntimeError without "
           "a direct map or for an id that it has not.")
      .def(
          "merge_from",
          [](Engine& self, Engine& other, idx_t add_id) {
            without_gil(1, [&](const Execution& run) { self.merge_from(other, add_id, run); });
          },
          arg("other"), arg("add_id"),
          "Take all that another engine stores, its ids larger by add_id, and its numbers; it is "
          "empty then. Of their parts sizes and metric are checked. All or nothing. ValueError "
          "where an id would not fit, or become negative.")
      .def("bias", bias_of, arg("list_no"), arg("codes"), py::kw_only(), arg("extra") = none,
           arg("n_threads") = 1,
           "What `add` stores beside codes, (n) float32: the bias (L2), the ratio of lengths; or "
           "0.")
      .def("extras", extras_of, arg("list_no"), arg("codes"), arg("bias"), py::kw_only(),
           arg("n_threads") = 1,
           "The extra of vectors that are stored so, (n) float32. RuntimeError where they have "
           "none.")
      .def_property_readonly("has_extra", &Engine::has_extra)
      .def_property_readonly("corrects_length", &Engine::corrects_length)
      .def(
          "set_ranking",
          [](Engine& self, std::shared_ptr<EarlyExit> early_exit,
             std::shared_ptr<QincoWeights> student) {
            without_gil(1,
                        [&](const Execution& run) { self.set_ranking(early_exit, student, run); });
          },
          arg("early_exit").none(true), arg("student").none(true),
          "Other ones, as for the constructor.")
      .def(
          "set_rate",
          [](Engine& self, std::shared_ptr<AdditiveTables> tables, idx_t n_fitted, int n_threads) {
            without_gil(n_threads,
                        [&](const Execution& run) { self.set_rate(tables, n_fitted, run); });
          },
          arg("tables"), arg("n_fitted"), arg("n_threads") = 1,
          "Make, or replace, what searches by the first tables.M codes need, fewer than M: these "
          "tables, fitted to n_fitted of the stored vectors, and a bias for each of them, which "
          "`add` then gives the next ones too. All or nothing. RuntimeError inside a search or "
          "reading of the same thread.")
      .def(
          "rate",
          [](const Engine& self, int n_codes) {
            const Reading reading(self);
            return py::make_tuple(self.rate_fitted(n_codes), self.lists().ntotal());
          },
          arg("n_codes"),
          "(n_fitted of the rate of so many codes, -1 without it, 0 after a reset; n_stored).")
      .def_property_readonly(
          "may_change", [](const Engine& self) { return self.lock().may_write(); },
          "False inside a search or reading of this thread.")
      .def(
          "precompute_table",
          [](Engine& self, int n_threads) {
            without_gil(n_threads, [&](const Execution& run) { self.precompute_table(run); });
          },
          arg("n_threads") = 1,
          "Keep what the first network returns, for each list and code (without an IVF, each two "
          "first codes), for searches to look up; nothing if there is one. RuntimeError for "
          "weights without a network.")
      .def(
          "drop_table",
          [](Engine& self) { without_gil(1, [&](const Execution& run) { self.drop_table(run); }); })
      .def_property_readonly("table_nbytes",
                             [](const Engine& self) {
                               const Reading reading(self);
                               return self.table_nbytes();
                             })
      .def(
          "make_direct_map",
          [](Engine& self) {
            without_gil(1, [&](const Execution& run) { self.make_direct_map(run); });
          },
          "Keep where each id is stored, of duplicates the last in list order, from now on.")
      .def("clear_direct_map",
           [](Engine& self) {
             without_gil(1, [&](const Execution& run) { self.clear_direct_map(run); });
           })
      .def_property_readonly("has_direct_map",
                             [](const Engine& self) {
                               const Reading reading(self);
                               return self.has_direct_map();
                             })
      .def("reconstruct", reconstruct, arg("id"),
           "The decoded vector (d) float32 of an id. RuntimeError without a direct map, or where "
           "no vector has the id.")
      .def("reconstruct_n", reconstruct_n, arg("id0"), arg("n"), arg("n_threads") = 1,
           "The decoded vectors (n, d) float32 of the ids id0 .. id0 + n - 1; NaN where no vector "
           "has the id, of duplicates the last in list order. Reads all ids without a direct map.")
      .def("locate", locate, arg("ids"),
           "Where ids (n) int64 are stored: (list_no (n), offset (n)) int64, -1 for those that are "
           "not; of duplicates the last in list order. Reads all ids without a direct map.")
      .def("codes_at", codes_at, arg("list_no"), arg("offset"),
           "Codes (n, M) uint8 of entries (n) int64, 255 where list_no is -1. ValueError for one "
           "that does not exist; also `reconstruct_at`.")
      .def("reconstruct_at", reconstruct_at, arg("list_no"), arg("offset"), arg("n_threads") = 1,
           "Their decoded vectors (n, d) float32, NaN where list_no is -1.")
      .def(
          "reset",
          [](Engine& self) { without_gil(1, [&](const Execution& run) { self.reset(run); }); },
          "Remove all vectors, and number from 0 again. A direct map stays one.")
      .def("sizes", sizes, "Sizes of the lists, (nlist) int64.")
      .def(
          "list_size",
          [](const Engine& self, idx_t list_no) {
            const Reading reading(self);
            return self.lists().list(list_no).size();
          },
          arg("list_no"))
      .def("get_codes", get_codes, arg("list_no"), "Codes of a list, (size, M) uint8.")
      .def("get_ids", get_ids, arg("list_no"), "Ids of a list, (size) int64.")
      .def("get_bias", get_bias, arg("list_no"), "Bias of a list, (size) float32.")
      .def("memory", memory,
           "Bytes allocated for codes, bias, ids, direct_map and rates, room to grow included.")
      .def("export_codes", export_codes, arg("first"), arg("n"),
           "Packed codes (n, code_size) uint8 of the entries first .. first + n - 1, list after "
           "list; with those of the others, under one `reading`, and sizes(), all there is to "
           "save.")
      .def("export_bias", export_bias, arg("first"), arg("n"), "Their bias, (n) float32.")
      .def("export_beside", export_beside, arg("first"), arg("n"),
           "The bfloat16 that is stored beside each, (n) uint16; 0 where nothing is.")
      .def("export_ids", export_ids, arg("first"), arg("n"), "Their ids, (n) int64.")
      .def("heads", heads,
           "What says where things are in the sections of the file format: sizes (nlist) and least "
           "ids (nlist) int64, (nlist, 3) uint32 and (nlist, 2) uint8 of the ids.")
      .def("section_nbytes", section_nbytes, arg("ids"), "Of the ids, or else of the scan blocks.")
      .def("export_section", export_section, arg("ids"), arg("list_no"), arg("part"),
           "A piece of a section as it lies in memory, uint8, from there on (0, 0 at first), and "
           "the list and part to go on from; the end is at list_no = nlist. To be used inside "
           "`reading`: the piece may be a view.")
      .def(
          "restore", restore, arg("sizes"), arg("least"), arg("made"), arg("bits"), arg("blocks"),
          arg("ids"), arg("ntotal"), arg("checked"),
          "Replace what is stored by what `heads` and the sections were. blocks, ids: bytes of the "
          "section and a function that returns one piece of it after the other, of which copies "
          "are kept; or arrays, of which views are, copied list by list before they are changed. "
          "checked: read all of it, and raise ValueError where it is not what an engine has "
          "written; else what is wrong there makes wrong results, nothing worse.")
      .def("import_", import_lists, arg("sizes"), arg("rows"), arg("n"), arg("ntotal"),
           "Replace the contents by n entries in lists of these sizes, (nlist) int64. "
           "rows(first, m) gives the entries first .. first + m - 1: codes, bias and ids as they "
           "are exported; called in order. A direct map is made anew. All or nothing.")
      .def(
          "reading",
          [](std::shared_ptr<Engine> self) {
            return std::make_unique<ReadingScope>(std::move(self));
          },
          "with engine.reading(): no change comes between the readings of this thread.");
}

}  // namespace fq::bind
