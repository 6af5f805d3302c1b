// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BASE_FD_H_
#define UTPROXY_BASE_FD_H_

#include <utility>

namespace utproxy {

// Owns a file descriptor and closes it. -1 owns nothing. Movable, not copyable.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

}  // namespace utproxy

#endif  // UTPROXY_BASE_FD_H_
