// SPDX-License-Identifier: GPL-3.0-or-later
#include "churn/listeners.h"

#include <sys/socket.h>

#include <algorithm>

namespace utproxy::churn {
namespace {

constexpr int kFlows = 8;
constexpr int kBacklog = 16;

}  // namespace

ListenerPlace::ListenerPlace(World* world, Proto proto, uint16_t port) : Place(world, proto, port) {
  for (int i = 0; i < kFlows; ++i) {
    flows_.push_back(static_cast<uint16_t>(1024 + world_.Below(60000)));
  }
}

ListenerPlace::Slot ListenerPlace::ChooseSlot() {
  Slot slot{.bound = Bound::kAny, .family = AnyFamily(), .flow = 0};
  const uint64_t dice = world_.Below(100);
  if (proto_ == Proto::kUdp && dice < 45) {
    slot.bound = dice < 38 ? Bound::kAsked : Bound::kInterface;
    slot.flow = flows_[world_.Below(flows_.size())];
  } else if (dice < 65) {
    slot.bound = Bound::kInterface;
  } else if (dice < 75) {
    slot.bound = Bound::kAsked;
  }
  return slot;
}

ListenerPlace::Owned* ListenerPlace::Find(const Slot& slot) {
  const auto it = std::find_if(owned_.begin(), owned_.end(), [&](const Owned& owned) {
    const bool v4 = owned.serves == Serves::kIpv4;
    return owned.bound == slot.bound && owned.flow == slot.flow &&
           v4 == (slot.family == Family::kIpv4);
  });
  return it == owned_.end() ? nullptr : &*it;
}

void ListenerPlace::ChangeSomething() {
  const Slot slot = ChooseSlot();
  Owned* owned = Find(slot);
  if (owned == nullptr) {
    Open(slot);
  } else if (slot.flow != 0) {
    ChangeFlow(owned);
  } else {
    ChangeListener(slot, owned);
  }
}

void ListenerPlace::ChangeListener(const Slot& slot, Owned* owned) {
  const uint64_t dice = world_.Below(100);
  if (!owned->listening) {
    dice < 80 ? Relisten(owned) : Close(owned);
  } else if (dice < (owned->transparent ? 30 : 85)) {
    Toggle(owned);
  } else if (dice < 65) {
    const uint32_t old = owned->mark;
    // A replacement that overlaps: the new one is there before the old one goes.
    if (owned->transparent && !Open(slot)) return;
    const auto it = std::find_if(owned_.begin(), owned_.end(),
                                 [&](const Owned& candidate) { return candidate.mark == old; });
    Close(&*it);
  } else if (proto_ == Proto::kTcp && dice < 75) {
    Unlisten(owned);
  } else {
    Close(owned);
  }
}

void ListenerPlace::ChangeFlow(Owned* owned) {
  const uint64_t dice = world_.Below(100);
  if (!owned->connected) {
    dice < 85 ? Connect(owned) : Close(owned);
  } else if (dice < (owned->transparent ? 40 : 75)) {
    Toggle(owned);
  } else if (dice < 80) {
    Owned& socket = *owned;
    Change(
        "disconnected", [&] { return Disconnect(socket.fd); },
        [&](PlaceState* state) {
          SocketState* disconnected = FindMark(state, socket.mark);
          disconnected->peer = 0;
          disconnected->keeps_peer_address = socket.serves != Serves::kIpv4;
        });
    socket.connected = false;
  } else {
    Close(owned);
  }
}

// A listener becomes transparent late, after it was bound, in one of six cases.
bool ListenerPlace::Open(const Slot& slot) {
  Owned owned{.mark = world_.NewMark(), .bound = slot.bound, .flow = slot.flow};
  if (slot.family == Family::kIpv6) owned.serves = Serves::kIpv6;
  // One that serves both families would be a second of its kind for IPv4 beside an AF_INET one
  // only where it is bound to no address, and is there looked at after it.
  if (owned.serves == Serves::kIpv6 && owned.bound == Bound::kAny && world_.Chance(50)) {
    owned.serves = Serves::kBoth;
  }
  owned.fd = NewSocket(proto_, owned.serves, owned.mark);
  owned.transparent = owned.bound != Bound::kAny || world_.Chance(83);
  if (!owned.transparent) SetTransparent(owned.fd, owned.serves, false);
  const Address at = owned.bound == Bound::kAny ? Address()
                     : owned.bound == Bound::kInterface
                         ? world_.addresses.interface[Index(slot.family)]
                         : world_.addresses.asked[Index(slot.family)];
  const auto add = [&](PlaceState* state) {
    state->push_back({.mark = owned.mark,
                      .bound = owned.bound,
                      .serves = owned.serves,
                      .transparent = owned.transparent});
  };
  bool opened = false;
  if (proto_ == Proto::kUdp) {
    opened = Change(
        "bound", [&] { return BindTo(owned.fd, owned.serves, at, port_); }, add);
  } else {
    if (!BindTo(owned.fd, owned.serves, at, port_)) {
      ++world_.refused["bind of a listener"];
      return false;
    }
    opened = Change(
        "listening", [&] { return ::listen(owned.fd.get(), kBacklog) == 0; }, add);
  }
  if (opened) owned_.push_back(std::move(owned));
  return opened;
}

void ListenerPlace::Connect(Owned* owned) {
  const Family family = owned->serves == Serves::kIpv4 ? Family::kIpv4 : Family::kIpv6;
  owned->connected = Change(
      "connected",
      [&] {
        return ConnectTo(owned->fd, family, world_.addresses.client[Index(family)], owned->flow);
      },
      [&](PlaceState* state) { FindMark(state, owned->mark)->peer = owned->flow; });
}

void ListenerPlace::Toggle(Owned* owned) {
  const bool on = !owned->transparent;
  owned->transparent = on;
  Change(
      on ? "IP_TRANSPARENT on" : "IP_TRANSPARENT off",
      [&] { return SetTransparent(owned->fd, owned->serves, on); },
      [&](PlaceState* state) {
        if (SocketState* socket = FindMark(state, owned->mark)) socket->transparent = on;
      });
}

void ListenerPlace::Close(Owned* owned) {
  const uint32_t mark = owned->mark;
  Change(
      "closed",
      [&] {
        owned->fd.reset();
        return true;
      },
      [&](PlaceState* state) { EraseMark(state, mark); });
  *owned = std::move(owned_.back());
  owned_.pop_back();
}

void ListenerPlace::Unlisten(Owned* owned) {
  Change(
      "shut down", [&] { return ::shutdown(owned->fd.get(), SHUT_RD) == 0; },
      [&](PlaceState* state) { EraseMark(state, owned->mark); });
  owned->listening = false;
}

void ListenerPlace::Relisten(Owned* owned) {
  owned->listening = Change(
      "listening again", [&] { return ::listen(owned->fd.get(), kBacklog) == 0; },
      [&](PlaceState* state) {
        state->push_back({.mark = owned->mark,
                          .bound = owned->bound,
                          .serves = owned->serves,
                          .transparent = owned->transparent});
      });
}

bool ListenerPlace::ChooseProbe(Probe* probe) {
  const bool often = world_.Chance(60);
  *probe = {
      .family = AnyFamily(), .proto = proto_, .syn = proto_ == Proto::kTcp && !world_.Chance(30)};
  probe->sport = often ? flows_[world_.Below(flows_.size())]
                       : static_cast<uint16_t>(1024 + world_.Below(64000));
  return true;
}

}  // namespace utproxy::churn
