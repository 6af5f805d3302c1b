// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/parse.h"

#include <netinet/in.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace utproxy {
namespace {

constexpr size_t kIpv4FixedLen = 20;
constexpr size_t kIpv6FixedLen = 40;
constexpr size_t kUdpLen = 8;
constexpr size_t kTcpFixedLen = 20;  // what inet_lookup's callers in nf_tproxy pull since 4.18
constexpr size_t kMaxClaim = 0xffff;

constexpr uint16_t kIpv4MoreOrOffset = 0x3fff;  // MF and the offset; DF and the reserved bit not
constexpr uint16_t kIpv6MoreOrOffset = 0xfff9;  // the offset and M; two reserved bits not

uint16_t Load16(const uint8_t* p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }

// `size` bytes of the transport header are there, by what was copied and by what the IP header
// claims.
ParseOutcome ReadTransport(const uint8_t* header, size_t size, Packet* out) {
  const bool tcp = out->protocol == IPPROTO_TCP;
  if (size < (tcp ? kTcpFixedLen : kUdpLen)) return ParseOutcome::kHeaderTruncated;
  out->sport = Load16(header);
  out->dport = Load16(header + 2);
  if (tcp) out->tcp_flags = header[13];
  return ParseOutcome::kOk;
}

ParseOutcome ReadIpv4(const uint8_t* p, size_t copied, size_t true_length, Packet* out) {
  if (copied < kIpv4FixedLen) return ParseOutcome::kHeaderTruncated;
  uint32_t v4;
  std::memcpy(&v4, p + 12, sizeof v4);
  out->src = Address::FromIpv4(v4);
  std::memcpy(&v4, p + 16, sizeof v4);
  out->dst = Address::FromIpv4(v4);
  out->protocol = p[9];

  const size_t header_len = static_cast<size_t>(p[0] & 0x0f) * 4;
  size_t total = Load16(p + 2);
  if (total == 0 && true_length > kMaxClaim) total = true_length;
  if (header_len < kIpv4FixedLen || total < header_len || total > true_length) {
    return ParseOutcome::kHeaderTruncated;
  }
  if ((Load16(p + 6) & kIpv4MoreOrOffset) != 0) return ParseOutcome::kFragment;
  if (out->protocol != IPPROTO_TCP && out->protocol != IPPROTO_UDP) {
    return ParseOutcome::kNotTcpOrUdp;
  }
  const size_t end = std::min(copied, total);
  if (end < header_len) return ParseOutcome::kHeaderTruncated;
  return ReadTransport(p + header_len, end - header_len, out);
}

bool IsWalkedExtension(uint8_t protocol) {
  switch (protocol) {
    case IPPROTO_HOPOPTS:
    case IPPROTO_ROUTING:
    case IPPROTO_DSTOPTS:
    case IPPROTO_FRAGMENT:
    case IPPROTO_AH:
      return true;
    default:
      return false;
  }
}

// The length in bytes of the extension header of this protocol number at `header`, by its second
// byte. At least 8.
size_t ExtensionLen(uint8_t protocol, const uint8_t* header) {
  if (protocol == IPPROTO_FRAGMENT) return 8;  // the second byte is reserved there
  if (protocol == IPPROTO_AH) return (static_cast<size_t>(header[1]) + 2) * 4;
  return (static_cast<size_t>(header[1]) + 1) * 8;
}

// Walks from `at` to the transport header. `end` bounds what may be read.
ParseOutcome WalkIpv6(const uint8_t* p, size_t at, size_t end, Packet* out) {
  while (IsWalkedExtension(out->protocol)) {
    if (end - at < 8) return ParseOutcome::kHeaderTruncated;
    const uint8_t* header = p + at;
    const uint8_t type = out->protocol;
    const size_t len = ExtensionLen(type, header);
    out->protocol = header[0];
    if (type == IPPROTO_FRAGMENT && (Load16(header + 2) & kIpv6MoreOrOffset) != 0) {
      return ParseOutcome::kFragment;
    }
    if (len > end - at) return ParseOutcome::kHeaderTruncated;
    at += len;
  }
  if (out->protocol != IPPROTO_TCP && out->protocol != IPPROTO_UDP) {
    return ParseOutcome::kNotTcpOrUdp;
  }
  return ReadTransport(p + at, end - at, out);
}

ParseOutcome ReadIpv6(const uint8_t* p, size_t copied, size_t true_length, Packet* out) {
  out->family = Family::kIpv6;
  if (copied < kIpv6FixedLen) return ParseOutcome::kHeaderTruncated;
  out->src = Address::FromIpv6(p + 8);
  out->dst = Address::FromIpv6(p + 24);
  out->protocol = p[6];

  const size_t true_payload = true_length - kIpv6FixedLen;
  size_t payload = Load16(p + 4);
  if (payload == 0 && (out->protocol == IPPROTO_HOPOPTS || true_payload > kMaxClaim)) {
    payload = true_payload;
  }
  if (payload > true_payload) return ParseOutcome::kHeaderTruncated;
  return WalkIpv6(p, kIpv6FixedLen, std::min(copied, kIpv6FixedLen + payload), out);
}

}  // namespace

void ParsePacket(absl::Span<const uint8_t> bytes, uint32_t true_length, Packet* out) {
  const uint32_t iif = out->iif;
  const uint32_t mark = out->mark;
  *out = Packet{};
  out->iif = iif;
  out->mark = mark;

  const size_t copied = std::min<size_t>(bytes.size(), true_length);
  const unsigned version = copied == 0 ? 0 : bytes[0] >> 4;
  if (version == 4) {
    out->outcome = ReadIpv4(bytes.data(), copied, true_length, out);
  } else if (version == 6) {
    out->outcome = ReadIpv6(bytes.data(), copied, true_length, out);
  } else {
    out->outcome = ParseOutcome::kHeaderTruncated;
  }
}

}  // namespace utproxy
