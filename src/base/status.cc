// SPDX-License-Identifier: GPL-3.0-or-later
#include "base/status.h"

#include <absl/strings/cord.h>
#include <absl/strings/str_cat.h>

#include <system_error>

namespace utproxy {
namespace {
constexpr char kRemedyUrl[] = "utproxy/remedy";
}  // namespace

absl::Status ErrnoStatus(int error, absl::string_view what) {
  return absl::Status(absl::ErrnoToStatusCode(error),
                      absl::StrCat(what, ": ", std::generic_category().message(error)));
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
