// SPDX-License-Identifier: GPL-3.0-or-later
#include "base/status.h"

#include <absl/strings/cord.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <system_error>

namespace utproxy {
namespace {
constexpr char kRemedyUrl[] = "utproxy/remedy";
constexpr char kErrnoUrl[] = "utproxy/errno";
}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view what) {
  absl::Status status(absl::ErrnoToStatusCode(error),
                      absl::StrCat(what, ": ", std::generic_category().message(error)));
  status.SetPayload(kErrnoUrl, absl::Cord(absl::StrCat(error)));
  return status;
}

int ErrnoOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kErrnoUrl);
  int error = 0;
  if (payload.has_value() && !absl::SimpleAtoi(std::string(*payload), &error)) error = 0;
  return error;
}

absl::Status WithRemedy(absl::Status status, absl::string_view remedy) {
  if (!status.ok()) status.SetPayload(kRemedyUrl, absl::Cord(remedy));
  return status;
}

std::string RemedyOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRemedyUrl);
  return payload.has_value() ? std::string(*payload) : std::string();
}

}  // namespace utproxy
