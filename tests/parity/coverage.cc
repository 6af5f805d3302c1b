// SPDX-License-Identifier: GPL-3.0-or-later
#include "coverage.h"

#include <algorithm>

namespace utproxy::parity {
namespace {

bool Flag(const Packet& p, uint8_t bits) { return (p.tcp_flags & bits) == bits; }

bool DeviceFits(const SocketSpec& s, const CoveredCase& c) {
  return s.device < 0 || s.device == c.spec.device;
}

bool FamilyFits(const SocketSpec& s, Family family) {
  return family == Family::kIpv6 ? s.inet6 : !(s.inet6 && s.v6only);
}

bool PeerFits(const SocketSpec& s, const Packet& p) {
  return s.remote_port == 0 || (s.remote == p.src && s.remote_port == p.sport);
}

template <typename Predicate>
const SocketSpec* Find(const std::vector<const SocketSpec*>& sockets, Predicate predicate) {
  const auto it = std::find_if(sockets.begin(), sockets.end(),
                               [&](const SocketSpec* s) { return predicate(*s); });
  return it == sockets.end() ? nullptr : *it;
}

// Sockets that the listener lookup has in its buckets, whether or not they fit.
std::vector<const SocketSpec*> Buckets(const CoveredCase& c) {
  std::vector<const SocketSpec*> found;
  for (size_t i = 0; i < c.scene.sockets.size(); ++i) {
    const SocketSpec& s = c.scene.sockets[i];
    const bool bound = s.proto == Proto::kUdp || s.state == SockState::kListen;
    if (c.made[i] && bound && s.proto == c.packet.proto() && s.local_port == c.steps.lport &&
        (s.local == c.steps.laddr || s.local.IsUnspecified())) {
      found.push_back(&s);
    }
  }
  return found;
}

const SocketSpec* Chosen(const CoveredCase& c) {
  if (c.outcome.who != Outcome::Who::kFull || c.outcome.id == 0) return nullptr;
  return &c.scene.sockets[c.outcome.id - 1];
}

bool Steered(const CoveredCase& c) {
  const FlowKey looked_up{.local = c.steps.laddr,
                          .remote = c.packet.src,
                          .local_port = c.steps.lport,
                          .remote_port = c.packet.sport,
                          .proto = c.packet.proto()};
  return std::any_of(c.scene.steers.begin(), c.scene.steers.end(), [&](const SteerSpec& s) {
    return s.flow == looked_up && s.family == c.packet.family && c.made[s.id - 1];
  });
}

}  // namespace

void Coverage::Row(const char* name, bool reached) {
  if (reached || registering_) ++rows_[name];
}

Coverage::Coverage() {
  // Walks through every Row() once, with a case that reaches none, so that all names are known.
  const Scene scene;
  const std::vector<bool> made;
  const Policy policy;
  const PacketSpec spec;
  Packet packet;
  packet.protocol = IPPROTO_RAW;
  const Outcome outcome;
  const Decision decision;
  const Steps steps;
  for (const uint8_t protocol : {IPPROTO_TCP, IPPROTO_UDP}) {
    packet.protocol = protocol;
    Count({scene, made, policy, spec, packet, outcome, decision, steps});
  }
  for (auto& [name, count] : rows_) count = 0;
  registering_ = false;
}

void Coverage::Add(const Coverage& other) {
  for (const auto& [name, count] : other.rows_) rows_[name] += count;
}

std::vector<std::string> Coverage::Below(uint64_t bound) const {
  std::vector<std::string> names;
  for (const auto& [name, count] : rows_) {
    if (count < bound) names.push_back(name);
  }
  return names;
}

void Coverage::Count(const CoveredCase& c) {
  CountHeaders(c);
  CountEstablished(c);
  CountLaddr(c);
  CountTimeWait(c);
  CountMark(c);
  CountLookup(c);
}

void Coverage::CountHeaders(const CoveredCase& c) {
  const Packet& p = c.packet;
  const bool v4 = p.family == Family::kIpv4, ok = p.outcome == ParseOutcome::kOk;
  const bool extended = !c.spec.build.extensions.empty();
  const auto has = [&](uint8_t type) {
    return std::any_of(c.spec.build.extensions.begin(), c.spec.build.extensions.end(),
                       [type](const ExtensionHeader& h) { return h.type == type; });
  };
  Row("1.2-1 IPv4 TCP", v4 && ok && p.is_tcp());
  Row("1.2-1 IPv4 UDP", v4 && ok && !p.is_tcp());
  Row("1.2-1 IPv6 TCP", !v4 && ok && p.is_tcp());
  Row("1.2-1 IPv6 UDP", !v4 && ok && !p.is_tcp());
  Row("1.2-1 IPv4 options, hit", v4 && !c.spec.build.ip_options.empty() && c.outcome.hit);
  Row("1.2-1 hop-by-hop options, hit", has(IPPROTO_HOPOPTS) && c.outcome.hit);
  Row("1.2-1 destination options, hit", has(IPPROTO_DSTOPTS) && c.outcome.hit);
  Row("1.2-1 routing header, hit", has(IPPROTO_ROUTING) && c.outcome.hit);
  Row("1.2-1 atomic fragment, hit", extended && has(IPPROTO_FRAGMENT) && c.outcome.hit);
  Row("1.2-1 AH, hit", has(IPPROTO_AH) && c.outcome.hit);
  Row("1.2-1 chain of three or more, hit", c.spec.build.extensions.size() >= 3 && c.outcome.hit);
  const bool cut = p.outcome == ParseOutcome::kHeaderTruncated;
  Row("1.2-1 UDP header cut short, miss", cut && p.protocol == IPPROTO_UDP);
  Row("1.2-1 TCP header cut short, miss", cut && p.is_tcp());
  Row("1.2-1 another protocol, miss", p.outcome == ParseOutcome::kNotTcpOrUdp);
  Row("1.2-1 a fragment alone, miss", p.outcome == ParseOutcome::kFragment);
  Row("1.1 a fragmented IPv4 datagram, whole, hit", c.spec.fragments > 1 && v4 && c.outcome.hit);
  Row("1.1 a fragmented IPv6 datagram, whole, hit", c.spec.fragments > 1 && !v4 && c.outcome.hit);
}

void Coverage::CountEstablished(const CoveredCase& c) {
  const std::optional<Socket>& found = c.steps.established;
  const bool tcp = c.packet.is_tcp(), v4 = c.packet.family == Family::kIpv4;
  constexpr std::pair<SockState, const char*> kStates[] = {
      {SockState::kEstablished, "1.2-2 ESTABLISHED"}, {SockState::kSynSent, "1.2-2 SYN_SENT"},
      {SockState::kSynRecv, "1.2-2 SYN_RECV"},        {SockState::kFinWait1, "1.2-2 FIN_WAIT1"},
      {SockState::kFinWait2, "1.2-2 FIN_WAIT2"},      {SockState::kClosing, "1.2-2 CLOSING"},
      {SockState::kCloseWait, "1.2-2 CLOSE_WAIT"},    {SockState::kLastAck, "1.2-2 LAST_ACK"}};
  for (const auto& [state, name] : kStates) {
    Row(name, tcp && found && found->state == state && !found->time_wait() && !found->request());
  }
  const bool mini = tcp && found && found->time_wait();
  Row("1.2-2 request socket, transparent", tcp && found && found->request() && c.outcome.hit);
  Row("1.2-2 request socket, not transparent", tcp && found && found->request() && !c.outcome.hit);
  Row("1.2-2 TIME_WAIT minisocket", mini && found->state == SockState::kTimeWait);
  Row("1.2-2 FIN_WAIT2 minisocket", mini && found->state == SockState::kFinWait2);
  Row("1.2-2 IPv4 segment of an AF_INET6 connection", tcp && v4 && found && found->inet6());
  Row("1.2-2 connected UDP, IPv4", !tcp && v4 && found);
  Row("1.2-2 connected UDP, IPv6", !tcp && !v4 && found);
  Row("1.2-2 IPv4 datagram of an AF_INET6 socket", !tcp && v4 && found && found->inet6());
  const std::optional<Socket>& passed = c.steps.passed_over;
  Row("1.2-2 unconnected UDP socket at the packet's destination: none",
      passed && !passed->connected());
  Row("1.2-2 connected UDP with wildcard receive address: none", passed && passed->connected());
  Row("1.2-5 established, not transparent: no listener looked for, miss",
      tcp && found && !found->time_wait() && !found->transparent() && !c.outcome.hit);
  Row("1.2-7 TIME_WAIT, not transparent, miss", mini && !c.packet.is_pure_syn() && !c.outcome.hit);
  Row("1.2-7 connected UDP, not transparent, miss", !tcp && found && !c.outcome.hit);
  const SocketSpec* chosen = Chosen(c);
  Row("1.2-7 transparency switched on late", chosen != nullptr && chosen->switched);
  const bool off = found && found->mark > 0 && found->mark <= c.scene.sockets.size() &&
                   c.scene.sockets[found->mark - 1].switched && !found->transparent();
  Row("1.2-7 transparency switched off late, miss", off && !c.outcome.hit);
  Row("2.1 connection bound to a device", found && found->ifindex != 0 && !mini);
}

void Coverage::CountLaddr(const CoveredCase& c) {
  const bool looked = c.steps.listener_looked_up, v4 = c.packet.family == Family::kIpv4;
  const auto& addresses = c.scene.addresses[static_cast<size_t>(c.spec.device)];
  std::vector<const AddressSpec*> own;
  for (const AddressSpec& a : addresses) {
    if (a.family == c.packet.family) own.push_back(&a);
  }
  const bool primary = looked && c.steps.source == LaddrSource::kPrimaryAddress;
  const bool from_packet = looked && c.steps.source == LaddrSource::kPacket;
  const auto any = [&](auto predicate) {
    return std::any_of(own.begin(), own.end(), [&](const AddressSpec* a) { return predicate(*a); });
  };
  Row("1.2-3 on-ip, IPv4", looked && c.steps.source == LaddrSource::kOnIp && v4);
  Row("1.2-3 on-ip, IPv6", looked && c.steps.source == LaddrSource::kOnIp && !v4);
  Row("1.2-3 IPv4 primary of several addresses", primary && v4 && own.size() > 1);
  Row("1.2-3 IPv4 no address: the packet's destination", from_packet && v4);
  Row("1.2-3 IPv6 of several addresses", primary && !v4 && own.size() > 1);
  const bool link_local = c.steps.laddr.bytes()[0] == 0xfe;
  Row("1.2-3 IPv6 link-local where nothing else", primary && !v4 && link_local);
  Row("1.2-3 IPv6 global passed before link-local",
      primary && !v4 && !link_local &&
          any([](const AddressSpec& a) { return a.address.bytes()[0] == 0xfe; }));
  Row("1.2-3 IPv6 deprecated skipped",
      primary && !v4 && any([](const AddressSpec& a) { return a.deprecated; }));
  Row("1.2-3 IPv6 tentative skipped", looked && !v4 && c.steps.source != LaddrSource::kOnIp &&
                                          any([](const AddressSpec& a) { return a.tentative; }));
  Row("1.2-3 IPv6 none qualifies: the packet's destination", from_packet && !v4);
  const std::vector<const SocketSpec*> none;
  const bool at_destination =
      std::any_of(c.scene.sockets.begin(), c.scene.sockets.end(), [&](const SocketSpec& s) {
        return looked && s.local == c.packet.dst && s.local_port == c.steps.lport &&
               s.proto == c.packet.proto() && s.remote_port == 0 && c.steps.laddr != c.packet.dst;
      });
  Row("1.2-3 socket at the destination, not at laddr: not found",
      at_destination && !c.steps.listener);
  Row("1.2-4 on-port given", looked && c.policy.on_port != 0);
  Row("1.2-4 no on-port: the packet's", looked && c.policy.on_port == 0);
}

void Coverage::CountTimeWait(const CoveredCase& c) {
  const Packet& p = c.packet;
  const bool mini = p.is_tcp() && c.steps.established && c.steps.established->time_wait();
  const bool reopened = mini && c.decision.by_listener();
  Row("1.2-5 TIME_WAIT and SYN: listener", reopened && c.outcome.hit);
  Row("1.2-5 TIME_WAIT and SYN: listener not transparent, miss",
      mini && p.is_pure_syn() && c.steps.listener && !c.outcome.hit);
  Row("1.2-5 TIME_WAIT and SYN: no listener, kept", mini && p.is_pure_syn() && !c.steps.listener);
  Row("1.2-5 FIN_WAIT2 minisocket and SYN: listener",
      reopened && c.steps.established->state == SockState::kFinWait2);
  const auto kept = [&](uint8_t bits) { return mini && c.outcome.hit && Flag(p, bits); };
  Row("1.2-5 TIME_WAIT and SYN|ACK: kept", kept(kTcpSyn | kTcpAck));
  Row("1.2-5 TIME_WAIT and SYN|RST: kept", kept(kTcpSyn | kTcpRst));
  Row("1.2-5 TIME_WAIT and SYN|FIN: kept", kept(kTcpSyn | kTcpFin));
  Row("1.2-5 TIME_WAIT and no SYN: kept", mini && c.outcome.hit && !Flag(p, kTcpSyn));
  const uint8_t six = p.tcp_flags & 0x3f;
  static constexpr const char* kFlags[] = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"};
  for (unsigned i = 0; i < 6; ++i) {
    const std::string name = std::string("1.2-6 listener, segment with ") + kFlags[i];
    const bool hit = p.is_tcp() && c.decision.reason == Reason::kListener && c.outcome.hit;
    Row(name.c_str(), hit && (six >> i & 1) != 0);
  }
  const bool by_listener = p.is_tcp() && c.decision.reason == Reason::kListener && c.outcome.hit;
  Row("1.2-6 listener, stray segment without SYN", by_listener && !Flag(p, kTcpSyn));
  Row("1.2-6 listener, no flag at all", by_listener && six == 0);
}

void Coverage::CountMark(const CoveredCase& c) {
  const Policy& policy = c.policy;
  const bool hit = c.outcome.hit;
  Row("1.2-8 bits outside the mask survive", hit && (c.packet.mark & ~policy.mark_mask) != 0);
  Row("1.2-8 value bits outside the mask are XORed",
      hit && (c.packet.mark & ~policy.mark_mask & policy.mark_value) != 0);
  Row("1.2-8 mask 0", hit && policy.mark_mask == 0);
  Row("1.2-8 whole mask", hit && policy.mark_mask == 0xffffffffu);
  Row("1.2-9 miss, drop", !hit && policy.on_miss == OnMiss::kDrop);
  Row("1.2-9 miss, accept", !hit && policy.on_miss == OnMiss::kAccept);
  Row("5.2-1 listener's port is not the packet's",
      hit && c.decision.by_listener() && c.packet.is_tcp() && c.steps.lport != c.packet.dport);
  Row("5.2-2 listener's address is not the packet's",
      hit && c.decision.by_listener() && c.steps.laddr != c.packet.dst);
  Row("5.2-4 UDP, listener's port is not the packet's",
      hit && c.decision.by_listener() && !c.packet.is_tcp() && c.steps.lport != c.packet.dport);
  const bool multicast = c.packet.family == Family::kIpv4 ? c.packet.dst.bytes()[12] >= 224
                                                          : c.packet.dst.bytes()[0] == 0xff;
  Row("5.2-16 multicast or broadcast", hit && multicast);
}

void Coverage::CountLookup(const CoveredCase& c) {
  const std::vector<const SocketSpec*> buckets =
      c.steps.listener_looked_up ? Buckets(c) : std::vector<const SocketSpec*>();
  const SocketSpec* chosen = Chosen(c);
  const bool looked = c.steps.listener_looked_up, hit = c.outcome.hit && looked;
  Row("5.2-3 a socket at daddr:dport is ignored", hit && c.decision.by_listener() &&
                                                      c.steps.passed_over && chosen != nullptr &&
                                                      c.steps.passed_over->mark != chosen->id);
  Row("1.2-6 no socket, miss",
      looked && !c.steps.listener && !c.steps.shadow && !c.steps.established);
  Row("1.2-7 TCP listener not transparent, miss",
      c.packet.is_tcp() && c.steps.listener && !c.outcome.hit);
  Row("1.2-7 UDP listener not transparent, miss",
      !c.packet.is_tcp() && c.steps.listener && !c.outcome.hit);
  Row("1.2-6 5.2-12 connected UDP socket shadows the listener, miss", c.steps.shadow.has_value());
  const SocketSpec* alien = Find(buckets, [&](const SocketSpec& s) { return !DeviceFits(s, c); });
  Row("2.1 bound to another device: not seen", alien != nullptr && chosen != alien);
  Row("2.1 bound to the ingress device", chosen != nullptr && looked && chosen->device >= 0);
  const bool steered = looked && Steered(c);
  Row("2.2 sk_lookup program's choice, TCP", steered && hit && c.packet.is_tcp());
  Row("2.3 sk_lookup program's choice, UDP", steered && hit && !c.packet.is_tcp());
  if (c.packet.is_tcp()) {
    CountTcpScores(c, buckets);
  } else {
    CountUdpScores(c, buckets);
  }
}

void Coverage::CountTcpScores(const CoveredCase& c, const std::vector<const SocketSpec*>& bucket) {
  const SocketSpec* chosen = Chosen(c);
  const bool v4 = c.packet.family == Family::kIpv4, hit = chosen != nullptr && !bucket.empty();
  // Others that pass the filters in the bucket of the chosen one.
  const auto rival = [&](auto predicate) {
    return hit && Find(bucket, [&](const SocketSpec& s) {
                    return &s != chosen && s.local == chosen->local && DeviceFits(s, c) &&
                           FamilyFits(s, c.packet.family) && predicate(s);
                  }) != nullptr;
  };
  const bool wild = hit && chosen->local.IsUnspecified();
  const bool passed_wild = hit && !wild && Find(bucket, [&](const SocketSpec& s) {
                                             return s.local.IsUnspecified() && DeviceFits(s, c) &&
                                                    FamilyFits(s, c.packet.family);
                                           }) != nullptr;
  Row("2.2 exact address", hit && !wild);
  Row("2.2 wildcard address", wild);
  Row("2.2 exact before wildcard", passed_wild);
  Row("2.2 IPv4 by dual-stack AF_INET6 wildcard", wild && v4 && chosen->inet6);
  Row("2.2 IPv4 by AF_INET6 bound to a mapped address", hit && !wild && v4 && chosen->inet6);
  const SocketSpec* v6only = Find(bucket, [&](const SocketSpec& s) { return s.v6only; });
  Row("2.2 v6only passed over for IPv4", v4 && v6only != nullptr && chosen != v6only);
  const SocketSpec* inet = Find(bucket, [](const SocketSpec& s) { return !s.inet6; });
  Row("2.2 AF_INET passed over for IPv6", !v4 && inet != nullptr && chosen != inet);
  Row("2.2 device-bound scores more",
      hit && chosen->device >= 0 && rival([](const SocketSpec& s) { return s.device < 0; }));
  Row("2.2 AF_INET scores more",
      hit && v4 && !chosen->inet6 && rival([](const SocketSpec& s) { return s.inet6; }));
  Row("2.2 SO_INCOMING_CPU in the bucket",
      hit && (chosen->incoming_cpu >= 0 ||
              rival([](const SocketSpec& s) { return s.incoming_cpu >= 0; })));
  Row("2.2 SO_REUSEPORT group", hit && chosen->reuseport && rival([&](const SocketSpec& s) {
                                  return s.reuseport && s.device == chosen->device &&
                                         s.inet6 == chosen->inet6;
                                }));
  Row("2.2 SO_REUSEPORT, two groups: device-bound and not",
      hit && chosen->reuseport &&
          rival([&](const SocketSpec& s) { return s.reuseport && s.device != chosen->device; }));
  Row("2.2 SO_REUSEPORT returned at once, though another scores more",
      hit && chosen->reuseport && chosen->device < 0 &&
          rival([](const SocketSpec& s) { return s.device >= 0; }));
}

void Coverage::CountUdpScores(const CoveredCase& c, const std::vector<const SocketSpec*>& bucket) {
  const SocketSpec* chosen = Chosen(c);
  const bool v4 = c.packet.family == Family::kIpv4, hit = chosen != nullptr && !bucket.empty();
  const auto fits = [&](const SocketSpec& s) {
    return &s != chosen && DeviceFits(s, c) && FamilyFits(s, c.packet.family) &&
           PeerFits(s, c.packet);
  };
  const auto rival = [&](auto predicate) {
    return hit && Find(bucket, [&](const SocketSpec& s) {
                    return s.local == chosen->local && fits(s) && predicate(s);
                  }) != nullptr;
  };
  const bool wild = hit && chosen->local.IsUnspecified();
  Row("2.3 exact unconnected", hit && !wild && chosen->remote_port == 0);
  Row("2.3 wildcard", wild);
  Row("2.3 exact before wildcard", hit && !wild && Find(bucket, [&](const SocketSpec& s) {
                                                     return s.local.IsUnspecified() && fits(s);
                                                   }) != nullptr);
  Row("2.3 IPv4 by dual-stack AF_INET6 wildcard", wild && v4 && chosen->inet6);
  Row("2.3 IPv4 by AF_INET6 bound to a mapped address", hit && !wild && v4 && chosen->inet6);
  const SocketSpec* v6only = Find(bucket, [&](const SocketSpec& s) { return s.v6only; });
  Row("2.3 v6only passed over for IPv4", v4 && v6only != nullptr && chosen != v6only);
  const SocketSpec* inet = Find(bucket, [](const SocketSpec& s) { return !s.inet6; });
  Row("2.3 AF_INET passed over for IPv6", !v4 && inet != nullptr && chosen != inet);
  const SocketSpec* stranger =
      Find(bucket, [&](const SocketSpec& s) { return !PeerFits(s, c.packet); });
  Row("2.3 connected to another peer: passed over",
      stranger != nullptr && chosen != stranger && hit);
  Row("2.3 device-bound scores more",
      hit && chosen->device >= 0 && rival([](const SocketSpec& s) { return s.device < 0; }));
  Row("2.3 AF_INET scores more, IPv4",
      hit && v4 && !chosen->inet6 && rival([](const SocketSpec& s) { return s.inet6; }));
  Row("2.3 equal scores: chain order", hit && rival([&](const SocketSpec& s) {
                                         return s.device == chosen->device &&
                                                s.inet6 == chosen->inet6 &&
                                                s.reuseport == chosen->reuseport;
                                       }));
  Row("2.3 SO_INCOMING_CPU in the bucket",
      hit && (chosen->incoming_cpu >= 0 ||
              rival([](const SocketSpec& s) { return s.incoming_cpu >= 0; })));
  Row("2.3 SO_REUSEPORT group", hit && chosen->reuseport && rival([&](const SocketSpec& s) {
                                  return s.reuseport && s.device == chosen->device &&
                                         s.inet6 == chosen->inet6;
                                }));
  Row("2.3 SO_REUSEPORT group with a connected member",
      hit && chosen->reuseport && Find(bucket, [&](const SocketSpec& s) {
                                    return &s != chosen && s.reuseport &&
                                           s.local == chosen->local && s.remote_port != 0;
                                  }) != nullptr);
  const SocketSpec* receiver =
      Find(bucket, [&](const SocketSpec& s) { return s.wildcard_receive && fits(s); });
  Row("5.2-13 connected with wildcard receive address among the wildcard sockets",
      c.steps.listener_looked_up && (receiver != nullptr || (hit && chosen->wildcard_receive)));
}

}  // namespace utproxy::parity
