// SPDX-License-Identifier: GPL-3.0-or-later
#include "shrink.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace utproxy::parity {
namespace {

using Change = std::function<bool(Repro*)>;  // false: nothing to change

// Sets it where it is not so yet.
template <typename T>
bool Set(T* place, T value) {
  if (*place == value) return false;
  *place = value;
  return true;
}

void LeaveOut(size_t from, size_t count, Repro* repro) {
  std::vector<SocketSpec>& sockets = repro->scene.sockets;
  const auto begin = sockets.begin() + static_cast<ptrdiff_t>(from);
  sockets.erase(begin, begin + static_cast<ptrdiff_t>(count));
  std::vector<SteerSpec> steers;
  for (SteerSpec steer : repro->scene.steers) {
    const auto at = std::find_if(sockets.begin(), sockets.end(),
                                 [&](const SocketSpec& s) { return s.id == steer.id; });
    if (at == sockets.end()) continue;
    steer.id = static_cast<uint32_t>(at - sockets.begin() + 1);
    steers.push_back(steer);
  }
  repro->scene.steers = std::move(steers);
  for (size_t i = 0; i < sockets.size(); ++i) sockets[i].id = static_cast<uint32_t>(i + 1);
}

std::vector<Change> SocketChanges(size_t index) {
  const auto on = [index](auto change) {
    return Change([index, change](Repro* r) {
      return index < r->scene.sockets.size() && change(&r->scene.sockets[index]);
    });
  };
  return {on([](SocketSpec* s) { return Set(&s->reuseport, false); }),
          on([](SocketSpec* s) { return Set(&s->v6only, false); }),
          on([](SocketSpec* s) { return Set(&s->switched, false); }),
          on([](SocketSpec* s) { return Set(&s->first_device, -2); }),
          on([](SocketSpec* s) { return Set(&s->device, -1); }),
          on([](SocketSpec* s) { return Set(&s->incoming_cpu, -1); }),
          on([](SocketSpec* s) { return Set(&s->transparent, true); }),
          on([](SocketSpec* s) {
            const bool plain = s->proto == Proto::kUdp || s->remote_port == 0 || s->minisocket();
            return !plain && Set(&s->state, SockState::kEstablished);
          })};
}

std::vector<Change> PacketChanges() {
  return {[](Repro* r) {
            r->packet.has_ah = false;
            return !std::exchange(r->packet.build.extensions, {}).empty();
          },
          [](Repro* r) { return Set(&r->packet.build.ip_options, {}); },
          [](Repro* r) { return Set(&r->packet.fragments, uint8_t{1}); },
          [](Repro* r) { return Set(&r->packet.cut, size_t{0}); },
          [](Repro* r) { return Set(&r->packet.build.payload, {}); },
          [](Repro* r) { return Set(&r->packet.packet.tcp_flags, uint8_t{kTcpSyn}); },
          [](Repro* r) {
            uint8_t& flags = r->packet.packet.tcp_flags;
            return flags != kTcpSyn && Set(&flags, uint8_t{kTcpAck});
          },
          [](Repro* r) {
            const uint8_t low = r->packet.packet.tcp_flags & 0x3f;  // without ECE and CWR
            return Set(&r->packet.packet.tcp_flags, low);
          },
          [](Repro* r) { return Set(&r->packet.device, 0); }};
}

std::vector<Change> RuleChanges() {
  return {[](Repro* r) { return Set(&r->world.policies[0].on_ip4, Address()); },
          [](Repro* r) { return Set(&r->world.policies[0].on_ip6, Address()); },
          [](Repro* r) { return Set(&r->world.policies[0].on_port, uint16_t{0}); },
          [](Repro* r) { return Set(&r->world.marks[0], 0u); },
          [](Repro* r) { return Set(&r->world.policies[0].mark_value, 1u); },
          [](Repro* r) { return Set(&r->world.policies[0].mark_mask, 0xffffffffu); },
          [](Repro* r) { return Set(&r->world.policies[0].on_miss, OnMiss::kDrop); },
          [](Repro* r) {
            r->scene.steers.clear();
            return Set(&r->world.steers, false);
          }};
}

std::vector<Change> AddressChanges(const Repro& repro) {
  std::vector<Change> changes;
  for (size_t device = 0; device < repro.world.addresses.size(); ++device) {
    for (size_t i = repro.world.addresses[device].size(); i-- > 0;) {
      changes.push_back([device, i](Repro* r) {
        auto& addresses = r->world.addresses[device];
        if (i >= addresses.size()) return false;
        addresses.erase(addresses.begin() + static_cast<ptrdiff_t>(i));
        r->scene.addresses = r->world.addresses;
        return true;
      });
    }
  }
  return changes;
}

}  // namespace

Repro Isolate(const Generator::World& world, const Scene& scene, const Case& one,
              const Difference& difference) {
  Repro repro{.world = world, .scene = scene, .packet = one.packet};
  repro.world.policies = {world.policies[difference.policy]};
  repro.world.marks = {world.marks[one.mark_index - 1u]};
  repro.way = difference.way;
  repro.oracle = difference.oracle;
  return repro;
}

bool Rerun::Differs(const Repro& repro, bool fresh) {
  const bool same = made_for_ && made_for_->world == repro.world && made_for_->way == repro.way &&
                    made_for_->oracle == repro.oracle;
  if (fresh || !same) {
    lab_.reset();  // before the next one: one queue number, one control socket
    lab_ = std::make_unique<Lab>(repro.world,
                                 Lab::Options{.program = repro.way == Way::kDaemon ? program_ : "",
                                              .oracles = {repro.oracle},
                                              .fast_path = fast_path_});
    made_for_ = repro;
  }
  Totals totals;
  const Case one{.packet = repro.packet};
  for (const Difference& d : lab_->Run(repro.scene, {&one, 1}, nullptr, &totals)) {
    if (d.way != repro.way) continue;
    difference_ = d;
    return true;
  }
  return false;
}

Repro Shrink(Repro repro, const std::function<bool(const Repro&)>& differs) {
  bool smaller = true;
  const auto attempt = [&](Repro candidate) {
    if (!differs(candidate)) return false;
    repro = std::move(candidate);
    return smaller = true;
  };
  while (smaller) {
    smaller = false;
    for (size_t count = std::max<size_t>(repro.scene.sockets.size() / 2, 1); count > 0;
         count /= 2) {
      for (size_t from = 0; from + count <= repro.scene.sockets.size();) {
        Repro candidate = repro;
        LeaveOut(from, count, &candidate);
        if (!attempt(std::move(candidate))) from += count;
      }
    }
    std::vector<Change> changes = PacketChanges();
    const auto add = [&changes](std::vector<Change> more) {
      changes.insert(changes.end(), more.begin(), more.end());
    };
    for (size_t i = 0; i < repro.scene.sockets.size(); ++i) add(SocketChanges(i));
    // These take new namespaces.
    add(RuleChanges());
    add(AddressChanges(repro));
    for (const Change& change : changes) {
      Repro candidate = repro;
      if (change(&candidate)) attempt(std::move(candidate));
    }
  }
  return repro;
}

}  // namespace utproxy::parity
