// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/json.h"

#include <absl/strings/str_cat.h>
#include <net/if.h>

#include <charconv>
#include <limits>

#include "base/status.h"

namespace utproxy {
namespace {

constexpr struct {
  char letter;
  uint8_t bit;
} kFlagLetters[] = {{'F', kTcpFin}, {'S', kTcpSyn}, {'R', kTcpRst},
                    {'P', kTcpPsh}, {'A', kTcpAck}, {'U', kTcpUrg}};

Json OrNull(const std::optional<Socket>& socket, const InterfaceNames& names,
            const std::optional<SocketOwner>& owner) {
  return socket ? ToJson(*socket, names, owner) : Json(nullptr);
}

absl::Status Malformed(const char* key) {
  return absl::InvalidArgumentError(absl::StrCat("socket: key '", key, "' missing or malformed"));
}

std::string StringAt(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_string() ? it->get<std::string>() : std::string();
}

template <typename T>
std::optional<T> NumberAt(const Json& json, const char* key) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_number_unsigned()) return std::nullopt;
  const auto value = it->get<uint64_t>();
  if (value > std::numeric_limits<T>::max()) return std::nullopt;
  return static_cast<T>(value);
}

bool TrueAt(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it != json.end() && it->is_boolean() && it->get<bool>();
}

std::optional<SockState> StateOf(const std::string& name, Proto proto) {
  if (proto == Proto::kUdp) {
    if (name == "CONNECTED") return SockState::kEstablished;
    if (name == "UNCONNECTED") return SockState::kClose;
    return std::nullopt;
  }
  for (uint8_t i = 1; i <= 12; ++i) {
    const auto state = static_cast<SockState>(i);
    if (name == SockStateName(state, proto)) return state;
  }
  return std::nullopt;
}

std::optional<uint32_t> MarkAt(const Json& json, const char* key) {
  const std::string text = StringAt(json, key);
  uint32_t mark = 0;
  if (text.size() < 3 || text.size() > 10 || text.compare(0, 2, "0x") != 0) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data() + 2, text.data() + text.size(), mark, 16);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return mark;
}

absl::Status ReadEndpoints(const Json& json, Socket* socket) {
  const Family family = socket->family();
  const std::optional<Endpoint> local = ParseEndpoint(StringAt(json, "local"));
  if (!local || local->family != family) return Malformed("local");
  const std::optional<Endpoint> peer = ParseEndpoint(StringAt(json, "peer"));
  if (!peer || peer->family != family) return Malformed("peer");
  socket->local = local->address;
  socket->local_port = local->port;
  socket->remote = peer->address;
  socket->remote_port = peer->port;
  return absl::OkStatus();
}

absl::Status ReadFlags(const Json& json, Socket* socket) {
  const auto transparent = json.find("transparent");
  if (transparent == json.end()) return Malformed("transparent");
  if (transparent->is_boolean()) {
    socket->flags |= Socket::kTransparentKnown;
    if (transparent->get<bool>()) socket->flags |= Socket::kTransparent;
  } else if (!transparent->is_null()) {
    return Malformed("transparent");
  }
  if (TrueAt(json, "v6only")) socket->flags |= Socket::kV6Only;
  if (TrueAt(json, "minisock")) socket->flags |= Socket::kMinisock;
  return absl::OkStatus();
}

}  // namespace

std::string SystemInterfaceName(uint32_t ifindex) {
  if (ifindex == 0) return "";
  char name[IF_NAMESIZE];
  return ::if_indextoname(ifindex, name) != nullptr ? name : absl::StrCat(ifindex);
}

std::string MarkText(uint32_t mark) { return absl::StrCat("0x", absl::Hex(mark)); }

std::string FlagsText(uint8_t tcp_flags) {
  std::string text;
  for (const auto& [letter, bit] : kFlagLetters) {
    if ((tcp_flags & bit) != 0) text += letter;
  }
  return text;
}

std::string ProtocolText(uint8_t protocol) {
  if (protocol == IPPROTO_TCP) return "tcp";
  if (protocol == IPPROTO_UDP) return "udp";
  return absl::StrCat(static_cast<unsigned>(protocol));
}

Json ToJson(const Socket& socket, const InterfaceNames& names,
            const std::optional<SocketOwner>& owner) {
  const Family family = socket.family();
  Json json;
  json["family"] = FamilyName(family);
  json["proto"] = ProtoName(socket.proto);
  json["state"] = SockStateName(socket.state, socket.proto);
  json["local"] = EndpointToString(socket.local, socket.local_port, family);
  json["peer"] = EndpointToString(socket.remote, socket.remote_port, family);
  json["iif"] = names(socket.ifindex);
  json["transparent"] = socket.transparent_known() || socket.transparent()
                            ? Json(socket.transparent())
                            : Json(nullptr);
  json["cookie"] = socket.cookie;
  json["inode"] = socket.inode;
  json["so_mark"] = MarkText(socket.mark);
  if (socket.v6only()) json["v6only"] = true;
  if ((socket.flags & Socket::kMinisock) != 0) json["minisock"] = true;
  if (owner) {
    json["pid"] = owner->pid;
    json["comm"] = owner->comm;
    if (!owner->cgroup.empty()) json["cgroup"] = owner->cgroup;
  }
  return json;
}

