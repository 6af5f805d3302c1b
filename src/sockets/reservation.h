// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_SOCKETS_RESERVATION_H_
#define UTPROXY_SOCKETS_RESERVATION_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstddef>

namespace utproxy {

// A stretch of zeroed address space that takes memory only where it is written. It stays mapped,
// at one address, until the owner is destroyed. Movable, not copyable.
class Reservation {
 public:
  static constexpr size_t kHugePage = size_t{2} << 20;

  // `bytes` > 0. The start is aligned to kHugePage; all but the first kHugePage bytes, which are
  // all that a small table ever touches, ask for transparent huge pages. RESOURCE_EXHAUSTED or
  // another error of mmap(2) names `what`.
  static absl::StatusOr<Reservation> Create(size_t bytes, absl::string_view what);
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  std::byte* data() const { return data_; }

  // Gives the memory of the whole pages within [offset, offset + bytes) back to the system. They
  // may read as before or as zero afterwards, and can be written again. May be refused, as for
  // pages locked by mlockall(2); nothing but memory use depends on it.
  void GiveBack(size_t offset, size_t bytes) const;

 private:
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace utproxy

#endif  // UTPROXY_SOCKETS_RESERVATION_H_
