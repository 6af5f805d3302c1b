// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BENCH_ARGUMENTS_H_
#define UTPROXY_BENCH_ARGUMENTS_H_

#include <cstdlib>

namespace utproxy {

// The words of a bench's command line, all of them numbers that may be left out.
class Arguments {
 public:
  Arguments(int count, char** words) : count_(count), words_(words) {}

  // The i-th word, from 1 on, as a T; `otherwise` where there is none.
  template <typename T>
  T Number(int i, T otherwise) const {
    return i < count_ ? static_cast<T>(std::strtoll(words_[i], nullptr, 10)) : otherwise;
  }

 private:
  const int count_;
  char** const words_;
};

}  // namespace utproxy

#endif  // UTPROXY_BENCH_ARGUMENTS_H_
