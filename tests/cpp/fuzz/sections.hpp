// What a file says of its lists, taken up by InvertedLists::restore: whatever it is, it is refused
// or does no harm.
//
// An input: a byte for the kind (nlist, M, nbits, what stands beside a code, whether it is
// checked), 30 bytes for the head of each list, 4 for the length of the blocks; the blocks; the
// ids.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <vector>

#include "core/check.hpp"
#include "core/inverted_lists.hpp"
#include "core/selection.hpp"
#include "core/shortlist.hpp"
#include "support.hpp"

namespace fq::test {

struct Kind {
  std::uint8_t byte;
  idx_t nlist() const { return 1 + (byte & 3); }
  int M() const { return 1 + (byte >> 2 & 3); }
  int nbits() const { return byte >> 4 & 1 ? 8 : 5; }
  Beside beside() const { return static_cast<Beside>((byte >> 5 & 3) % 3); }
  bool checked() const { return byte >> 7; }
  InvertedLists lists() const { return {nlist(), M(), nbits(), beside()}; }
};

class Reader {
 public:
  Reader(const std::uint8_t* data, std::size_t n) : data_(data), left_(n) {}
  template <class T>
  T number() {
    T x{};
    const std::size_t n = std::min(sizeof(T), left_);
    if (n > 0) std::memcpy(&x, data_, n);
    skip(n);
    return x;
  }
  Reader part(std::size_t n) {
    n = std::min(n, left_);
    const Reader begin(data_, n);
    skip(n);
    return begin;
  }
  // A view, or a copy that a sanitizer sees the ends of.
  Bytes take(std::size_t n, bool copied) {
    check(n <= left_, "shorter than what is in it");
    Bytes bytes = Bytes::view(data_, n);
    skip(n);
    if (copied) bytes.reserve(n);
    return bytes;
  }
  std::size_t left() const { return left_; }

