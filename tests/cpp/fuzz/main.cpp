/* libFuzzer's side of sections.hpp; needs clang.

    cmake -B build/fuzz -DFAISS_QINCO_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++ \
        -DFAISS_QINCO_SANITIZE=address,undefined,fuzzer-no-link
    cmake --build build/fuzz
    mkdir all few && build/fuzz/qinco_fuzz --unpack=all    # what is known
    build/fuzz/qinco_fuzz all -runs=1000000
    build/fuzz/qinco_fuzz -merge=1 -max_len=700 few all    # what reaches all that they reach
    build/fuzz/qinco_fuzz --pack=few                       # to corpus.bin, for the tests
*/
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "fuzz/sections.hpp"

namespace {

constexpr std::ios::openmode kBinary = std::ios::binary;

void write(std::ofstream&& file, const std::vector<std::uint8_t>& data) {
  file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
}

void unpack(const std::filesystem::path& folder) {
  std::vector<std::vector<std::uint8_t>> inputs = fq::test::fuzz_seeds();
  for (auto& input : fq::test::read_corpus(FAISS_QINCO_CORPUS)) inputs.push_back(std::move(input));
  int i = 0;
  for (const auto& input : inputs)
    write(std::ofstream(folder / std::to_string(i++), kBinary), input);
}

void pack(const std::filesystem::path& folder) {
  std::vector<std::vector<std::uint8_t>> inputs;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(entry.path(), kBinary);
    inputs.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
  std::sort(inputs.begin(), inputs.end());
  std::vector<std::uint8_t> all;
  for (const auto& input : inputs) {
    const auto size = static_cast<std::uint32_t>(input.size());
    const auto* p = reinterpret_cast<const std::uint8_t*>(&size);
    all.insert(all.end(), p, p + sizeof(size));
    all.insert(all.end(), input.begin(), input.end());
  }
  write(std::ofstream(FAISS_QINCO_CORPUS, kBinary), all);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  const std::string option = *argc == 2 ? (*argv)[1] : "";
  if (option.rfind("--unpack=", 0) == 0) {
    unpack(option.substr(9));
    std::exit(0);
  }
  if (option.rfind("--pack=", 0) == 0) {
    pack(option.substr(7));
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fq::test::fuzz_sections(data, size);
  return 0;
}
