// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BASE_RESERVATION_H_
#define UTPROXY_BASE_RESERVATION_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <string>

namespace utproxy {

// A stretch of address space. Parts of it become zeroed memory by Open(), which takes memory only
// where it is written; all of it stays mapped, at one address, until the owner is destroyed.
// Movable, not copyable. Offsets and lengths in bytes.
class Reservation {
 public:
  static constexpr size_t kHugePage = size_t{2} << 20;

  // `bytes` > 0. The start is aligned to kHugePage. RESOURCE_EXHAUSTED or another error of mmap(2)
  // names `what`.
  static absl::StatusOr<Reservation> Create(size_t bytes, absl::string_view what);
  Reservation() = default;
  Reservation(Reservation&& other) noexcept;
  Reservation& operator=(Reservation&& other) noexcept;
  ~Reservation();

  std::byte* data() const { return data_; }

  // Where a part of `bytes` may begin that follows one ending at `end`: on a page of its own, and
  // if it is large, on a huge page.
  static size_t NextOffset(size_t end, size_t bytes);

  // Allows [offset, offset + bytes), with an offset from NextOffset, to be read and written. kHuge:
  // a large part, most of which will be written, asks for transparent huge pages. Fails where the
  // system's limits (RLIMIT_DATA, strict overcommit) do not allow it, and can then be tried again.
  enum class Pages { kSmall, kHuge };
  absl::Status Open(size_t offset, size_t bytes, Pages pages) const;

  // Gives the memory of the whole pages within [offset, offset + bytes) back to the system. They
  // may read as before or as zero afterwards, and can be written again. May be refused, as for
  // pages locked by mlockall(2); nothing but memory use depends on it.
  void GiveBack(size_t offset, size_t bytes) const;

 private:
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::byte* data_ = nullptr;
  std::string what_;
};

}  // namespace utproxy

#endif  // UTPROXY_BASE_RESERVATION_H_
