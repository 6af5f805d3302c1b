// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TOOLS_PACKET_SPEC_H_
#define UTPROXY_TOOLS_PACKET_SPEC_H_

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstdint>
#include <optional>
#include <string>

#include "daemon/json.h"
#include "options.h"
#include "utproxy/packet.h"

namespace utproxy::tools {

// A packet in words: "tcp 10.0.1.99:40000 10.0.2.99:8080 --iif veth0 --flags S --mark 0x1".
// A command keeps one as a member and adds its words to its table; not movable, as the setters
// point into it.
class PacketSpec {
 public:
  explicit PacketSpec(InterfaceIndexes index) : index_(std::move(index)) {}
  PacketSpec(const PacketSpec&) = delete;
  PacketSpec& operator=(const PacketSpec&) = delete;

  // The arguments PROTO SRC DST and --iif, --flags, --mark. With `optional` the arguments may be
  // absent altogether, as where packets are read from a file.
  void AddWords(OptionTable& table, bool optional = false);

  // Any of the words was given.
  bool given() const { return given_; }
  // The packet; a UsageError where the words do not go together. --flags defaults to S for TCP.
  absl::StatusOr<Packet> Finish() const;

 private:
  absl::Status SetFlags(absl::string_view letters);

  InterfaceIndexes index_;
  bool given_ = false;
  std::optional<Proto> proto_;
  std::optional<Endpoint> src_, dst_;
  std::optional<uint8_t> flags_;
  uint32_t iif_ = 0;
  uint32_t mark_ = 0;
};

// Reads one line of such words, separated by blanks.
absl::StatusOr<Packet> ParsePacketLine(absl::string_view line, const InterfaceIndexes& index);

// The index of an interface of this network namespace by name.
absl::StatusOr<uint32_t> SystemInterfaceIndex(absl::string_view name);

}  // namespace utproxy::tools

#endif  // UTPROXY_TOOLS_PACKET_SPEC_H_
