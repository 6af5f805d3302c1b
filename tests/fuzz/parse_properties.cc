// SPDX-License-Identifier: GPL-3.0-or-later
#include "parse_properties.h"

#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "packet/build.h"
#include "utproxy/parse.h"

namespace utproxy {
namespace {

bool SamePacket(const Packet& a, const Packet& b) {
  return a.src == b.src && a.dst == b.dst && a.sport == b.sport && a.dport == b.dport &&
         a.family == b.family && a.protocol == b.protocol && a.tcp_flags == b.tcp_flags &&
         a.outcome == b.outcome;
}

// Parses a copy in a buffer of its own size, where the address sanitizer sees each byte read
// beyond, into a packet that is full of `junk`.
Packet Parse(absl::Span<const uint8_t> bytes, size_t true_length, uint8_t junk) {
  const auto copy = std::make_unique<uint8_t[]>(bytes.size());
  std::copy(bytes.begin(), bytes.end(), copy.get());
  Packet out;
  std::memset(static_cast<void*>(&out), junk, sizeof out);
  ParsePacket(absl::MakeSpan(copy.get(), bytes.size()), static_cast<uint32_t>(true_length), &out);
  return out;
}

// The same question answered as the kernel does it, in its order and with its structures: first
// the cut to the length that the IP header claims, then a walk that looks at one field at a time.
// Knows of a hit and its ports only; nullopt is any miss.
struct Hit {
  uint8_t protocol;
  uint16_t sport;
  uint16_t dport;
  friend bool operator==(const Hit&, const Hit&) = default;
};

template <typename T>
std::optional<T> Pull(absl::Span<const uint8_t> bytes, size_t at) {
  T value;
  if (at > bytes.size() || bytes.size() - at < sizeof value) return std::nullopt;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

std::optional<Hit> TransportHit(absl::Span<const uint8_t> skb, size_t at, uint8_t protocol) {
  if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP) return std::nullopt;
  struct Ports {
    uint16_t source, dest;
    uint8_t rest[4];
  };
  const auto ports = Pull<Ports>(skb, at);
  if (!ports) return std::nullopt;
  if (protocol == IPPROTO_TCP && skb.size() - at < 20) return std::nullopt;
  return Hit{protocol, ntohs(ports->source), ntohs(ports->dest)};
}

std::optional<Hit> Ipv4Hit(absl::Span<const uint8_t> bytes, size_t wire) {
  const auto ip = Pull<iphdr>(bytes, 0);
  if (!ip || ip->ihl < 5) return std::nullopt;
  size_t total = ntohs(ip->tot_len);
  if (total == 0 && wire > 65535) total = wire;
  if (total > wire || total < ip->ihl * 4u) return std::nullopt;
  if ((ntohs(ip->frag_off) & (IP_MF | IP_OFFMASK)) != 0) return std::nullopt;
  return TransportHit(bytes.subspan(0, total), ip->ihl * 4u, ip->protocol);
}

std::optional<Hit> Ipv6Hit(absl::Span<const uint8_t> bytes, size_t wire) {
  const auto ip = Pull<ip6_hdr>(bytes, 0);
  if (!ip) return std::nullopt;
  size_t payload = ntohs(ip->ip6_plen);
  if (payload == 0 && (ip->ip6_nxt == IPPROTO_HOPOPTS || wire - 40 > 65535)) payload = wire - 40;
  if (payload + 40 > wire) return std::nullopt;
  const absl::Span<const uint8_t> skb = bytes.subspan(0, payload + 40);
  uint8_t next = ip->ip6_nxt;
  size_t at = 40;
  for (;;) {
    const bool fragment = next == IPPROTO_FRAGMENT, ah = next == IPPROTO_AH;
    if (!fragment && !ah && next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
        next != IPPROTO_DSTOPTS) {
      return TransportHit(skb, at, next);
    }
    const auto ext = Pull<ip6_ext>(skb, at);
    if (!ext) return std::nullopt;
    if (fragment) {
      const auto frag = Pull<ip6_frag>(skb, at);
      if (!frag || (frag->ip6f_offlg & (IP6F_OFF_MASK | IP6F_MORE_FRAG)) != 0) return std::nullopt;
    }
    at += fragment ? 8u : ah ? (ext->ip6e_len + 2u) * 4 : (ext->ip6e_len + 1u) * 8;
    next = ext->ip6e_nxt;
  }
}

std::optional<Hit> ReferenceHit(absl::Span<const uint8_t> bytes, size_t true_length) {
  bytes = bytes.subspan(0, true_length);
  if (bytes.empty()) return std::nullopt;
  const unsigned version = bytes[0] >> 4;
  if (version == 4) return Ipv4Hit(bytes, true_length);
  if (version == 6) return Ipv6Hit(bytes, true_length);
  return std::nullopt;
}

const char* AgainstReference(const Packet& p, absl::Span<const uint8_t> bytes, size_t true_length) {
  const std::optional<Hit> want = ReferenceHit(bytes, true_length);
  if (want.has_value() != (p.outcome == ParseOutcome::kOk))
    return "the kernel's walk ends otherwise";
  if (want && *want != Hit{p.protocol, p.sport, p.dport})
    return "the kernel's walk reads otherwise";
  return nullptr;
}

const char* MissHasNoPorts(const Packet& p) {
  if (p.outcome == ParseOutcome::kOk) {
    if (p.protocol != IPPROTO_TCP && p.protocol != IPPROTO_UDP) return "neither TCP nor UDP is ok";
    if (!p.is_tcp() && p.tcp_flags != 0) return "UDP has flags";
  } else if (p.sport != 0 || p.dport != 0 || p.tcp_flags != 0) {
    return "a miss has ports or flags";
  }
  return nullptr;
}

// A shorter copy of the same packet is truncated, or it is what the longer one is.
const char* ShorterCopies(const Packet& p, absl::Span<const uint8_t> bytes, size_t true_length) {
  const size_t headers = std::min<size_t>(bytes.size(), 128);
  for (size_t size = 0; size < headers; ++size) {
    const Packet cut = Parse(bytes.subspan(0, size), true_length, 0);
    if (cut.outcome != ParseOutcome::kHeaderTruncated && !SamePacket(cut, p)) {
      return "a shorter copy is another packet";
    }
  }
  return nullptr;
}

const char* RoundTrip(const Packet& p) {
  if (p.outcome != ParseOutcome::kOk) return nullptr;
  const std::vector<uint8_t> built = BuildPacket(p);
  return SamePacket(Parse(built, built.size(), 0), p) ? nullptr : "built anew it reads otherwise";
}

}  // namespace

const char* ParseViolation(absl::Span<const uint8_t> input) {
  size_t beyond = 0;
  if (input.size() >= 2) {
    beyond = static_cast<size_t>(input[0] << 8 | input[1]);
    input.remove_prefix(2);
  } else {
    input = {};
  }
  const size_t true_length = input.size() + beyond;
  const Packet p = Parse(input, true_length, 0xa5);
  if (p.iif != 0xa5a5a5a5 || p.mark != 0xa5a5a5a5) return "iif or mark was touched";
  if (!SamePacket(p, Parse(input, true_length, 0x5a))) return "something was left unwritten";
  if (const char* v = MissHasNoPorts(p)) return v;
  if (const char* v = AgainstReference(p, input, true_length)) return v;
  if (const char* v = ShorterCopies(p, input, true_length)) return v;
  return RoundTrip(p);
}

}  // namespace utproxy
