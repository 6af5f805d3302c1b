// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/packet_mask.h"

#include <absl/types/span.h>

#include <algorithm>
#include <utility>

#include "utproxy/parse.h"

namespace utproxy {
namespace {

using Bytes = std::vector<uint8_t>;

Packet Parsed(absl::Span<const uint8_t> bytes, uint32_t true_length) {
  Packet packet;
  ParsePacket(bytes, true_length, &packet);
  return packet;
}

bool Same(const Packet& a, const Packet& b) {
  return a.key() == b.key() && a.family == b.family && a.protocol == b.protocol &&
         a.tcp_flags == b.tcp_flags && a.outcome == b.outcome;
}

// The front of a packet that is all that is read of it; of a packet at least its first byte.
void CutUnread(uint32_t true_length, Bytes* bytes) {
  const Packet whole = Parsed(*bytes, true_length);
  size_t length = std::min<size_t>(bytes->size(), 1);
  while (length < bytes->size() &&
         !Same(Parsed(absl::MakeConstSpan(*bytes).subspan(0, length), true_length), whole)) {
    ++length;
  }
  bytes->resize(length);
}

void MaskAddressAt(size_t at, Family family, Anonymizer* anonymizer, Bytes* bytes) {
  uint8_t* place = bytes->data() + at;
  if (family == Family::kIpv6) {
    const Address masked = anonymizer->Mask(Address::FromIpv6(place));
    std::copy(masked.bytes().begin(), masked.bytes().end(), place);
    return;
  }
  uint32_t v4 = 0;
  std::copy(place, place + sizeof v4, reinterpret_cast<uint8_t*>(&v4));
  const Address masked = anonymizer->Mask(Address::FromIpv4(v4));
  std::copy(masked.bytes().begin() + 12, masked.bytes().end(), place);
}

// What stands between two places and can be zero with nothing else read.
void ClearUnread(size_t from, size_t end, uint32_t true_length, Bytes* bytes) {
  const Packet before = Parsed(*bytes, true_length);
  for (size_t i = from; i < end; ++i) {
    const uint8_t value = std::exchange((*bytes)[i], uint8_t{0});
    if (!Same(Parsed(*bytes, true_length), before)) (*bytes)[i] = value;
  }
}

}  // namespace

void MaskPacket(uint32_t true_length, Anonymizer* anonymizer, Bytes* bytes) {
  CutUnread(true_length, bytes);
  const Packet packet = Parsed(*bytes, true_length);
  const bool v6 = packet.family == Family::kIpv6;
  const size_t fixed = v6 ? 40 : 20;
  if (bytes->size() < fixed) {
    // Nothing is read of it; a part of an address may be there.
    std::fill(bytes->begin() + std::min<ptrdiff_t>(1, bytes->end() - bytes->begin()), bytes->end(),
              uint8_t{0});
    return;
  }
  MaskAddressAt(v6 ? 8 : 12, packet.family, anonymizer, bytes);
  MaskAddressAt(v6 ? 24 : 16, packet.family, anonymizer, bytes);
  if (!v6) (*bytes)[10] = (*bytes)[11] = 0;
  size_t transport = 0;  // its header, whole, is what the packet ends with now
  if (packet.outcome == ParseOutcome::kOk) transport = packet.is_tcp() ? 20 : 8;
  ClearUnread(fixed, bytes->size() - transport, true_length, bytes);
  if (transport == 0) return;
  const size_t checksum = bytes->size() - transport + (packet.is_tcp() ? 16 : 6);
  (*bytes)[checksum] = (*bytes)[checksum + 1] = 0;
}

}  // namespace utproxy
