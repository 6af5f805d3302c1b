// SPDX-License-Identifier: GPL-3.0-or-later
// libFuzzer target: what rtnetlink tells of interfaces, addresses, rules and routes, to each of its
// readers. The first byte chooses the reader; the datagrams follow (fake_netlink.h).
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "diagnose/chain_reach.h"
#include "diagnose/doctor.h"
#include "diagnose/routing_reader.h"
#include "fake_netlink.h"
#include "mirror/interfaces.h"
#include "netlink/route_probe.h"
#include "netlink/socket.h"
#include "ruleset/delivery.h"

namespace utproxy {
namespace {

NetlinkSocket OpenRoute() {
  absl::StatusOr<NetlinkSocket> socket = NetlinkSocket::Open(0);
  if (!socket.ok()) std::abort();
  return *std::move(socket);
}

void Mirror() {
  const auto interfaces = Interfaces::Open();
  if (!interfaces.ok()) return;
  (void)(*interfaces)->Update();
  const auto snapshot = (*interfaces)->Get();
  for (const auto& [index, interface] : snapshot->by_index) {
    if (interface.name.find('\0') != std::string::npos) std::abort();
    if (snapshot->NameOf(index) != interface.name) std::abort();
    const auto primary = snapshot->PrimaryAddress(index, Family::kIpv4);
    if (primary && !primary->IsV4Mapped()) std::abort();
  }
}

void Doctor() {
  NetlinkSocket socket = OpenRoute();
  SystemView view;
  if (!ReadRouting(&socket, &view).ok()) return;
  ProxyTarget target;
  target.policy.on_port = 1090;
  target.policy.mark_value = target.policy.mark_mask = 1;
  target.from_user = true;
  view.targets = {target};
  FollowTargets(&view);
  for (const Finding& finding : Diagnose(view)) {
    if (finding.id.empty() || finding.cause.empty()) std::abort();
  }
}

void Delivery() {
  NetlinkSocket socket = OpenRoute();
  const auto own = ListOwnDelivery(socket);
  if (own.ok()) {
    for (const DeliveryItem& item : *own) {
      if (DeliveryCommand(item).empty()) std::abort();
    }
  }
  const RulesetSpec spec;
  if (const auto change = AddDelivery(socket, WantedDelivery({&spec, 1})); change.ok()) {
    (void)DeleteDelivery(socket, change->added);
  }
}

void Route(Family family) {
  NetlinkSocket socket = OpenRoute();
  const Packet packet{.family = family, .protocol = 6};
  const auto answer = ProbeRoute(&socket, packet);
  if (!answer.ok() || !answer->gateway || family == Family::kIpv6) return;
  if (!answer->gateway->IsV4Mapped() && !answer->gateway->IsUnspecified()) std::abort();
}

}  // namespace
}  // namespace utproxy

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace utproxy;  // NOLINT
  if (size == 0) return 0;
  AnswerNetlinkWith({data + 1, size - 1});
  switch (data[0] % 5) {
    case 0:
      Mirror();
      break;
    case 1:
      Doctor();
      break;
    case 2:
      Delivery();
      break;
    default:
      Route(data[0] % 5 == 3 ? Family::kIpv4 : Family::kIpv6);
  }
  return 0;
}
