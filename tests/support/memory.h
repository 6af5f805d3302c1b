// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_SUPPORT_MEMORY_H_
#define UTPROXY_TESTS_SUPPORT_MEMORY_H_

#include <fstream>
#include <string>

namespace utproxy::testing {

// A sanitizer's allocator keeps what was freed, and tells nothing of the real one.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kAllocatorIsReal = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
inline constexpr bool kAllocatorIsReal = false;
#else
inline constexpr bool kAllocatorIsReal = true;
#endif
#else
inline constexpr bool kAllocatorIsReal = true;
#endif

// What this process has written to that is no file's, in KiB. -1 where the kernel does not tell.
inline long AnonymousKb() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string word; file >> word;) {
    if (word != "Anonymous:") continue;
    long kb = -1;
    file >> kb;
    return kb;
  }
  return -1;
}

}  // namespace utproxy::testing

#endif  // UTPROXY_TESTS_SUPPORT_MEMORY_H_
