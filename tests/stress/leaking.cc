// SPDX-License-Identifier: GPL-3.0-or-later
// For LD_PRELOAD: loses a block of memory, so that a test for leaks can be seen to find one.
#include <cstdlib>

namespace {

constexpr size_t kLostBytes = 4711;
void* volatile lost;  // volatile: the block must be allocated, and its address overwritten

[[gnu::constructor]] void Lose() {
  lost = std::malloc(kLostBytes);
  lost = nullptr;
}

}  // namespace