Json ToJson(const Packet& packet, const InterfaceNames& names) {
  Json json;
  json["family"] = FamilyName(packet.family);
  json["proto"] = ProtocolText(packet.protocol);
  json["src"] = packet.src.ToString(packet.family);
  json["sport"] = packet.sport;
  json["dst"] = packet.dst.ToString(packet.family);
  json["dport"] = packet.dport;
  json["iif"] = names(packet.iif);
  json["flags"] = FlagsText(packet.tcp_flags);
  json["mark"] = MarkText(packet.mark);
  return json;
}

Json ToJson(const Decision& decision, const Packet& packet, const InterfaceNames& names,
            const std::optional<SocketOwner>& owner) {
  Json json;
  json["verdict"] = VerdictName(decision.verdict);
  json["reason"] = ReasonName(decision.reason);
  json["mark"] = MarkText(decision.mark);
  if (decision.listener_looked_up) {
    json["laddr"] = decision.laddr.ToString(packet.family);
    json["lport"] = decision.lport;
  }
  json["socket"] = OrNull(decision.socket, names, owner);
  json["packet"] = ToJson(packet, names);
  return json;
}

absl::StatusOr<Socket> SocketFromJson(const Json& json, const InterfaceIndexes& index) {
  if (!json.is_object()) return absl::InvalidArgumentError("socket: not a JSON object");
  Socket socket;
  const std::string family = StringAt(json, "family");
  if (family != "ipv4" && family != "ipv6") return Malformed("family");
  if (family == "ipv6") socket.flags |= Socket::kInet6;
  const std::string proto = StringAt(json, "proto");
  if (proto != "tcp" && proto != "udp") return Malformed("proto");
  socket.proto = proto == "tcp" ? Proto::kTcp : Proto::kUdp;
  const std::optional<SockState> state = StateOf(StringAt(json, "state"), socket.proto);
  if (!state) return Malformed("state");
  socket.state = *state;
  RETURN_IF_ERROR(ReadEndpoints(json, &socket));
  RETURN_IF_ERROR(ReadFlags(json, &socket));
  ASSIGN_OR_RETURN(socket.ifindex, index(StringAt(json, "iif")));
  const auto cookie = NumberAt<uint64_t>(json, "cookie");
  if (!cookie) return Malformed("cookie");
  const auto inode = NumberAt<uint32_t>(json, "inode");
  if (!inode) return Malformed("inode");
  const auto mark = MarkAt(json, "so_mark");
  if (!mark) return Malformed("so_mark");
  socket.cookie = *cookie;
  socket.inode = *inode;
  socket.mark = *mark;
  return socket;
}

absl::StatusOr<Packet> PacketFromJson(const Json& json, const InterfaceIndexes& index) {
  const auto malformed = [](const char* key) {
    return absl::InvalidArgumentError(absl::StrCat("packet: key '", key, "' missing or malformed"));
  };
  if (!json.is_object()) return absl::InvalidArgumentError("packet: not a JSON object");
  Packet packet;
  const std::string family = StringAt(json, "family");
  if (family != "ipv4" && family != "ipv6") return malformed("family");
  packet.family = family == "ipv6" ? Family::kIpv6 : Family::kIpv4;
  const std::string proto = StringAt(json, "proto");
  if (proto != "tcp" && proto != "udp") return malformed("proto");
  packet.protocol = proto == "tcp" ? IPPROTO_TCP : IPPROTO_UDP;
  const std::optional<Address> src = Address::Parse(StringAt(json, "src"));
  if (!src) return malformed("src");
  const std::optional<Address> dst = Address::Parse(StringAt(json, "dst"));
  if (!dst) return malformed("dst");
  const auto fits = [&](const Address& a) {
    return a.IsUnspecified() || a.IsV4Mapped() == (packet.family == Family::kIpv4);
  };
  if (!fits(*src)) return malformed("src");
  if (!fits(*dst)) return malformed("dst");
  const auto sport = NumberAt<uint16_t>(json, "sport");
  if (!sport) return malformed("sport");
  const auto dport = NumberAt<uint16_t>(json, "dport");
  if (!dport) return malformed("dport");
  const auto mark = MarkAt(json, "mark");
  if (!mark) return malformed("mark");
  packet.src = *src;
  packet.dst = *dst;
  packet.sport = *sport;
  packet.dport = *dport;
  packet.mark = *mark;
  for (const char letter : StringAt(json, "flags")) {
    for (const auto& [known, bit] : kFlagLetters) {
      if (letter == known) packet.tcp_flags |= bit;
    }
  }
  ASSIGN_OR_RETURN(packet.iif, index(StringAt(json, "iif")));
  return packet;
}

Json DifferencesOf(const Decision& a, const Decision& b, const InterfaceNames& names) {
  Json differences = Json::object();
  const auto compare = [&](const char* key, const Json& x, const Json& y) {
    if (x != y) differences[key] = Json::array({x, y});
  };
  compare("verdict", VerdictName(a.verdict), VerdictName(b.verdict));
  compare("reason", ReasonName(a.reason), ReasonName(b.reason));
  compare("mark", MarkText(a.mark), MarkText(b.mark));
  const uint64_t cookie_a = a.socket ? a.socket->cookie : 0;
  const uint64_t cookie_b = b.socket ? b.socket->cookie : 0;
  if (cookie_a != cookie_b) {
    differences["socket"] =
        Json::array({OrNull(a.socket, names, std::nullopt), OrNull(b.socket, names, std::nullopt)});
  }
  return differences;
}

std::string JsonLine(const Json& json) {
  // ASCII: a control character of Unicode must not reach a terminal here, either.
  return json.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

}  // namespace utproxy
