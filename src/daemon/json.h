// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_JSON_H_
#define UTPROXY_DAEMON_JSON_H_

#include <absl/status/statusor.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "diagnose/socket_owner.h"
#include "utproxy/decision.h"
#include "utproxy/packet.h"
#include "utproxy/socket.h"

// The program's JSON: one place that knows the keys users and scripts rely on.
namespace utproxy {

// Keys keep the order they were added in.
using Json = nlohmann::ordered_json;

// The name of an interface index; "" for 0, the number itself for one that has no name (any more).
using InterfaceNames = std::function<std::string(uint32_t ifindex)>;
// Names of the interfaces of this network namespace.
std::string SystemInterfaceName(uint32_t ifindex);

// "0x1".
std::string MarkText(uint32_t mark);
// "SA": letters of FSRPAU for the flags set, in this order.
std::string FlagsText(uint8_t tcp_flags);
// "tcp", "udp", or the IP protocol number.
std::string ProtocolText(uint8_t protocol);

Json ToJson(const Socket& socket, const InterfaceNames& names,
            const std::optional<SocketOwner>& owner = std::nullopt);
Json ToJson(const Packet& packet, const InterfaceNames& names);
// verdict, reason, mark, laddr and lport where a listener was looked up, socket (or null), packet.
// The caller adds "steps" and "source", and what else its command tells.
Json ToJson(const Decision& decision, const Packet& packet, const InterfaceNames& names,
            const std::optional<SocketOwner>& owner = std::nullopt);

// The inverse of ToJson(Socket), for snapshots. Unknown keys are ignored; a missing or malformed
// one is an error that names it. `index` finds an interface by name (0 for none).
using InterfaceIndexes = std::function<absl::StatusOr<uint32_t>(absl::string_view name)>;
absl::StatusOr<Socket> SocketFromJson(const Json& json, const InterfaceIndexes& index);

// The inverse of ToJson(Packet), with the same checks.
absl::StatusOr<Packet> PacketFromJson(const Json& json, const InterfaceIndexes& index);

// The keys of the decision object in which two decisions differ, each with both values:
// {"verdict": ["accept", "drop"]}. Sockets are compared by cookie.
Json DifferencesOf(const Decision& a, const Decision& b, const InterfaceNames& names);

// One line of ASCII without the newline; bytes that are not UTF-8 (a command's or an interface's
// name can hold any) are replaced.
std::string JsonLine(const Json& json);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_JSON_H_
