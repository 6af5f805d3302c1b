// SPDX-License-Identifier: GPL-3.0-or-later
#include "decide/explain.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace utproxy {
namespace {

std::string Source(const Packet& packet) {
  return EndpointToString(packet.src, packet.sport, packet.family);
}
std::string Destination(const Packet& packet) {
  return EndpointToString(packet.dst, packet.dport, packet.family);
}
std::string Hex(uint32_t mark) { return absl::StrFormat("0x%x", mark); }

// "tcp 10.0.2.99:80 from 10.0.1.99:40000 on ifindex 3"
std::string FlowText(const Packet& packet) {
  return absl::StrCat(ProtoName(packet.proto()), " ", Destination(packet), " from ", Source(packet),
                      " on ifindex ", packet.iif);
}

// "the LISTEN socket at 10.0.1.1:1090 (cookie 0x2a)"
std::string SocketText(const Socket& socket) {
  return absl::StrCat("the ", SockStateName(socket.state, socket.proto), " socket at ",
                      EndpointToString(socket.local, socket.local_port, socket.family()),
                      absl::StrFormat(" (cookie 0x%x)", socket.cookie));
}

const char* UnparsedText(ParseOutcome outcome) {
  switch (outcome) {
    case ParseOutcome::kFragment:
      return "This is a fragment, so its ports can't be trusted; the kernel's TPROXY never sees "
             "one, because its rule switches defragmentation on. A conntrack expression in this "
             "network namespace does the same.";
    case ParseOutcome::kNotTcpOrUdp:
      return "TPROXY handles TCP and UDP only (not UDP-Lite, SCTP or ICMP), and looks up no "
             "socket for anything else.";
    default:
      return "The headers end before the ports do: TPROXY needs 8 bytes after the IP headers, 20 "
             "for TCP, and a length field that does not point outside of the packet.";
  }
}

std::string PassedOverText(const Packet& packet, const Socket& socket) {
  const std::string found = absl::StrCat("The ordinary UDP lookup of ", FlowText(packet),
                                         " leads to ", SocketText(socket));
  if (!socket.connected()) {
    return absl::StrCat(found,
                        ", which is not connected: only a connected UDP socket counts as "
                        "established, so the rule's own address and port are looked up.");
  }
  return absl::StrCat(found,
                      ", which is connected, but at the wildcard address: such a socket "
                      "does not count as established, so the rule's own address and port "
                      "are looked up.");
}

std::string FoundText(const Packet& packet, const Socket& socket) {
  if (!packet.is_tcp()) {
    return absl::StrCat("The UDP lookup of ", FlowText(packet), " leads to ", SocketText(socket),
                        ", connected to the sender.");
  }
  const char* kind = socket.time_wait() ? "a TIME_WAIT minisocket"
                     : socket.request() ? "a request socket, its handshake half done"
                                        : "a full socket";
  return absl::StrCat("The established hash has ", FlowText(packet), ": ", SocketText(socket), ", ",
                      kind, ".");
}

const char* LaddrText(const Packet& packet, LaddrSource source) {
  switch (source) {
    case LaddrSource::kOnIp:
      return "the rule names it (--on-ip)";
    case LaddrSource::kPrimaryAddress:
      return "the rule names none, so it is the ingress interface's primary address";
    case LaddrSource::kPacket:
      break;
  }
  if (packet.iif == 0) {
    return "the rule names none and no ingress interface is given, so it is the packet's own "
           "destination";
  }
  return "the rule names none and the ingress interface has none that qualifies, so it is the "
         "packet's own destination";
}

std::string MissText(const Packet& packet, const Policy& policy) {
  const char* verdict =
      policy.on_miss == OnMiss::kAccept
          ? "accepted on its ordinary way (--on-miss accept), without being proxied"
          : "dropped, as xt_TPROXY does on a miss";
  return absl::StrCat("A miss leaves the mark ", Hex(packet.mark), " as it is; the packet is ",
                      verdict, ".");
}

std::string HitText(const Packet& packet, const Policy& policy, const Decision& decision) {
  std::string text = absl::StrFormat(
      "Clearing the mask's bits and XORing the value: (0x%x & ~0x%x) ^ 0x%x = 0x%x.", packet.mark,
      policy.mark_mask, policy.mark_value, decision.mark);
  if ((policy.mark_value & ~policy.mark_mask) != 0) {
    absl::StrAppend(&text,
                    " The value has bits outside the mask, which XOR flips rather than sets.");
  }
  return text;
}

}  // namespace

const char* StepName(StepKind kind) {
  static constexpr const char* kNames[] = {"established", "time_wait", "laddr", "listener",
                                           "transparent", "mark",      "route", "delivery"};
  return kNames[static_cast<int>(kind)];
}

void ExplainRecorder::Add(StepKind kind, std::string result, std::string why) {
  steps_.push_back(
      {.kind = kind, .result = std::move(result), .why = std::move(why), .candidates = {}});
}

void ExplainRecorder::Unparsed(const Packet& packet) {
  Add(StepKind::kEstablished, "skipped", UnparsedText(packet.outcome));
}

