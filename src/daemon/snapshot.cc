// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/snapshot.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "daemon/json_line.h"

namespace utproxy {
namespace {

// An object has some hundred bytes; a line that is longer is none.
constexpr size_t kMaxLine = size_t{1} << 16;

}  // namespace

std::vector<Socket> SocketsInOrder(const SocketTable& table) {
  std::vector<Socket> sockets;
  table.Snapshot(&sockets);
  std::stable_sort(sockets.begin(), sockets.end(), [](const Socket& a, const Socket& b) {
    return std::pair(a.order, a.cookie) < std::pair(b.order, b.cookie);
  });
  for (Socket& socket : sockets) socket.order = 0;  // from here on their order is the list's
  return sockets;
}

std::vector<InterfaceAddress> PrimaryAddresses(const InterfaceSnapshot& interfaces) {
  std::vector<InterfaceAddress> addresses;
  for (const auto& [index, interface] : interfaces.by_index) {
    const auto add = [&, index = index](Family family, const std::optional<Address>& address) {
      if (address) addresses.push_back({index, family, *address, 0});
    };
    add(Family::kIpv4, interface.primary4);
    add(Family::kIpv6, interface.primary6);
  }
  return addresses;
}

std::vector<Json> InterfacesJson(const InterfaceSnapshot& interfaces) {
  std::vector<Json> out;
  for (const auto& [index, interface] : interfaces.by_index) {
    Json json;
    json["interface"] = interface.name;
    json["index"] = index;
    if (interface.primary4) json["primary4"] = interface.primary4->ToString(Family::kIpv4);
    if (interface.primary6) json["primary6"] = interface.primary6->ToString(Family::kIpv6);
    out.push_back(std::move(json));
  }
  std::sort(out.begin(), out.end(), [](const Json& a, const Json& b) {
    return a["index"].get<uint32_t>() < b["index"].get<uint32_t>();
  });
  return out;
}

absl::StatusOr<HostSnapshot> HostSnapshot::Read(std::istream& in) {
  HostSnapshot snapshot;
  std::vector<std::pair<size_t, Json>> sockets;  // after all interfaces, which name their devices
  std::string line;
  for (size_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto error = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", what));
    };
    if (line.size() > kMaxLine) return error("too long for a socket");
    Json json = ParseLine(line);
    if (!json.is_object()) {
      return error("not a JSON object: one a line is expected, as 'utproxy sockets -j' writes");
    }
    if (json.contains("interface")) {
      if (const absl::Status status = snapshot.TakeInterface(json); !status.ok()) {
        return error({status.message().data(), status.message().size()});
      }
      continue;
    }
    if (sockets.size() == kMaxSockets) return error("more sockets than a host has");
    sockets.emplace_back(number, std::move(json));
  }
  if (in.bad()) return absl::DataLossError("it could not be read to its end");
  for (const auto& [number, json] : sockets) {
    if (const absl::Status status = snapshot.Take(json); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", number, ": ", status.message()));
    }
  }
  return snapshot;
}

absl::Status HostSnapshot::Take(const Json& json) {
  ASSIGN_OR_RETURN(const Socket socket,
                   SocketFromJson(json, [this](absl::string_view name) -> absl::StatusOr<uint32_t> {
                     return IndexOf(name);
                   }));
  sockets_.push_back(socket);
  const auto pid = json.find("pid"), comm = json.find("comm"), cgroup = json.find("cgroup");
  if (socket.inode != 0 && pid != json.end() && pid->is_number_integer() && comm != json.end() &&
      comm->is_string()) {
    SocketOwner& owner = owners_[socket.inode];
    owner.pid = pid->get<int>();
    owner.comm = comm->get<std::string>();
    if (cgroup != json.end() && cgroup->is_string()) owner.cgroup = cgroup->get<std::string>();
  }
  return absl::OkStatus();
}

absl::Status HostSnapshot::TakeInterface(const Json& json) {
  const auto name = json.find("interface"), index = json.find("index");
  if (!name->is_string() || index == json.end() || !index->is_number_unsigned() ||
      index->get<uint64_t>() == 0 || index->get<uint64_t>() >= kUnknownIndex) {
    return absl::InvalidArgumentError("interface: 'interface' or 'index' missing or malformed");
  }
  has_interfaces_ = true;
  const auto number = index->get<uint32_t>();
  indexes_[name->get<std::string>()] = number;
  names_[number] = name->get<std::string>();
  for (const auto& [key, family] :
       {std::pair("primary4", Family::kIpv4), std::pair("primary6", Family::kIpv6)}) {
    const auto it = json.find(key);
    if (it == json.end()) continue;
    const std::optional<Address> address =
        it->is_string() ? Address::Parse(it->get<std::string>()) : std::nullopt;
    if (!address || address->IsV4Mapped() != (family == Family::kIpv4)) {
      return absl::InvalidArgumentError(
          absl::StrCat("interface: '", key, "' is no address of its family"));
    }
    addresses_.push_back({number, family, *address, 0});
  }
  return absl::OkStatus();
}

uint32_t HostSnapshot::IndexOf(absl::string_view name) {
  if (name.empty()) return 0;
  const std::string key(name);
  const auto [it, added] =
      indexes_.try_emplace(key, kUnknownIndex + static_cast<uint32_t>(indexes_.size()));
  if (added) names_[it->second] = key;
  return it->second;
}

std::string HostSnapshot::NameOf(uint32_t index) const {
  if (index == 0) return "";
  const auto it = names_.find(index);
  return it == names_.end() ? absl::StrCat(index) : it->second;
}

}  // namespace utproxy
