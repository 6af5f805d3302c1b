// SPDX-License-Identifier: GPL-3.0-or-later
#include "mirror/sweep.h"

#include "base/status.h"

namespace utproxy {

void Sweep::Learn() {
  writer_->LearnAll({block_.data(), count_}, *interfaces_, now_ns_);
  count_ = 0;
}

std::vector<Socket> Sweep::Finish() {
  Learn();
  return writer_->Missing(seen_);
}

absl::Status DumpConnections(DiagClient* client, Sweep* sweep,
                             absl::FunctionRef<void()> meanwhile) {
  size_t taken = 0;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    RETURN_IF_ERROR(
        client->Dump(family, Proto::kTcp, kAllStates & ~kListenStates, [&](const Socket& socket) {
          sweep->Take(socket);
          if (++taken % kMeanwhile != 0) return;
          sweep->Learn();
          meanwhile();
        }));
  }
  return absl::OkStatus();
}

}  // namespace utproxy