void ExplainRecorder::Established(const Packet& packet, const std::optional<Socket>& found,
                                  const std::optional<Socket>& passed_over) {
  if (found) {
    Add(StepKind::kEstablished, "found", FoundText(packet, *found));
  } else if (passed_over) {
    Add(StepKind::kEstablished, "ignored", PassedOverText(packet, *passed_over));
  } else if (packet.is_tcp()) {
    Add(StepKind::kEstablished, "none",
        absl::StrCat("The established hash has no full socket, request socket or TIME_WAIT "
                     "minisocket for ",
                     FlowText(packet), "."));
  } else {
    Add(StepKind::kEstablished, "none",
        absl::StrCat("The ordinary UDP lookup of ", FlowText(packet), " leads to no socket."));
  }
}

void ExplainRecorder::TimeWait(const Packet& packet, const Socket& minisock) {
  if (packet.is_pure_syn()) {
    Add(StepKind::kTimeWait, "reopen",
        absl::StrCat("The segment is a SYN without RST, ACK and FIN, so it may open a new "
                     "connection in the place of ",
                     SocketText(minisock),
                     ", whatever its sequence number: a listener is looked up."));
  } else {
    Add(StepKind::kTimeWait, "keep",
        absl::StrCat("The segment is no SYN that could open a connection, so it belongs to ",
                     SocketText(minisock), "."));
  }
}

void ExplainRecorder::ListenerSkipped(const Packet& packet, const Socket& established) {
  Add(StepKind::kListener, "skipped",
      absl::StrCat("No listener is looked up: ", SocketText(established), " already has the flow ",
                   Destination(packet), " from ", Source(packet),
                   ", and TPROXY does not fall back, even where that socket is not transparent."));
}

void ExplainRecorder::Laddr(const Packet& packet, const Policy& policy, const Address& laddr,
                            uint16_t lport, LaddrSource source) {
  looked_up_ = EndpointToString(laddr, lport, packet.family);
  const char* port =
      policy.on_port == 0 ? "the packet's own, as the rule names none" : "the rule's (--on-port)";
  std::string why =
      absl::StrCat("A listener is looked up at address ", laddr.ToString(packet.family),
                   " because ", LaddrText(packet, source), "; port ", lport, " is ", port, ".");
  if (source == LaddrSource::kPrimaryAddress && laddr != packet.dst) {
    absl::StrAppend(&why, " A listener bound to the packet's destination ",
                    packet.dst.ToString(packet.family), " is not found this way.");
  }
  Add(StepKind::kLaddr, looked_up_, std::move(why));
}

void ExplainRecorder::Listener(const Packet& packet, const std::optional<Socket>& found,
                               const std::optional<Socket>& shadow,
                               const std::optional<Socket>& time_wait) {
  const absl::string_view proto = ProtoName(packet.proto());
  std::string why;
  if (found) {
    why = absl::StrCat("The lookup of ", proto, " ", looked_up_, " for ", Source(packet),
                       " leads to ", SocketText(*found), ".");
  } else if (shadow) {
    why = absl::StrCat("The best match of udp ", looked_up_, " for ", Source(packet), " is ",
                       SocketText(*shadow),
                       ", which is connected; TPROXY refuses a connected socket here and looks for "
                       "no other, so it shadows any listener there.");
  } else {
    why = absl::StrCat("No ", proto, " socket at ", looked_up_,
                       " or at the wildcard address of that port takes this packet.");
  }
  if (time_wait) {
    absl::StrAppend(&why, found ? " It takes the place of " : " What stays chosen is ",
                    SocketText(*time_wait), ".");
  }
  Add(StepKind::kListener, found ? "found" : shadow ? "shadowed" : "none", std::move(why));
  if (candidates_) steps_.back().candidates = candidates_();
}

void ExplainRecorder::Transparent(const Socket& socket) {
  const absl::string_view rule =
      socket.time_wait() ? "a TIME_WAIT minisocket keeps the bit of its connection, which the "
                           "kernel does not report any more: inferred from what was last seen of "
                           "the connection, else from its address and listener"
      : socket.request() ? "a request socket has its listener's bit of when the SYN came; the "
                           "kernel reports the listener's of now"
      : socket.inet6()   ? "IPV6_TRANSPARENT or IP_TRANSPARENT, which are one bit"
                         : "IP_TRANSPARENT";
  std::string why = SocketText(socket);
  why[0] = 'T';
  absl::StrAppend(&why, socket.transparent() ? " is transparent (" : " is not transparent (", rule,
                  ")");
  if (!socket.transparent_known()) {
    absl::StrAppend(&why, ", which the kernel does not report for it and which is inferred");
  }
  absl::StrAppend(&why, socket.transparent() ? "." : ", so TPROXY hands it nothing: a miss.");
  Add(StepKind::kTransparent, socket.transparent() ? "yes" : "no", std::move(why));
}

void ExplainRecorder::Mark(const Packet& packet, const Policy& policy, const Decision& decision) {
  Add(StepKind::kMark, Hex(decision.mark),
      IsHit(decision.reason) ? HitText(packet, policy, decision) : MissText(packet, policy));
}

}  // namespace utproxy
