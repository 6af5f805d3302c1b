// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TRACE_PCAPNG_WRITER_H_
#define UTPROXY_TRACE_PCAPNG_WRITER_H_

#include <absl/container/flat_hash_map.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <cstdint>
#include <string>

namespace utproxy {

// Makes the blocks of a pcapng file (draft-ietf-opsawg-pcapng), which libpcap reads but does not
// write. Link type is NFLOG, which carries a packet's interface index and mark; times are in
// nanoseconds. Each call returns bytes to append to the file; after each of them it is whole.
class PcapngWriter {
 public:
  // Longest comment in bytes; what is beyond it is cut off. An option's length has 16 bits.
  static constexpr size_t kMaxComment = 65535;

  // The file's first blocks, with an interface that has no name; once, before any packet.
  std::string Header(absl::string_view program);

  struct PacketBlock {
    int64_t time_ns = 0;              // CLOCK_REALTIME
    absl::Span<const uint8_t> bytes;  // as WriteNflog makes them
    uint32_t true_length = 0;         // not less than bytes.size(): on the wire
    absl::string_view interface;      // its name, of any bytes; may be empty
    uint16_t queue = 0;               // where it was decided
    absl::string_view comment;
  };
  // One packet, with a block before it that names its interface where that is new.
  std::string Packet(const PacketBlock& packet);

 private:
  uint32_t InterfaceNumber(absl::string_view name, std::string* out);

  absl::flat_hash_map<std::string, uint32_t> interfaces_;
};

}  // namespace utproxy

#endif  // UTPROXY_TRACE_PCAPNG_WRITER_H_
