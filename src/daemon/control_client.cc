// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/control_client.h"

#include <absl/strings/str_cat.h>

#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "daemon/control_socket.h"
#include "daemon/json_line.h"
#include "daemon/owner_filler.h"

namespace utproxy {
namespace {

constexpr size_t kMaxAnswerLine = size_t{1} << 20;

constexpr char kNoAnswerRemedy[] =
    "Its process may be stopped or stuck, and holds up the packets of its queues then: see 'State' "
    "in its /proc/PID/status.";

// One conversation with the daemon.
class Asker {
 public:
  static absl::StatusOr<Asker> Open(const std::string& path, const Json& request);
  // The next object of the answer. An error where there is none within `patience_ns`, or it is one.
  absl::StatusOr<Json> Next(int64_t patience_ns);
  // Whether Next() would have to wait.
  bool dry() const { return rest_.find('\n') == std::string::npos; }

 private:
  Asker(std::string what, UniqueFd fd) : what_(std::move(what)), fd_(std::move(fd)) {}
  static absl::Status NoAnswer(absl::string_view what, int64_t waited_ns) {
    return WithRemedy(absl::DeadlineExceededError(
                          absl::StrCat(what, ": no answer within ", waited_ns / kNsPerSec, " s")),
                      kNoAnswerRemedy);
  }

  std::string what_;
  UniqueFd fd_;
  std::string rest_;
};

absl::StatusOr<Asker> Asker::Open(const std::string& path, const Json& request) {
  std::string what = absl::StrCat("ask the daemon at ", path);
  ASSIGN_OR_RETURN(const sockaddr_un address, ControlAddress(path));
  ASSIGN_OR_RETURN(UniqueFd fd, OpenUnix());
  LimitConnect(fd.get(), kBeginNs);
  const int error = Connect(fd.get(), address);
  if (error == EAGAIN) return NoAnswer(what, kBeginNs);
  if (error != 0) {
    return WithRemedy(ErrnoStatus(error, what),
                      "Start it with 'utproxy run', or name its socket with --control.");
  }
  const bool written = WriteAll(fd.get(), -1, absl::StrCat(JsonLine(request), "\n"), kBeginNs);
  Asker asker(std::move(what), std::move(fd));
  if (written) return asker;
  // Whoever is refused is told why, and need not be read.
  RETURN_IF_ERROR(asker.Next(kBeginNs).status());
  return absl::UnavailableError(absl::StrCat(asker.what_, ": it does not read"));
}

absl::StatusOr<Json> Asker::Next(int64_t patience_ns) {
  const int64_t deadline_ns = MonotonicNs() + patience_ns;
  const std::optional<std::string> line =
      ReadLine(fd_.get(), -1, kMaxAnswerLine, deadline_ns, &rest_);
  if (!line && MonotonicNs() >= deadline_ns) return NoAnswer(what_, patience_ns);
  if (!line) return absl::DataLossError(absl::StrCat(what_, ": the answer was cut short"));
  Json answer = ParseLine(*line);
  if (!answer.is_object()) return absl::DataLossError(absl::StrCat(what_, ": malformed answer"));
  if (answer.contains("error") && answer["error"].is_string()) {
    return absl::FailedPreconditionError(
        absl::StrCat(what_, ": ", answer["error"].get<std::string>()));
  }
  return answer;
}

// Hands each object of the answer to `handler`, until it returns false or the end has come.
absl::Status Ask(const std::string& path, const Json& request, int64_t line_ns,
                 const std::function<bool(Json)>& handler, const std::function<void()>& pause) {
  ASSIGN_OR_RETURN(Asker asker, Asker::Open(path, request));
  ASSIGN_OR_RETURN(Json answer, asker.Next(kBeginNs));
  OwnerFiller owners;
  while (!answer.contains("end")) {
    owners.Fill(&answer);
    if (!answer.contains("begin") && !handler(std::move(answer))) break;
    if (asker.dry()) pause();
    ASSIGN_OR_RETURN(answer, asker.Next(line_ns));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status AskDaemon(const std::string& path, const Json& request,
                       const std::function<void(const Json&)>& handler, int64_t line_ns) {
  std::vector<Json> answers;
  RETURN_IF_ERROR(Ask(
      path, request, line_ns,
      [&](Json answer) {
        answers.push_back(std::move(answer));
        return true;
      },
      [] {}));
  for (const Json& each : answers) handler(each);
  return absl::OkStatus();
}

absl::Status StreamFromDaemon(const std::string& path, const Json& request,
                              const std::function<bool(const Json&)>& handler,
                              const std::function<void()>& pause, int64_t silence_ns) {
  return Ask(
      path, request, silence_ns, [&](Json answer) { return handler(answer); }, pause);
}

}  // namespace utproxy
