// User errors. They derive from the standard types that pybind11 turns into ValueError and
// RuntimeError.
#pragma once

#include <sstream>
#include <stdexcept>

namespace fq {

struct CheckError : std::invalid_argument {  // ValueError: a bad argument
  using std::invalid_argument::invalid_argument;
};

struct StateError : std::runtime_error {  // RuntimeError: the object cannot do this (yet)
  using std::runtime_error::runtime_error;
};

template <class Error = CheckError, class... Parts>
void check(bool ok, const Parts&... message) {
  if (ok) return;
  std::ostringstream text;
  (text << ... << message);
  throw Error(text.str());
}

}  // namespace fq
