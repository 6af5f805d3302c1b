// SPDX-License-Identifier: GPL-3.0-or-later
// A case as a shell script.
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>

#include <algorithm>

#include "shrink.h"
#include "sockets.h"

namespace utproxy::parity {
namespace {

// S: a socket with options. W: a packet that comes in. Every packet is delivered locally.
constexpr char kHead[] = R"(unshare -n python3 - <<'END'
import os, fcntl, struct, subprocess; from socket import *
sh = lambda c: subprocess.run(c, shell=True, check=True); W = lambda t, h: os.write(t, bytes.fromhex(h))
def tun(n): t = os.open('/dev/net/tun', 2); fcntl.ioctl(t, 0x400454ca, struct.pack('16sH22x', n, 0x1001)); return t
def S(f, t, *o): s = socket(f, t); s.setblocking(False); [s.setsockopt(*x) for x in o]; return s
)";

std::string Hex(const std::vector<uint8_t>& bytes) {
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

bool Needs(const Repro& repro, int device) {
  const auto bound = [device](const SocketSpec& s) {
    return s.device == device || s.first_device == device;
  };
  return device == 0 || device == repro.packet.device ||
         std::any_of(repro.scene.sockets.begin(), repro.scene.sockets.end(), bound);
}

std::string Devices(const Repro& repro) {
  std::vector<std::string> opened;
  std::string commands =
      "ip link set lo up; for f in -4 -6; do ip $f route add local default dev lo table 7; "
      "ip $f rule add iif p0 lookup 7; done";
  for (int i = 0; i < kDevices; ++i) {
    if (!Needs(repro, i)) continue;
    const std::string name = DeviceName(i);
    opened.push_back(absl::StrFormat("%s = tun(b'%s')", name, name));
    absl::StrAppend(&commands, "; ip link set ", name, " addrgenmode none; ip link set ", name,
                    " up");
    for (const AddressSpec& a : repro.world.addresses[static_cast<size_t>(i)]) {
      const bool v6 = a.family == Family::kIpv6;
      absl::StrAppend(&commands, "; ip addr add ", a.address.ToString(a.family), "/", a.prefix_len,
                      " dev ", name, a.deprecated ? " preferred_lft 0" : "", v6 ? " nodad" : "");
    }
    absl::StrAppend(&commands, "; ip route add default dev ", name, " metric ", 10 + i,
                    "; ip -6 route add default dev ", name, " metric ", 10 + i);
  }
  return absl::StrCat(absl::StrJoin(opened, "; "), "; sh('", commands, "')\n");
}

std::string Place(const SocketSpec& s, const Address& address, uint16_t port) {
  return absl::StrFormat("('%s', %d)", address.ToString(s.inet6 ? Family::kIpv6 : Family::kIpv4),
                         port);
}

std::string DeviceOption(int device) {
  return absl::StrFormat("(SOL_SOCKET, SO_BINDTODEVICE, b'%s')",
                         device >= 0 ? DeviceName(device) : "");
}

std::string Options(const SocketSpec& s) {
  std::string text =
      absl::StrFormat("(SOL_SOCKET, SO_REUSEADDR, 1), (SOL_SOCKET, SO_MARK, %d)", s.id);
  absl::StrAppend(&text, ", (SOL_IP, 15, 1)");  // IP_FREEBIND
  if (s.inet6) absl::StrAppend(&text, ", (IPPROTO_IPV6, IPV6_V6ONLY, ", s.v6only ? 1 : 0, ")");
  if (s.reuseport) absl::StrAppend(&text, ", (SOL_SOCKET, SO_REUSEPORT, 1)");
  if (s.incoming_cpu >= 0) absl::StrAppend(&text, ", (SOL_SOCKET, 49, ", s.incoming_cpu, ")");
  const int device = s.first_device >= -1 ? s.first_device : s.device;
  if (device >= 0) absl::StrAppend(&text, ", ", DeviceOption(device));
  return text;
}

std::string Transparent(const SocketSpec& s, bool on) {
  const char* option = s.inet6 ? "IPPROTO_IPV6, 75" : "SOL_IP, 19";
  return absl::StrFormat("; s%d.setsockopt(%s, %d)", s.id, option, on ? 1 : 0);
}

std::string Connected(const SocketSpec& s) {
  const std::string bind = absl::StrFormat("; s%d.bind(%s)", s.id, Place(s, s.local, s.local_port));
  const std::string connect =
      absl::StrFormat("; s%d.connect(%s)", s.id, Place(s, s.remote, s.remote_port));
  if (s.proto == Proto::kUdp) return bind + connect;
  const auto repair = [&s](int option, int value) {
    return absl::StrFormat("; s%d.setsockopt(IPPROTO_TCP, %d, %d)", s.id, option, value);
  };
  // TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ
  return absl::StrCat(repair(19, 1), bind, repair(20, 2), repair(21, kOurSeq), repair(20, 1),
                      repair(21, kTheirSeq), connect, repair(19, -1));
}

std::string Making(const SocketSpec& s) {
  const std::string device = DeviceName(std::max(s.device, 0));
  std::string line;
  if (s.state != SockState::kNewSynRecv) {
    line = absl::StrFormat("s%d = S(%s, %s, %s)", s.id, s.inet6 ? "AF_INET6" : "AF_INET",
                           s.proto == Proto::kTcp ? "SOCK_STREAM" : "SOCK_DGRAM", Options(s));
    absl::StrAppend(&line, Transparent(s, true));
    const bool bound = s.remote_port == 0;
    if (bound) {
      const std::string listen =
          s.proto == Proto::kTcp ? absl::StrFormat("; s%d.listen()", s.id) : "";
      absl::StrAppend(
          &line, absl::StrFormat("; s%d.bind(%s)", s.id, Place(s, s.local, s.local_port)), listen);
    } else {
      absl::StrAppend(&line, Connected(s));
    }
    if (!s.transparent) absl::StrAppend(&line, Transparent(s, false));
    if (s.first_device >= -1)
      absl::StrAppend(&line, absl::StrFormat("; s%d.setsockopt%s", s.id, DeviceOption(s.device)));
  }
  for (const Step& step : StepsTo(s)) {
    const std::string separator = line.empty() ? "" : "; ";
    if (step.what == Step::What::kPeerSegment) {
      const auto bytes =
          BuildPacket(PeerSegment(s, step.flags), {.seq = step.seq, .ack = step.ack});
      absl::StrAppend(&line, separator, "W(", device, ", '", Hex(bytes), "')");
    } else {
      absl::StrAppend(&line, separator, "s", s.id,
                      step.what == Step::What::kShutdown ? ".shutdown(SHUT_WR)" : ".close()");
    }
  }
  return line + "\n";
}

// The rule, and behind it counters: was the packet hit, and which socket was it given?
std::string Rules(const Repro& repro) {
  const Policy& policy = repro.world.policies[0];
  const Family family = repro.packet.packet.family;
  const Proto proto = repro.packet.packet.proto();
  const bool xt = repro.oracle == Oracle::kXt;
  const std::string xt_rule =
      absl::StrCat(family == Family::kIpv4 ? "iptables-legacy" : "ip6tables-legacy", " -t mangle ",
                   XtRule(policy, proto, family, 0), "; ");
  const std::string nft_rule = absl::StrCat("chain r { type filter hook prerouting priority -150; ",
                                            NftRule(policy, proto, family, 0), "; drop; }; ");
  std::string tell = "counter comment \"hit\"";
  for (const SocketSpec& s : repro.scene.sockets) {
    if (s.minisocket()) continue;
    absl::StrAppend(&tell, "; socket mark ", s.id, " counter comment \"given to socket ", s.id,
                    "\"");
  }
  const std::string mark = absl::StrFormat("meta mark set %#x", repro.world.marks[0]);
  return absl::StrCat("sh(\"\"\"", xt ? xt_rule : "", "echo 'table inet t { ",
                      "chain m { type filter hook prerouting priority -300; ", mark, "; }; ",
                      xt ? "" : nft_rule, "chain t { type filter hook prerouting priority -149; ",
                      tell, "; drop; }; }' | nft -f -\"\"\")\n");
}

std::string Explain(const Repro& repro) {
  const Packet& p = repro.packet.packet;
  const Policy& policy = repro.world.policies[0];
  std::string flags;
  for (int i = 0; i < 6; ++i) {
    if ((p.tcp_flags >> i & 1) != 0) flags += "FSRPAU"[i];
  }
  std::string text = absl::StrFormat(
      "utproxy explain %s '%s' '%s' --iif %s --mark %#x --on-port %d --tproxy-mark %#x/%#x",
      ProtoName(p.proto()), EndpointToString(p.src, p.sport, p.family),
      EndpointToString(p.dst, p.dport, p.family), DeviceName(repro.packet.device),
      repro.world.marks[0], policy.on_port, policy.mark_value, policy.mark_mask);
  if (p.is_tcp()) absl::StrAppend(&text, " --flags '", flags, "'");
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    if (!policy.on_ip(family).IsUnspecified())
      absl::StrAppend(&text, " --on-ip ", policy.on_ip(family).ToString(family));
  }
  return text;
}

}  // namespace

std::string Script(const Repro& repro) {
  std::string script = absl::StrCat(kHead, Devices(repro));
  for (const SocketSpec& socket : repro.scene.sockets) absl::StrAppend(&script, Making(socket));
  absl::StrAppend(&script, Rules(repro));
  for (const auto& part : Fragments(repro.packet, PacketBytes(repro.packet, 0, 64, 7))) {
    absl::StrAppend(&script, "W(", DeviceName(repro.packet.device), ", '", Hex(part), "')\n");
  }
  return absl::StrCat(script, "sh(\"\"\"nft list chain inet t t | grep 'packets [1-9]'; ",
                      Explain(repro), "\"\"\")\nEND\n");
}

}  // namespace utproxy::parity
