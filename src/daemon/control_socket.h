// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_CONTROL_SOCKET_H_
#define UTPROXY_DAEMON_CONTROL_SOCKET_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/fd.h"

// What both ends of the control socket do with it. Any thread.
namespace utproxy {

inline constexpr char kDefaultControlPath[] = "/run/utproxy/control.sock";
inline constexpr int64_t kAliveNs = kNsPerSec;  // how often an idle stream says that it goes on
inline constexpr int64_t kNeverNs = int64_t{86400} * 365 * kNsPerSec;

// An error where the path is empty or does not fit.
absl::StatusOr<sockaddr_un> ControlAddress(const std::string& path);
absl::StatusOr<UniqueFd> OpenUnix();

// How long Connect() may wait where the other's backlog is full; it fails with EAGAIN then.
void LimitConnect(int fd, int64_t ns);
// 0, or the errno value.
int Connect(int fd, const sockaddr_un& address);

// False where the peer has gone, reads nothing for `stall_ns`, or `stop` (may be -1) became
// readable.
bool WriteAll(int fd, int stop, absl::string_view bytes, int64_t stall_ns);

// Reads up to and without the first newline. nullopt at the end of the stream, at the deadline
// (CLOCK_MONOTONIC), where `stop` (may be -1) became readable, or where the line is longer than
// `max`. What follows the newline stays in `rest`.
std::optional<std::string> ReadLine(int fd, int stop, size_t max, int64_t deadline_ns,
                                    std::string* rest);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_CONTROL_SOCKET_H_
