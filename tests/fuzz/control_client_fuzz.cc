// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: a daemon's answer, to the commands that ask one. The first byte chooses the
// command; the rest is what the control socket has for it. Whatever that is, the command ends with
// its status and says nothing but printable text.
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "commands.h"
#include "utproxy/decision.h"

namespace {

const uint8_t* g_answer = nullptr;
size_t g_answer_size = 0;

const std::vector<std::string> kCommands[] = {
    {"stats"},
    {"stats", "-j"},
    {"sockets"},
    {"sockets", "-j", "--interfaces"},
    {"trace"},
    {"trace", "--last", "5", "-j"},
    {"trace", "--write", "-"},
    {"trace", "--until", "drop"},
    {"explain", "tcp", "192.0.2.1:40000", "198.51.100.1:80", "--live"},
};

// A capture is bytes.
bool IsText(size_t command) { return command != 6; }

bool Printable(const std::string& text) {
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\n') || c == 0x7f) return false;
  }
  return true;
}

}  // namespace

extern "C" {

// The linker's names (--wrap).
// NOLINTBEGIN
int __real_socket(int domain, int type, int protocol);
int __real_connect(int fd, const sockaddr* address, socklen_t length);

// A Unix socket's other end has said all it will.
int __wrap_socket(int domain, int type, int protocol) {
  if (domain != AF_UNIX) return __real_socket(domain, type, protocol);
  int ends[2];
  if (::socketpair(domain, type, protocol, ends) != 0) std::abort();
  if (::send(ends[1], g_answer, g_answer_size, MSG_NOSIGNAL | MSG_DONTWAIT) !=
      static_cast<ssize_t>(g_answer_size)) {
    std::abort();
  }
  ::shutdown(ends[1], SHUT_WR);
  // The asker's request goes nowhere, but is taken.
  static int peer = -1;
  if (peer >= 0) ::close(peer);
  peer = ends[1];
  return ends[0];
}

int __wrap_connect(int fd, const sockaddr* address, socklen_t length) {
  return address->sa_family == AF_UNIX ? 0 : __real_connect(fd, address, length);
}

// Whose the sockets are is asked of /proc, at length; nobody's here. In the place of libc's openat,
// which the standard library's directory_iterator calls: <fcntl.h> makes that name openat64 here.
int NoDirectory(int, const char*, int, ...) __asm__("openat");
int NoDirectory(int, const char*, int, ...) {
  errno = ENOENT;
  return -1;
}
// NOLINTEND

}  // extern "C"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace utproxy::tools;  // NOLINT
  if (size == 0) return 0;
  const size_t command = data[0] % std::size(kCommands);
  g_answer = data + 1;
  g_answer_size = size - 1;
  std::istringstream in;
  std::ostringstream out, err;
  Environment env{.in = in, .out = out, .err = err};
  const int exit = RunCommandLine(Commands(), kCommands[command], env);
  if (exit != kExitOk && exit != kExitFailed) std::abort();
  if (exit == kExitFailed && err.str().empty()) std::abort();
  // A malformed answer is no lack of memory.
  if (err.str().find("out of resources") != std::string::npos) std::abort();
  if (!Printable(err.str()) || (IsText(command) && !Printable(out.str()))) std::abort();
  return 0;
}
