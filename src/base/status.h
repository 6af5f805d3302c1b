// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_BASE_STATUS_H_
#define UTPROXY_BASE_STATUS_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

namespace utproxy {

// An error of a system call as "what: strerror". `error` is a positive errno value. The command
// line prints it as "utproxy: what: strerror"; `what` names the operation and its object.
absl::Status ErrnoStatus(int error, absl::string_view what);

// The errno value that ErrnoStatus was given; 0 for a status made otherwise.
int ErrnoOf(const absl::Status& status);

// A status with a remedy, a sentence that tells the user what to do. The command line prints it
// on a second line.
absl::Status WithRemedy(absl::Status status, absl::string_view remedy);
// The remedy of `status`; empty where it has none.
std::string RemedyOf(const absl::Status& status);

}  // namespace utproxy

#define UTPROXY_CONCAT_INNER_(a, b) a##b
#define UTPROXY_CONCAT_(a, b) UTPROXY_CONCAT_INNER_(a, b)

// Returns the status from the calling function where it is not OK.
#define RETURN_IF_ERROR(expr)                          \
  do {                                                 \
    absl::Status utproxy_status_ = (expr);             \
    if (!utproxy_status_.ok()) return utproxy_status_; \
  } while (false)

// ASSIGN_OR_RETURN(auto value, Call()): returns the status where Call() failed.
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL_(UTPROXY_CONCAT_(utproxy_statusor_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                           \
  if (!tmp.ok()) return tmp.status();          \
  lhs = std::move(tmp).value()

#endif  // UTPROXY_BASE_STATUS_H_
