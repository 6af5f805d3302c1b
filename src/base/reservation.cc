// SPDX-License-Identifier: GPL-3.0-or-later
#include "base/reservation.h"

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

size_t Page() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }

}  // namespace

absl::StatusOr<Reservation> Reservation::Create(size_t bytes, absl::string_view what) {
  Reservation r;
  r.what_ = std::string(what);
  r.mapping_bytes_ = RoundUp(bytes, kHugePage) + kHugePage;
  void* mapping = ::mmap(nullptr, r.mapping_bytes_, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) {
    return ErrnoStatus(errno, absl::StrCat("reserving ", r.mapping_bytes_, " bytes for ", what));
  }
  r.mapping_ = mapping;
  r.data_ = reinterpret_cast<std::byte*>(RoundUp(reinterpret_cast<uintptr_t>(mapping), kHugePage));
  return r;
}

Reservation::Reservation(Reservation&& other) noexcept { *this = std::move(other); }

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  std::swap(data_, other.data_);
  std::swap(what_, other.what_);
  return *this;
}

Reservation::~Reservation() {
  if (mapping_ != nullptr) ::munmap(mapping_, mapping_bytes_);
}

size_t Reservation::NextOffset(size_t end, size_t bytes) {
  return RoundUp(end, bytes >= kHugePage ? kHugePage : Page());
}

absl::Status Reservation::Open(size_t offset, size_t bytes, Pages pages) const {
  const size_t length = RoundUp(bytes, Page());
  if (::mprotect(data_ + offset, length, PROT_READ | PROT_WRITE) != 0) {
    return ErrnoStatus(errno, absl::StrCat("getting ", length, " bytes for ", what_));
  }
  // Without huge pages the table is slower and no less right: an error changes nothing. A last
  // page that is not whole stays small.
  if (pages == Pages::kHuge && bytes >= kHugePage) {
    (void)::madvise(data_ + offset, length, MADV_HUGEPAGE);
  }
  return absl::OkStatus();
}

void Reservation::GiveBack(size_t offset, size_t bytes) const {
  const size_t begin = RoundUp(offset, Page());
  const size_t end = (offset + bytes) / Page() * Page();
  if (begin < end) (void)::madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

}  // namespace utproxy
