// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BASE_HUGE_ARRAY_H_
#define UTPROXY_BASE_HUGE_ARRAY_H_

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

#include "base/reservation.h"

namespace utproxy {

// A fixed number of elements that begin as zero bytes, on transparent huge pages where they fill
// such: what is read at random at every packet misses the TLB otherwise, which in a virtual machine
// costs more than missing the cache. Takes memory only where it has been written. Movable.
template <typename T>
class HugeArray {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  HugeArray() = default;
  // `size` > 0, in elements, for which zero bytes must be a valid value. Throws std::bad_alloc.
  HugeArray(size_t size, absl::string_view what) : size_(size) {
    absl::StatusOr<Reservation> memory = Reservation::Create(size * sizeof(T), what);
    if (!memory.ok() || !memory->Open(0, size * sizeof(T), Reservation::Pages::kHuge).ok()) {
      throw std::bad_alloc();
    }
    memory_ = *std::move(memory);
  }

  bool empty() const { return size_ == 0; }
  T* begin() { return reinterpret_cast<T*>(memory_.data()); }
  T* end() { return begin() + size_; }
  const T* begin() const { return reinterpret_cast<const T*>(memory_.data()); }
  T& operator[](size_t i) { return begin()[i]; }
  const T& operator[](size_t i) const { return begin()[i]; }

 private:
  Reservation memory_;
  size_t size_ = 0;
};

}  // namespace utproxy

#endif  // UTPROXY_BASE_HUGE_ARRAY_H_
