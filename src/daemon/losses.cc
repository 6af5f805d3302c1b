// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/losses.h"

#include <absl/strings/str_cat.h>

namespace utproxy {
namespace {

struct LossText {
  const char* key;
  const char* sentence;
};

constexpr LossText kTexts[kLossCount] = {
    {"queue_full",
     "packets were dropped as the queue was full: add queues (--queue-balance) or "
     "raise --queue-maxlen"},
    {"netlink_overrun", "packets were dropped as the socket buffer was full: raise --rcvbuf"},
    {"flushed",
     "packets were dropped by the kernel while they were being decided: some program "
     "removed a chain from this network namespace, which empties every queue, or the interface "
     "that they came in by went down and up again"},
    {"interface_down",
     "packets were dropped by the kernel while they were being decided, as the interface that they "
     "came in by went down"},
    {"verdict_errors", "verdicts were refused by the kernel"},
    {"verdicts_unsent", "verdicts could not be sent to the kernel"},
    {"receive_errors", "reads from the queue failed"},
    {"malformed", "messages from the queue could not be read"},
    {"exact_failed", "packets were dropped as sock_diag did not answer"},
    {"shed",
     "packets of new TCP connections were dropped, as more came than can be decided and the queue "
     "was filling up: a flood, or add queues (--queue-balance)"},
    {"steer_failed",
     "packets were dropped as their flow could not be steered to the listener: see "
     "\"listener_error\" in 'utproxy stats -j'"},
};

}  // namespace

Json ToJson(const Losses& losses) {
  Json json;
  for (size_t i = 0; i < kLossCount; ++i) json[kTexts[i].key] = losses.counts[i];
  return json;
}

std::vector<std::string> LossLog::Tell(const Losses& now, int64_t now_ns) {
  std::vector<std::string> sentences;
  for (size_t i = 0; i < kLossCount; ++i) {
    if (now.counts[i] <= told_.counts[i]) continue;
    if (told_ns_[i] != 0 && now_ns - told_ns_[i] < kEveryNs) continue;
    sentences.push_back(absl::StrCat(now.counts[i] - told_.counts[i], " ", kTexts[i].sentence));
    told_.counts[i] = now.counts[i];
    told_ns_[i] = now_ns;
  }
  return sentences;
}

}  // namespace utproxy
