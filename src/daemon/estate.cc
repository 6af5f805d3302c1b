// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/estate.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "base/status.h"

namespace utproxy {
namespace {

constexpr size_t kHeader = 16;  // the text's length, in digits

bool WriteAt(int fd, absl::string_view bytes, off_t place) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), place);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
    place += n;
  }
  return true;
}

std::string ReadAt(int fd, size_t size, off_t place) {
  std::string text(size, '\0');
  size_t have = 0;
  while (have < size) {
    const ssize_t n =
        ::pread(fd, text.data() + have, size - have, place + static_cast<off_t>(have));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    have += static_cast<size_t>(n);
  }
  text.resize(have);
  return text;
}

}  // namespace

std::string QueueName(uint16_t number) { return absl::StrCat("queue-", number); }

UniqueFd Estate::Take(const std::string& name) {
  const auto it = fds_.find(name);
  if (it == fds_.end()) return UniqueFd();
  UniqueFd fd = std::move(it->second);
  fds_.erase(it);
  return fd;
}

std::string Estate::Words() const {
  const auto it = fds_.find("words");
  return it == fds_.end() ? std::string() : WordsFile::Read(it->second.get());
}

absl::StatusOr<WordsFile> WordsFile::Open(UniqueFd inherited) {
  UniqueFd fd = std::move(inherited);
  if (!fd.valid()) fd.reset(::memfd_create("utproxy-words", MFD_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "create a file in memory");
  return WordsFile(std::move(fd));
}

absl::Status WordsFile::Write(const std::string& text) {
  if (text.size() > kMaxBytes) return absl::OutOfRangeError("keep the configuration: too large");
  const std::string header = absl::StrFormat("%0*d", int{kHeader}, text.size());
  if (WriteAt(fd_.get(), text, kHeader) && WriteAt(fd_.get(), header, 0)) return absl::OkStatus();
  return ErrnoStatus(errno, "keep the configuration");
}

std::string WordsFile::Read(int fd) {
  size_t size = 0;
  if (!absl::SimpleAtoi(ReadAt(fd, kHeader, 0), &size) || size > kMaxBytes) return "";
  std::string text = ReadAt(fd, size, kHeader);
  return text.size() == size ? text : "";
}

}  // namespace utproxy
