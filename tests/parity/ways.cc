// SPDX-License-Identifier: GPL-3.0-or-later
#include "ways.h"

#include <array>
#include <vector>

#include "base/clock.h"
#include "mirror/cookie_set.h"
#include "mirror/table_lookup.h"

namespace utproxy::parity {
namespace {

constexpr std::array kFamilies = {Family::kIpv4, Family::kIpv6};

DiagClient OpenClient() {
  absl::StatusOr<DiagClient> client = DiagClient::Open();
  if (!client.ok()) Fatal("no sock_diag");
  return *std::move(client);
}

std::unique_ptr<SocketTable> MakeTable() {
  absl::StatusOr<std::unique_ptr<SocketTable>> table =
      SocketTable::Create({.max_sockets = 1 << 16});
  if (!table.ok()) Fatal("no socket table");
  return *std::move(table);
}

std::shared_ptr<const InterfaceSnapshot> Interfaces() {
  absl::StatusOr<std::shared_ptr<const InterfaceSnapshot>> interfaces = ReadInterfaces();
  if (!interfaces.ok()) Fatal("no interfaces");
  return *std::move(interfaces);
}

}  // namespace

Ways::Ways(const Netns& netns)
    : client_(OpenClient()),
      table_(MakeTable()),
      interfaces_(Interfaces()),
      writer_(table_.get(), &epochs_),
      querier_(OpenClient(), table_.get()),
      netns_(netns) {
  // Here every connection was brought about by ordinary delivery.
  querier_.set_steering([](const Packet&) { return uint64_t{0}; }, [](const Packet&) {});
}

void Ways::Observe(absl::Span<const SocketSpec> connections) {
  const Policy none;
  for (const SocketSpec& spec : connections) {
    const Packet packet = PacketOf(spec, netns_);
    ExactAnswer answer;
    querier_.Ask({&packet, 1}, none, *interfaces_, {&answer, 1});
    if (answer.own) writer_.Learn(*answer.own, *interfaces_, MonotonicNs());
  }
}

void Ways::Refresh() {
  std::vector<Socket> sockets;
  const auto take = [&sockets](const Socket& socket) { sockets.push_back(socket); };
  const auto dump = [&](Family family, Proto proto, uint32_t states) {
    sockets.clear();
    if (!client_.Dump(family, proto, states, take).ok()) Fatal("a dump of sockets failed");
  };
  for (const Family family : kFamilies) {
    dump(family, Proto::kTcp, kListenStates);
    writer_.ReplaceBound(family, Proto::kTcp, sockets);
    dump(family, Proto::kUdp, kAllStates);
    writer_.ReplaceBound(family, Proto::kUdp, sockets);
  }
  CookieSet cookies;
  for (const Family family : kFamilies) {
    dump(family, Proto::kTcp, kAllStates & ~kListenStates);
    for (const Socket& socket : sockets) {
      cookies.Insert(socket.cookie);
      writer_.Learn(socket, *interfaces_, MonotonicNs());
    }
  }
  for (const Socket& gone : writer_.Missing(cookies)) writer_.Forget(gone);
}

std::optional<Decision> Ways::Exact(const Packet& packet, const Policy& policy, Steps* steps) {
  ExactAnswer answer{.complete = true};
  if (packet.outcome == ParseOutcome::kOk) {
    querier_.Ask({&packet, 1}, policy, *interfaces_, {&answer, 1});
  }
  if (!answer.complete) return std::nullopt;
  ExactLookup lookup(answer, *interfaces_);
  return Decide(packet, policy, lookup, *steps);
}

Ways::Mirrored Ways::OverMirror(const Packet& packet, const Policy& policy) {
  TableLookup lookup(*table_, *interfaces_);
  const Decision decision = Decide(packet, policy, lookup);
  const bool known = !decision.socket || decision.socket->transparent_known();
  return {decision, lookup.certain() && known};
}

Packet PacketOf(const SocketSpec& connection, const Netns& netns) {
  return Packet{.src = connection.remote,
                .dst = connection.local,
                .sport = connection.remote_port,
                .dport = connection.local_port,
                .family = connection.wire_family(),
                .protocol = static_cast<uint8_t>(connection.proto),
                .tcp_flags = connection.proto == Proto::kTcp ? kTcpAck : uint8_t{0},
                .iif = netns.ifindex(connection.device >= 0 ? connection.device : 0)};
}

Outcome OutcomeOf(const Decision& decision) {
  Outcome outcome;
  if (!IsHit(decision.reason)) return outcome;
  outcome.hit = true;
  outcome.mark = decision.mark;
  const bool mini = decision.socket->time_wait() || decision.socket->request();
  outcome.who = mini ? Outcome::Who::kMinisocket : Outcome::Who::kFull;
  outcome.id = mini ? 0 : decision.socket->mark;
  return outcome;
}

}  // namespace utproxy::parity
