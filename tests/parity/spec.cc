// SPDX-License-Identifier: GPL-3.0-or-later
#include "spec.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>

#include <algorithm>

namespace utproxy::parity {
namespace {

using Bytes = std::vector<uint8_t>;

void SetIpv4Checksum(Bytes* b) {
  const size_t header_len = static_cast<size_t>((*b)[0] & 0x0f) * 4;
  (*b)[10] = (*b)[11] = 0;
  uint32_t sum = 0;
  for (size_t i = 0; i < header_len; i += 2)
    sum += static_cast<uint32_t>((*b)[i] << 8 | (*b)[i + 1]);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  (*b)[10] = static_cast<uint8_t>(~sum >> 8);
  (*b)[11] = static_cast<uint8_t>(~sum);
}

void Set16(uint16_t value, uint8_t* at) {
  at[0] = static_cast<uint8_t>(value >> 8);
  at[1] = static_cast<uint8_t>(value);
}

Bytes Ipv4Fragment(const Bytes& whole, size_t header_len, size_t from, size_t to) {
  Bytes b(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(header_len));
  b.insert(b.end(), whole.begin() + static_cast<ptrdiff_t>(header_len + from),
           whole.begin() + static_cast<ptrdiff_t>(header_len + to));
  Set16(static_cast<uint16_t>(b.size()), &b[2]);
  const bool more = header_len + to < whole.size();
  Set16(static_cast<uint16_t>((more ? 0x2000u : 0u) | from / 8), &b[6]);
  SetIpv4Checksum(&b);
  return b;
}

Bytes Ipv6Fragment(const Bytes& whole, uint32_t id, size_t from, size_t to) {
  Bytes b(whole.begin(), whole.begin() + 40);
  const bool more = 40 + to < whole.size();
  const ExtensionHeader header = FragmentHeader(static_cast<uint16_t>(from / 8), more, id);
  b[6] = IPPROTO_FRAGMENT;
  b.push_back(whole[6]);
  b.push_back(0);
  b.insert(b.end(), header.body.begin(), header.body.end());
  b.insert(b.end(), whole.begin() + static_cast<ptrdiff_t>(40 + from),
           whole.begin() + static_cast<ptrdiff_t>(40 + to));
  Set16(static_cast<uint16_t>(b.size() - 40), &b[4]);
  return b;
}

}  // namespace

std::string DeviceName(int device) { return absl::StrCat("p", device); }

const char* OracleName(Oracle oracle) { return oracle == Oracle::kXt ? "xt_TPROXY" : "nft_tproxy"; }

Bytes PacketBytes(const PacketSpec& spec, uint8_t dscp, uint8_t mark_index, uint16_t id) {
  BuildOptions build = spec.build;
  const bool v4 = spec.packet.family == Family::kIpv4;
  Bytes b = BuildPacket(spec.packet, build);
  if (spec.cut > 0) {
    const size_t size = b.size() - std::min(spec.cut, b.size() - (v4 ? 20u : 40u));
    build.claimed_length = static_cast<uint16_t>(v4 ? size : size - 40);
    b = BuildPacket(spec.packet, build);
    b.resize(size);
  }
  if (v4) {
    b[1] = static_cast<uint8_t>(dscp << 2);
    Set16(id, &b[4]);
    b[8] = mark_index;
    SetIpv4Checksum(&b);
  } else {
    b[0] = static_cast<uint8_t>(0x60 | dscp >> 2);
    b[1] = static_cast<uint8_t>((dscp & 3) << 6);
    Set16(id, &b[2]);
    b[7] = mark_index;
  }
  return b;
}

std::vector<Bytes> Fragments(const PacketSpec& spec, const Bytes& bytes) {
  const bool v4 = spec.packet.family == Family::kIpv4;
  const size_t header_len = v4 ? static_cast<size_t>(bytes[0] & 0x0f) * 4 : 40;
  const size_t payload = bytes.size() - std::min(bytes.size(), header_len);
  const size_t part = payload / std::max<size_t>(spec.fragments, 1) / 8 * 8;
  if (spec.fragments < 2 || part == 0) return {bytes};
  std::vector<Bytes> parts;
  for (size_t i = 0; i < spec.fragments; ++i) {
    const size_t to = i + 1u == spec.fragments ? payload : (i + 1) * part;
    const uint32_t id = static_cast<uint32_t>(bytes[2] << 8 | bytes[3]) + 1;
    parts.push_back(v4 ? Ipv4Fragment(bytes, header_len, i * part, to)
                       : Ipv6Fragment(bytes, id, i * part, to));
  }
  return parts;
}

std::string OutcomeText(const Outcome& outcome) {
  if (!outcome.hit) return "miss";
  const std::string who = outcome.who == Outcome::Who::kFull ? absl::StrCat("socket ", outcome.id)
                          : outcome.who == Outcome::Who::kMinisocket ? "a minisocket"
                                                                     : "a socket not told";
  return absl::StrFormat("hit, mark %#x, %s", outcome.mark, who);
}

std::string SocketText(const SocketSpec& s) {
  const Family family = s.inet6 ? Family::kIpv6 : Family::kIpv4;
  std::vector<std::string> words = {
      absl::StrCat("socket ", s.id, ":"), ProtoName(s.proto), s.inet6 ? "AF_INET6" : "AF_INET",
      s.fin_wait2_minisock ? "FIN_WAIT2-minisocket" : SockStateName(s.state, s.proto),
      EndpointToString(s.local, s.local_port, family)};
  if (s.remote_port != 0)
    words.push_back("peer " + EndpointToString(s.remote, s.remote_port, family));
  if (s.transparent) words.push_back("transparent");
  if (s.switched) words.push_back("switched-late");
  if (s.v6only) words.push_back("v6only");
  if (s.reuseport) words.push_back("reuseport");
  if (s.wildcard_receive) words.push_back("wildcard-receive");
  if (s.device >= 0) words.push_back("dev " + DeviceName(s.device));
  if (s.first_device >= -1) words.push_back(absl::StrCat("first-dev ", s.first_device));
  if (s.incoming_cpu >= 0) words.push_back(absl::StrCat("incoming-cpu ", s.incoming_cpu));
  if (s.minisocket() && !s.observed) words.push_back("unobserved");
  return absl::StrJoin(words, " ");
}

std::string PacketText(const PacketSpec& s) {
  const Packet& p = s.packet;
  std::string text = absl::StrFormat(
      "packet: %s protocol %d %s > %s flags %#x in %s mark %#x", FamilyName(p.family), p.protocol,
      EndpointToString(p.src, p.sport, p.family), EndpointToString(p.dst, p.dport, p.family),
      p.tcp_flags, DeviceName(s.device), p.mark);
  if (!s.build.ip_options.empty()) absl::StrAppend(&text, " options ", s.build.ip_options.size());
  for (const ExtensionHeader& h : s.build.extensions) absl::StrAppend(&text, " ext ", h.type);
  if (s.build.fragment != 0) absl::StrAppendFormat(&text, " fragment field %#x", s.build.fragment);
  if (s.cut > 0) absl::StrAppend(&text, " cut by ", s.cut);
  if (s.fragments > 1) absl::StrAppend(&text, " in ", s.fragments, " fragments");
  return text;
}

std::string PolicyText(const Policy& p) {
  std::string text = absl::StrFormat("rule: --on-port %d --tproxy-mark %#x/%#x", p.on_port,
                                     p.mark_value, p.mark_mask);
  if (!p.on_ip4.IsUnspecified())
    absl::StrAppend(&text, " --on-ip ", p.on_ip4.ToString(Family::kIpv4));
  if (!p.on_ip6.IsUnspecified())
    absl::StrAppend(&text, " --on-ip ", p.on_ip6.ToString(Family::kIpv6));
  if (p.on_miss == OnMiss::kAccept) absl::StrAppend(&text, " --on-miss accept");
  return text;
}

}  // namespace utproxy::parity
