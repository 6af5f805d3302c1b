// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_DECISION_CAPTURE_H_
#define UTPROXY_TOOLS_DECISION_CAPTURE_H_

#include <string>

#include "daemon/json.h"
#include "trace/pcapng_writer.h"

namespace utproxy::tools {

// Decisions as a pcapng file that replay and Wireshark read: each packet with its decision as
// comment. Returns bytes to append to the file. For one thread.
class DecisionCapture {
 public:
  // The file's beginning; once.
  std::string Header();
  // Of the object of one decision, with "raw" (TraceParts::raw).
  std::string Packet(const Json& json);

 private:
  PcapngWriter writer_;
};

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_DECISION_CAPTURE_H_
