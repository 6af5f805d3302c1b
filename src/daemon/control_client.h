// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_CONTROL_CLIENT_H_
#define UTPROXY_DAEMON_CONTROL_CLIENT_H_

#include <absl/status/status.h>

#include <cstdint>
#include <functional>
#include <string>

#include "base/clock.h"
#include "daemon/control_socket.h"
#include "daemon/json.h"

namespace utproxy {

// How long an asker waits for an answer to begin; whoever takes longer is stopped or stuck.
inline constexpr int64_t kBeginNs = 3 * kNsPerSec;
// How long for each next line: what takes the daemon a while (a large table) must not fail.
inline constexpr int64_t kLineNs = 30 * kNsPerSec;
// How long a stream may be silent.
inline constexpr int64_t kSilenceNs = 10 * kNsPerSec;

// Of both: whose the sockets in the answer are is added (OwnerFiller), as far as the asker may
// know.
//
// Asks the daemon at `path`: sends `request` and hands each object of the answer to `handler`.
// An {"error": ...} object becomes the error, as does an answer without its end; a daemon that does
// not begin within kBeginNs, or takes longer than `line_ns` for a line, is a DeadlineExceeded.
// `handler` is called when the whole answer is there, so that a slow handler does not hold up the
// daemon.
absl::Status AskDaemon(const std::string& path, const Json& request,
                       const std::function<void(const Json&)>& handler, int64_t line_ns = kLineNs);

// The same for an answer that has no end until the asker wants none: `handler` is called with each
// object as it comes, and returns false where it wants no more; `pause` is called when it would
// have to wait for the next one. It waits for as long as it takes, but a daemon that has nothing to
// tell says so every second (kAliveNs): one that is silent for `silence_ns` is a DeadlineExceeded.
absl::Status StreamFromDaemon(const std::string& path, const Json& request,
                              const std::function<bool(const Json&)>& handler,
                              const std::function<void()>& pause, int64_t silence_ns = kSilenceNs);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_CONTROL_CLIENT_H_