 private:
  void skip(std::size_t n) { data_ += n, left_ -= n; }
  const std::uint8_t* data_;
  std::size_t left_;
};

inline void read_all(const InvertedLists& lists) {
  std::vector<idx_t> ids(static_cast<std::size_t>(lists.ntotal()));
  std::vector<float> bias(ids.size());
  lists.export_ids(0, lists.ntotal(), ids.data());
  lists.export_bias(0, lists.ntotal(), bias.data());
  std::vector<std::uint8_t> code(static_cast<std::size_t>(lists.M()));
  std::vector<idx_t> probed;
  for (idx_t l = 0; l < lists.nlist(); ++l) {
    probed.push_back(l);
    const idx_t n = lists.list(l).size();
    for (const idx_t o : {idx_t{0}, n / 2, n - 1})
      if (n > 0) {
        (void)lists.list(l).ids[o];
        lists.read_code(l, o, lists.M(), code.data());
      }
  }
  const RangeFilter some(0, 100);
  (void)lists.select(&some, {});
  const std::vector<float> lut(static_cast<std::size_t>(lists.M() * lists.K()), 1);
  const std::vector<float> coarse(probed.size(), 2);
  LutU8 bounds;
  if (lists.nbits() == 8) bounds.quantize(lists.M(), lut.data());
  for (const IdFilter* filter :
       {static_cast<const IdFilter*>(nullptr), static_cast<const IdFilter*>(&some)}) {
    const Selection selection(filter, lists.nlist(), 1, false);
    TopK found(5);
    scan_lists({lists,
                selection,
                {},
                lists.nlist(),
                probed.data(),
                coarse.data(),
                lists.beside() == Beside::Ratio},
               lut.data(), bounds, found);
  }
}

inline void fuzz_sections(const std::uint8_t* data, std::size_t size) {
  Reader reader(data, size);
  const Kind kind{reader.number<std::uint8_t>()};
  std::vector<InvertedLists::Head> heads;
  for (idx_t l = 0; l < kind.nlist(); ++l) {
    InvertedLists::Head head;
    head.n = reader.number<idx_t>();
    head.ids.sorted.least = reader.number<idx_t>();
    head.ids.sorted.n = reader.number<std::uint32_t>();
    head.ids.sorted.n_made = reader.number<std::uint32_t>();
    head.ids.sorted.n_words = reader.number<std::uint32_t>();
    head.ids.sorted.low_bits = reader.number<std::uint8_t>();
    head.ids.width = reader.number<std::uint8_t>();
    heads.push_back(head);
  }
  const auto of_blocks = reader.number<std::uint32_t>();
  Reader blocks = reader.part(of_blocks);
  InvertedLists lists = kind.lists();
  const bool copied = kind.checked();
  try {
    lists.restore(
        heads, [&](std::size_t n) { return blocks.take(n, copied); },
        [&](std::size_t n) { return reader.take(n, copied); }, nullptr, kind.checked());
  } catch (const CheckError&) {
    return;
  }
  if (lists.ntotal() > 1 << 16) return;  // ids that are offsets need no bytes
  read_all(lists);
  // Changes are made to copies.
  const RangeFilter some(0, 1 << 20);
  const std::vector<Removal> removals = lists.select(&some, {});
  lists.prepare_removal(removals);
  lists.remove(removals, 1);
  read_all(lists);
  Rng rng;
  std::vector<idx_t> list_no, ids;
  for (idx_t i = 0; i < 40; ++i) list_no.push_back(i % kind.nlist()), ids.push_back(i * i * i);
  lists.add(40, list_no.data(), rng.codes(40 * kind.M(), lists.K()).data(),
            std::vector<float>(40, 1).data(), ids.data(), 0, nullptr);
  for (idx_t l = 0; l < kind.nlist(); ++l)
    if (lists.list(l).ids.wants_sorting()) lists.replace(l, lists.sorting(l));
  read_all(lists);
}

// An input that is what lists are.
inline std::vector<std::uint8_t> fuzz_seed(std::uint8_t byte, idx_t n, idx_t range) {
  const Kind kind{byte};
  InvertedLists lists = kind.lists();
  Rng rng;
  std::vector<idx_t> list_no, ids;
  for (idx_t i = 0; i < n; ++i) {
    list_no.push_back(rng.integer(0, kind.nlist() - 1));
    ids.push_back(rng.integer(0, range));
  }
  std::vector<float> bias = rng.floats(n);
  for (float& b : bias) b = 1 + 0.1f * b;
  lists.add(n, list_no.data(), rng.codes(n * kind.M(), lists.K()).data(), bias.data(), ids.data(),
            0, nullptr);
  std::vector<std::uint8_t> out{byte}, blocks, of_ids;
  const auto put = [&](auto x) {
    const auto* p = reinterpret_cast<const std::uint8_t*>(&x);
    out.insert(out.end(), p, p + sizeof(x));
  };
  for (idx_t l = 0; l < kind.nlist(); ++l) {
    if (lists.list(l).ids.wants_sorting() && l % 2 == 0) lists.replace(l, lists.sorting(l));
    const InvertedLists::Head head = lists.head(l);
    const SortedIds::Head& sorted = head.ids.sorted;
    put(head.n), put(sorted.least), put(sorted.n), put(sorted.n_made), put(sorted.n_words);
    put(static_cast<std::uint8_t>(sorted.low_bits));
    put(static_cast<std::uint8_t>(head.ids.width));
    const InvertedLists::List& list = lists.list(l);
    const auto append = [](std::vector<std::uint8_t>& to, const Bytes& bytes) {
      to.insert(to.end(), bytes.data(), bytes.data() + bytes.size());
    };
    append(blocks, list.blocks);
    append(of_ids, list.ids.sorted_bytes());
    append(of_ids, list.ids.recent_bytes());
  }
  put(static_cast<std::uint32_t>(blocks.size()));
  out.insert(out.end(), blocks.begin(), blocks.end());
  out.insert(out.end(), of_ids.begin(), of_ids.end());
  return out;
}

inline std::vector<std::vector<std::uint8_t>> fuzz_seeds() {
  std::vector<std::vector<std::uint8_t>> seeds;
  for (int byte : {0x00, 0x91, 0x35, 0xb2, 0xd7, 0x5b, 0x80})
    for (idx_t n : {0, 3, 90})
      seeds.push_back(fuzz_seed(static_cast<std::uint8_t>(byte), n, n == 3 ? 10 : idx_t{1} << 40));
  return seeds;
}

// Inputs that have reached new code, each behind its length in four bytes.
inline std::vector<std::vector<std::uint8_t>> read_corpus(const char* path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<std::vector<std::uint8_t>> inputs;
  std::uint32_t size;
  while (in.read(reinterpret_cast<char*>(&size), sizeof(size))) {
    inputs.emplace_back(size);
    in.read(reinterpret_cast<char*>(inputs.back().data()), size);
  }
  return inputs;
}

}  // namespace fq::test
