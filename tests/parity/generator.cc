// SPDX-License-Identifier: GPL-3.0-or-later
#include "generator.h"

#include <absl/strings/str_cat.h>
#include <netinet/in.h>

#include <algorithm>

namespace utproxy::parity {
namespace {

Address A(const std::string& text) { return Address::Parse(text).value(); }

const std::vector<Address>& Remotes(Family family) {
  static const std::vector<Address> kIpv4 = {A("10.9.0.2"), A("10.9.0.3")};
  static const std::vector<Address> kIpv6 = {A("fd09::2"), A("fd09::3")};
  return family == Family::kIpv4 ? kIpv4 : kIpv6;
}

const std::vector<Address>& Foreign(Family family) {
  static const std::vector<Address> kIpv4 = {A("198.51.100.7"), A("198.51.100.8")};
  static const std::vector<Address> kIpv6 = {A("2001:db8::7"), A("2001:db8::8")};
  return family == Family::kIpv4 ? kIpv4 : kIpv6;
}

constexpr uint16_t kRemotePorts[] = {4000, 4001};
constexpr uint16_t kPorts[] = {53, 80, 1090, 1091};

}  // namespace

std::vector<AddressSpec> Generator::DrawIpv4Addresses(int device) {
  // The second and third of a subnet become secondary to the first.
  std::vector<AddressSpec> all = {
      {.address = A(absl::StrCat("10.0.", device, ".1"))},
      {.address = A(absl::StrCat("10.0.", device, ".2"))},
      {.address = A(absl::StrCat("10.0.", device, ".3"))},
      {.address = A(absl::StrCat("10.1.", device, ".1"))},
      {.address = A(absl::StrCat("10.2.", device, ".1")), .prefix_len = 32},
  };
  std::shuffle(all.begin(), all.end(), random_);
  all.resize(Percent(20) ? 0 : 1 + Below(4));
  return all;
}

std::vector<AddressSpec> Generator::DrawIpv6Addresses(int device) {
  const auto make = [&](const std::string& text) {
    return AddressSpec{.address = A(text), .family = Family::kIpv6, .prefix_len = 64};
  };
  std::vector<AddressSpec> all = {
      make(absl::StrCat("fd00:", device, "::1")), make(absl::StrCat("fd00:", device, "::2")),
      make(absl::StrCat("fd01:", device, "::1")), make(absl::StrCat("fe80::", device + 1))};
  std::shuffle(all.begin(), all.end(), random_);
  all.resize(Percent(15) ? 0 : 1 + Below(4));
  for (AddressSpec& spec : all) {
    spec.deprecated = Percent(30);
    spec.tentative = device == kTapDevice && Percent(40);
  }
  return all;
}

Policy Generator::DrawPolicy() {
  Policy policy{.on_port = Percent(30) ? uint16_t{0} : Pick(kPorts)};
  if (Percent(40)) {
    policy.on_ip4 =
        Pick(std::vector{A("10.0.0.1"), A("10.0.1.1"), A("127.0.0.1"), A("198.51.100.7")});
  }
  if (Percent(40)) {
    policy.on_ip6 = Pick(std::vector{A("fd00:0::1"), A("fd00:1::1"), A("::1"), A("2001:db8::7")});
  }
  const auto any = [this] { return static_cast<uint32_t>(random_()); };
  const uint32_t masks[] = {0xffffffff, 1, 0xff, 0xff00, 0, any(), any()};
  const uint32_t values[] = {1, 0x5, 0x100, any(), any()};
  policy.mark_mask = Pick(masks);
  policy.mark_value = Pick(values);
  policy.on_miss = Percent(50) ? OnMiss::kAccept : OnMiss::kDrop;
  return policy;
}

Generator::World Generator::DrawWorld(size_t policies, uint64_t number) {
  World world;
  // Where no interface has an IPv4 address, connect() leaves a wildcard bind one.
  const bool bare = number % 6 == 1;
  for (int i = 0; i < kDevices; ++i) {
    std::vector<AddressSpec>& addresses = world.addresses[static_cast<size_t>(i)];
    if (!bare) addresses = DrawIpv4Addresses(i);
    for (AddressSpec& spec : DrawIpv6Addresses(i)) addresses.push_back(spec);
  }
  if (number % 5 == 3) {
    // Nothing but a link-local address on p1, whatever the others have.
    std::erase_if(world.addresses[1],
                  [](const AddressSpec& a) { return a.family == Family::kIpv6; });
    world.addresses[1].push_back(
        {.address = A("fe80::2"), .family = Family::kIpv6, .prefix_len = 64});
  }
  for (size_t i = 0; i < policies; ++i) world.policies.push_back(DrawPolicy());
  world.marks = {0, 1, 0x100, 0xffffffff};
  for (int i = 0; i < 4; ++i) world.marks.push_back(static_cast<uint32_t>(random_()));
  world.steers = number % 4 == 2;
  return world;
}

uint8_t Generator::DrawMarkIndex(const World& world) {
  return static_cast<uint8_t>(1 + Below(static_cast<uint32_t>(world.marks.size())));
}

uint16_t Generator::DrawPort(const World& world) {
  const uint16_t on_port = Pick(world.policies).on_port;
  return on_port != 0 && Percent(50) ? on_port : Pick(kPorts);
}

Address Generator::DrawLocal(const World& world, Family family) {
  std::vector<Address> own;
  for (const std::vector<AddressSpec>& device : world.addresses) {
    for (const AddressSpec& spec : device) {
      const bool link_local = family == Family::kIpv6 && spec.address.bytes()[0] == 0xfe;
      if (spec.family == family && !spec.tentative && !link_local) own.push_back(spec.address);
    }
  }
  const Address& on_ip = Pick(world.policies).on_ip(family);
  if (!on_ip.IsUnspecified() && Percent(30)) return on_ip;
  return own.empty() || Percent(50) ? Pick(Foreign(family)) : Pick(own);
}

Address Generator::DrawRemote(Family family) { return Pick(Remotes(family)); }

SocketSpec Generator::DrawBound(const World& world, Proto proto) {
  SocketSpec spec{.proto = proto};
  spec.state = proto == Proto::kTcp ? SockState::kListen : SockState::kClose;
  spec.inet6 = Percent(50);
  if (Percent(55)) {
    const bool v4 = !spec.inet6 || Percent(20);  // mapped
    spec.local = DrawLocal(world, v4 ? Family::kIpv4 : Family::kIpv6);
  }
  spec.local_port = DrawPort(world);
  spec.transparent = Percent(75);
  spec.switched = Percent(15);
  spec.v6only = spec.inet6 && !spec.local.IsV4Mapped() && Percent(25);
  spec.reuseport = Percent(35);
  if (Percent(30)) spec.device = static_cast<int>(Below(kDevices));
  if (Percent(20)) spec.first_device = static_cast<int>(Below(kDevices + 1)) - 1;
  if (Percent(6)) spec.incoming_cpu = static_cast<int>(Below(2));
  return spec;
}

SocketSpec Generator::DrawConnected(const World& world, Proto proto) {
  SocketSpec spec{.proto = proto, .state = SockState::kEstablished};
  const Family family = DrawFamily();
  spec.inet6 = family == Family::kIpv6 || Percent(40);
  spec.local = DrawLocal(world, family);
  spec.remote = DrawRemote(family);
  spec.local_port = DrawPort(world);
  spec.remote_port = Pick(kRemotePorts);
  spec.transparent = Percent(75);
  spec.switched = Percent(15);
  if (Percent(20)) spec.device = static_cast<int>(Below(kDevices));
  if (proto == Proto::kTcp) {
    DrawTcpState(world, &spec);
    return spec;
  }
  spec.reuseport = Percent(25);
  const bool bare =
      std::all_of(world.addresses.begin(), world.addresses.end(), [](const auto& device) {
        return std::none_of(device.begin(), device.end(),
                            [](const AddressSpec& a) { return a.family == Family::kIpv4; });
      });
  if (bare && family == Family::kIpv4 && Percent(60)) {
    spec.inet6 = false;
    spec.wildcard_receive = true;
    spec.local = Address();
  }
  return spec;
}

void Generator::DrawTcpState(const World&, SocketSpec* spec) {
  constexpr SockState kStates[] = {
      SockState::kEstablished, SockState::kEstablished, SockState::kSynSent,  SockState::kSynRecv,
      SockState::kFinWait1,    SockState::kFinWait2,    SockState::kClosing,  SockState::kCloseWait,
      SockState::kLastAck,     SockState::kTimeWait,    SockState::kTimeWait, SockState::kTimeWait,
      SockState::kTimeWait,    SockState::kTimeWait};
  spec->state = Pick(kStates);
  if (spec->state != SockState::kTimeWait) return;
  spec->fin_wait2_minisock = Percent(40);
  spec->switched = false;
  // Of a connection that never came by, all that tells is that nobody but a transparent socket
  // can have an address that is not the host's.
  if (!Percent(20)) return;
  spec->observed = false;
  spec->transparent = true;
  spec->local = Pick(Foreign(spec->wire_family()));
}

SocketSpec Generator::DrawRequest(const World& world, const SocketSpec& listener) {
  SocketSpec spec{.state = SockState::kNewSynRecv};
  Family family = listener.wire_family();
  if (listener.local.IsUnspecified() && listener.inet6 && !listener.v6only && Percent(50)) {
    family = Family::kIpv4;
  }
  spec.inet6 = family == Family::kIpv6;
  spec.local = listener.local.IsUnspecified() ? DrawLocal(world, family) : listener.local;
  spec.remote = DrawRemote(family);
  spec.local_port = listener.local_port;
  spec.remote_port = Pick(kRemotePorts);
  spec.device = listener.device;
  return spec;
}

SocketSpec Generator::DrawSocket(const World& world) {
  const uint32_t kind = Below(100);
  if (kind < 35) return DrawBound(world, Proto::kTcp);
  if (kind < 60) return DrawBound(world, Proto::kUdp);
  if (kind < 85) return DrawConnected(world, Proto::kTcp);
  return DrawConnected(world, Proto::kUdp);
}

namespace {

// Two connections of one flow can only be bound to different devices; which of them a lookup finds
// first depends on which came last, and a minisocket that is made anew comes last.
void LeaveOutTwins(std::vector<SocketSpec>* sockets) {
  const auto twin = [](const SocketSpec& a, const SocketSpec& b) {
    return a.proto == Proto::kTcp && b.proto == Proto::kTcp && a.remote_port != 0 &&
           a.local == b.local && a.remote == b.remote && a.local_port == b.local_port &&
           a.remote_port == b.remote_port &&
           (a.state == SockState::kTimeWait || b.state == SockState::kTimeWait);
  };
  for (auto it = sockets->begin(); it != sockets->end();) {
    const bool had =
        std::any_of(sockets->begin(), it, [&](const SocketSpec& s) { return twin(s, *it); });
    it = had ? sockets->erase(it) : it + 1;
  }
}

}  // namespace

Scene Generator::DrawScene(const World& world) {
  Scene scene{.addresses = world.addresses};
  const size_t count = 3 + Below(25);
  for (size_t i = 0; i < count; ++i) scene.sockets.push_back(DrawSocket(world));
  if (Percent(40)) Crowd(&scene);
  // Binds in repair mode disregard all others, so they come last.
  std::stable_partition(scene.sockets.begin(), scene.sockets.end(), [](const SocketSpec& s) {
    return s.proto == Proto::kUdp || s.state == SockState::kListen;
  });
  for (size_t i = 0; i < count; ++i) {
    const SocketSpec s = scene.sockets[i];
    const bool listener = s.proto == Proto::kTcp && s.state == SockState::kListen;
    if (listener && Percent(20)) scene.sockets.push_back(DrawRequest(world, s));
  }
  LeaveOutTwins(&scene.sockets);
  for (size_t i = 0; i < scene.sockets.size(); ++i) {
    scene.sockets[i].id = static_cast<uint32_t>(i + 1);
  }
  if (world.steers) DrawSteers(world, &scene);
  return scene;
}

// Many sockets at one address and port, so that scores, groups and order come to matter.
void Generator::Crowd(Scene* scene) {
  const SocketSpec model = scene->sockets[0];
  const bool groups = Percent(60);
  for (SocketSpec& s : scene->sockets) {
    const bool v4 = model.local.IsV4Mapped(),
               family_fits = v4 || s.inet6 || model.local.IsUnspecified();
    const bool member = groups && s.proto == Proto::kUdp && s.remote_port != 0 &&
                        !s.wildcard_receive && !model.local.IsUnspecified() &&
                        v4 == s.local.IsV4Mapped();
    if (member && Percent(50)) {
      s.local = model.local;
      s.local_port = model.local_port;
      s.reuseport = true;
    }
    if (s.remote_port != 0 || !family_fits || Percent(20)) continue;
    s.local = model.local;
    s.local_port = model.local_port;
    s.v6only = s.v6only && !v4;
    if (groups) {
      s.reuseport = Percent(85);
    } else if (s.proto == Proto::kTcp) {
      // Without groups only listeners of different devices can share an address and port; bound
      // to others, or to none, afterwards, they come to compete.
      s.reuseport = false;
      s.first_device = static_cast<int>(Below(kDevices));
      s.device = Percent(50) ? s.first_device : -1;
    }
  }
}

void Generator::DrawSteers(const World& world, Scene* scene) {
  std::vector<SocketSpec> targets;
  for (const SocketSpec& s : scene->sockets) {
    const bool bound = s.state == (s.proto == Proto::kTcp ? SockState::kListen : SockState::kClose);
    if (bound) targets.push_back(s);
  }
  const size_t count = targets.empty() ? 0 : Below(5);
  for (size_t i = 0; i < count; ++i) {
    const SocketSpec& target = Pick(targets);
    // An IPv6 packet cannot be given to an AF_INET socket, nor an IPv4 one to a v6only socket.
    Family family = target.inet6 ? DrawFamily() : Family::kIpv4;
    if (target.v6only) family = Family::kIpv6;
    scene->steers.push_back({.family = family,
                             .flow = {.local = DrawLocal(world, family),
                                      .remote = DrawRemote(family),
                                      .local_port = DrawPort(world),
                                      .remote_port = Pick(kRemotePorts),
                                      .proto = target.proto},
                             .id = target.id});
  }
}

PacketSpec Generator::DrawPlain(const World& world) {
  PacketSpec spec;
  Packet& p = spec.packet;
  p.family = DrawFamily();
  p.protocol = Percent(50) ? IPPROTO_TCP : IPPROTO_UDP;
  p.src = DrawRemote(p.family);
  p.dst = DrawLocal(world, p.family);
  p.sport = Pick(kRemotePorts);
  p.dport = DrawPort(world);
  spec.device = static_cast<int>(Below(kDevices));
  return spec;
}

void Generator::AimAt(const World& world, const SocketSpec& socket, PacketSpec* spec) {
  Packet& p = spec->packet;
  p.protocol = static_cast<uint8_t>(socket.proto);
  p.family = socket.wire_family();
  if (socket.local.IsUnspecified() && socket.inet6 && Percent(50)) p.family = Family::kIpv4;
  p.src = DrawRemote(p.family);
  p.dst = socket.local.IsUnspecified() || Percent(20) ? DrawLocal(world, p.family) : socket.local;
  if (Percent(60)) p.dport = socket.local_port;
  if (socket.device >= 0 && Percent(80)) spec->device = socket.device;
  if (socket.remote_port == 0) return;
  p.src = socket.remote;
  p.sport = socket.remote_port;
  p.dport = socket.local_port;
  if (socket.wildcard_receive) return;
  p.dst = socket.local;
  // Connected to laddr:lport, it shadows the listener there for other destinations.
  if (socket.proto == Proto::kUdp && Percent(30)) p.dst = DrawLocal(world, p.family);
  if (Percent(10)) p.src = DrawRemote(p.family);
  if (Percent(10)) p.sport = Pick(kRemotePorts);
}

PacketSpec Generator::DrawPacket(const World& world, const Scene& scene) {
  PacketSpec spec = DrawPlain(world);
  if (!scene.steers.empty() && Percent(30)) {
    const SteerSpec& steer = Pick(scene.steers);
    spec.packet.family = steer.family;
    spec.packet.protocol = static_cast<uint8_t>(steer.flow.proto);
    spec.packet.src = steer.flow.remote;
    spec.packet.sport = steer.flow.remote_port;
    spec.packet.dst = Percent(50) ? steer.flow.local : DrawLocal(world, steer.family);
    spec.packet.dport = Percent(50) ? steer.flow.local_port : DrawPort(world);
  } else if (Percent(70)) {
    AimAt(world, Pick(scene.sockets), &spec);
  }
  DrawTransport(&spec);
  if (spec.packet.family == Family::kIpv4) {
    DrawIpv4Shape(&spec);
  } else {
    DrawIpv6Shape(&spec);
  }
  if (Percent(6)) DrawOddity(world, &spec);
  // The kernel drops these before any hook (ip6_rcv_core).
  if (spec.packet.dst == A("::1")) spec.packet.dst = Foreign(Family::kIpv6)[0];
  if (spec.packet.src == A("::1")) spec.packet.src = Remotes(Family::kIpv6)[0];
  return spec;
}

void Generator::DrawTransport(PacketSpec* spec) {
  Packet& p = spec->packet;
  if (Percent(4)) {
    constexpr uint8_t kOthers[] = {IPPROTO_ICMP, IPPROTO_IGMP, IPPROTO_GRE,     IPPROTO_ESP,
                                   IPPROTO_SCTP, IPPROTO_DCCP, IPPROTO_UDPLITE, IPPROTO_RAW};
    p.protocol = Pick(kOthers);
    spec->build.payload.resize(40);
    return;
  }
  if (p.is_tcp()) {
    const uint32_t kind = Below(100);
    p.tcp_flags = kind < 35 ? kTcpSyn : kind < 60 ? kTcpAck : static_cast<uint8_t>(Below(256));
  }
  if (Percent(5)) {
    spec->build.payload.resize(64 + Below(100));
    spec->fragments = static_cast<uint8_t>(2 + Below(2));
  } else if (Percent(5)) {
    spec->cut = 1 + Below(p.is_tcp() ? 20 : 8);
  }
}

void Generator::DrawIpv4Shape(PacketSpec* spec) {
  if (Percent(10)) spec->build.ip_options.assign(4 + 4 * Below(10), 1);  // no-operations
  if (spec->fragments > 1 || spec->cut > 0 || !Percent(2)) return;
  spec->build.payload.resize(32);
  constexpr uint16_t kFields[] = {0x2000, 0x2001, 0x0001, 0x0010};  // more to come, not the first
  spec->build.fragment = Pick(kFields);
}

void Generator::DrawIpv6Shape(PacketSpec* spec) {
  if (spec->fragments > 1 || !Percent(18)) return;
  const size_t count = 1 + Below(4);
  for (size_t i = 0; i < count; ++i) {
    const std::vector<uint8_t> body(6 + 8 * Below(3));
    switch (Below(10)) {
      case 0:
      case 1:  // hop-by-hop options stand first or nowhere
        // More than 7 bytes of padding at a time make the kernel drop it (ip6_parse_tlv).
        if (i == 0) {
          spec->build.extensions.push_back(
              {.type = IPPROTO_HOPOPTS, .body = std::vector<uint8_t>(6)});
        }
        break;
      case 2:
      case 3:
      case 4:
        spec->build.extensions.push_back({.type = IPPROTO_DSTOPTS, .body = body});
        break;
      case 5:
      case 6:
        spec->build.extensions.push_back({.type = IPPROTO_ROUTING, .body = body});
        break;
      case 7:
        spec->build.extensions.push_back(
            {.type = IPPROTO_AH, .body = std::vector<uint8_t>(10 + 4 * Below(4))});
        spec->has_ah = true;
        break;
      default:
        spec->build.extensions.push_back(FragmentHeader(0, false));  // an atomic fragment
        break;
    }
  }
}

// What a hostile network sends.
void Generator::DrawOddity(const World& world, PacketSpec* spec) {
  Packet& p = spec->packet;
  const bool v4 = p.family == Family::kIpv4;
  switch (Below(6)) {
    case 0:
      p.dst = A(v4 ? (Percent(50) ? "224.0.0.9" : "255.255.255.255") : "ff02::9");
      break;
    case 1:
      p.src = DrawLocal(world, p.family);  // the host's own, or the destination's
      break;
    case 2:
      p.sport = 0;
      break;
    case 3:
      p.dport = 0;
      break;
    case 4:
      if (v4) p.src = Address();
      break;
    default:
      // An IPv6 packet to a mapped address: the kernel takes it (only as a source it does not).
      p.dst = v4 ? A("127.0.0.1") : A("::ffff:198.51.100.7");
      break;
  }
}

}  // namespace utproxy::parity
