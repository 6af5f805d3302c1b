// SPDX-License-Identifier: GPL-3.0-or-later
#include "sockets/reservation.h"

#include <absl/strings/str_cat.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace utproxy {
namespace {

constexpr uintptr_t RoundUp(uintptr_t value, uintptr_t to) { return (value + to - 1) / to * to; }

}  // namespace

absl::StatusOr<Reservation> Reservation::Create(size_t bytes, absl::string_view what) {
  Reservation r;
  r.mapping_bytes_ = RoundUp(bytes, kHugePage) + kHugePage;
  void* mapping = ::mmap(nullptr, r.mapping_bytes_, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    return ErrnoStatus(errno, absl::StrCat("reserving ", r.mapping_bytes_, " bytes for ", what));
  }
  r.mapping_ = mapping;
  r.data_ = reinterpret_cast<std::byte*>(RoundUp(reinterpret_cast<uintptr_t>(mapping), kHugePage));
  // Without huge pages the table is slower and no less right: an error changes nothing.
  if (bytes > kHugePage) {
    (void)::madvise(r.data_ + kHugePage, RoundUp(bytes, kHugePage) - kHugePage, MADV_HUGEPAGE);
  }
  return r;
}

Reservation::Reservation(Reservation&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_bytes_(other.mapping_bytes_),
      data_(std::exchange(other.data_, nullptr)) {}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  std::swap(data_, other.data_);
  return *this;
}

Reservation::~Reservation() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

void Reservation::GiveBack(size_t offset, size_t bytes) const {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = RoundUp(offset, page);
  const size_t end = (offset + bytes) / page * page;
  if (begin < end) (void)::madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

}  // namespace utproxy
