// SPDX-License-Identifier: GPL-3.0-or-later
#include "sockets.h"

#include <linux/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <string>

#include "netlink/diag_client.h"

namespace utproxy::parity {
namespace {

struct Name {
  sockaddr_storage storage{};
  socklen_t len = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

Name NameOf(bool inet6, const Address& address, uint16_t port) {
  Name name;
  if (inet6) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&name.storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    std::memcpy(&v6->sin6_addr, address.bytes().data(), 16);
    name.len = sizeof *v6;
  } else {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&name.storage);
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    v4->sin_addr.s_addr = address.IsUnspecified() ? 0 : address.Ipv4();
    name.len = sizeof *v4;
  }
  return name;
}

bool SetInt(int fd, int level, int name, int value) {
  return ::setsockopt(fd, level, name, &value, sizeof value) == 0;
}

void SetTransparent(const SocketSpec& spec, int fd, bool on) {
  SetInt(fd, spec.inet6 ? SOL_IPV6 : SOL_IP, spec.inet6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, on);
}

// -1: to none.
bool BindToDevice(int device, int fd) {
  const std::string name = device >= 0 ? DeviceName(device) : "";
  return ::setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name.c_str(),
                      static_cast<socklen_t>(name.size() + 1)) == 0;
}

bool SetOptions(const SocketSpec& spec, int fd) {
  bool ok = SetInt(fd, SOL_SOCKET, SO_REUSEADDR, 1) &&
            SetInt(fd, SOL_SOCKET, SO_MARK, static_cast<int>(spec.id)) &&
            SetInt(fd, SOL_IP, IP_FREEBIND, 1);
  if (spec.inet6) ok = ok && SetInt(fd, SOL_IPV6, IPV6_V6ONLY, spec.v6only);
  if (spec.reuseport) ok = ok && SetInt(fd, SOL_SOCKET, SO_REUSEPORT, 1);
  if (spec.incoming_cpu >= 0) ok = ok && SetInt(fd, SOL_SOCKET, SO_INCOMING_CPU, spec.incoming_cpu);
  const int device = spec.first_device >= -1 ? spec.first_device : spec.device;
  return ok && (device < 0 || BindToDevice(device, fd));
}

bool BindTo(const SocketSpec& spec, int fd) {
  const Name local = NameOf(spec.inet6, spec.local, spec.local_port);
  return ::bind(fd, local.get(), local.len) == 0;
}

bool ConnectTo(const SocketSpec& spec, int fd) {
  const Name remote = NameOf(spec.inet6, spec.remote, spec.remote_port);
  return ::connect(fd, remote.get(), remote.len) == 0;
}

// In repair mode a bind conflicts with nothing and connect() is done at once.
bool Repair(const SocketSpec& spec, int fd) {
  bool ok = SetInt(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON) && BindTo(spec, fd);
  if (spec.state != SockState::kSynSent && spec.state != SockState::kSynRecv) {
    ok = ok && SetInt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE) &&
         SetInt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, kOurSeq) &&
         SetInt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE) &&
         SetInt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, kTheirSeq) && ConnectTo(spec, fd);
  }
  return ok && SetInt(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
}

bool Open(const SocketSpec& spec, int fd) {
  if (!SetOptions(spec, fd)) return false;
  const bool first = spec.transparent != spec.switched;
  bool ok = false;
  if (spec.proto == Proto::kUdp) {
    const bool connected = spec.state == SockState::kEstablished;
    // An IPv4 source address that is not the host's own is routed for transparent sockets only.
    SetTransparent(spec, fd, connected || first);
    ok = BindTo(spec, fd) && (!connected || ConnectTo(spec, fd));
  } else if (spec.state == SockState::kListen) {
    SetTransparent(spec, fd, first);
    ok = BindTo(spec, fd) && ::listen(fd, 64) == 0;
  } else {
    SetTransparent(spec, fd, true);
    ok = Repair(spec, fd);
    if (ok && (spec.state == SockState::kSynSent || spec.state == SockState::kSynRecv)) {
      (void)ConnectTo(spec, fd);  // in progress
    }
  }
  SetTransparent(spec, fd, first);
  return ok && (spec.first_device < -1 || BindToDevice(spec.device, fd));
}

void Send(const Netns& netns, const SocketSpec& spec, const Step& step) {
  netns.Receive(spec.device >= 0 ? spec.device : 0,
                BuildPacket(PeerSegment(spec, step.flags), {.seq = step.seq, .ack = step.ack}));
}

void Abort(UniqueFd* fd) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd->get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  fd->reset();
}

// Connections that have no descriptor any more: minisockets, request sockets, those being closed.
void EndOrphans() {
  absl::StatusOr<DiagClient> client = DiagClient::Open();
  if (!client.ok()) Fatal("no sock_diag");
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    std::vector<Socket> left;
    (void)client->Dump(family, Proto::kTcp, kAllStates & ~kListenStates,
                       [&left](const Socket& socket) { left.push_back(socket); });
    for (const Socket& socket : left) (void)client->Destroy(socket, family, socket.ifindex);
  }
}

}  // namespace

Packet PeerSegment(const SocketSpec& spec, uint8_t flags) {
  return Packet{.src = spec.remote,
                .dst = spec.local,
                .sport = spec.remote_port,
                .dport = spec.local_port,
                .family = spec.wire_family(),
                .protocol = IPPROTO_TCP,
                .tcp_flags = flags};
}

std::vector<Step> StepsTo(const SocketSpec& spec) {
  constexpr auto kPeer = Step::What::kPeerSegment;
  constexpr uint8_t kFinAck = kTcpFin | kTcpAck;
  // A repaired connection has no send window until its peer opens it; before that no FIN is sent.
  const Step open{kPeer, kTcpAck, kTheirSeq, kOurSeq}, close_half{Step::What::kShutdown};
  const Step fin_acked{kPeer, kTcpAck, kTheirSeq, kOurSeq + 1};
  const Step fin{kPeer, kFinAck, kTheirSeq, kOurSeq},
      last_fin{kPeer, kFinAck, kTheirSeq, kOurSeq + 1};
  if (spec.proto == Proto::kUdp) return {};
  switch (spec.state) {
    case SockState::kNewSynRecv:
    case SockState::kSynRecv:  // simultaneous open (RFC 9293, 3.5)
      return {{kPeer, kTcpSyn, kTheirSeq - 1, 0}};
    case SockState::kFinWait1:
      return {open, close_half};
    case SockState::kFinWait2:
      return {open, close_half, fin_acked};
    case SockState::kTimeWait:
      if (spec.fin_wait2_minisock) return {open, close_half, fin_acked, {Step::What::kClose}};
      return {open, close_half, fin_acked, last_fin, {Step::What::kClose}};
    case SockState::kClosing:
      return {open, close_half, fin};
    case SockState::kCloseWait:
      return {fin};
    case SockState::kLastAck:
      return {fin, close_half};
    default:
      return {};
  }
}

Sockets::Sockets(const Netns& netns, absl::Span<const SocketSpec> specs, Observe observe)
    : netns_(netns),
      specs_(specs.begin(), specs.end()),
      fds_(specs.size()),
      made_(specs.size(), false) {
  std::vector<size_t> to_observe;
  for (size_t i = 0; i < specs.size(); ++i) {
    Make(i);
    if (specs_[i].minisocket() && specs_[i].observed && !specs_[i].absent) to_observe.push_back(i);
  }
  if (!to_observe.empty()) Observed(to_observe, observe);
  for (size_t i = 0; i < specs.size(); ++i) Finish(i);
}

Sockets::~Sockets() {
  for (UniqueFd& fd : fds_) {
    if (fd.valid()) Abort(&fd);
  }
  EndOrphans();
}

void Sockets::Make(size_t index) {
  const SocketSpec& spec = specs_[index];
  if (spec.absent) return;
  if (spec.state == SockState::kNewSynRecv) {
    Send(netns_, spec, StepsTo(spec)[0]);
    made_[index] = true;
    return;
  }
  const int type = spec.proto == Proto::kTcp ? SOCK_STREAM : SOCK_DGRAM;
  UniqueFd fd(::socket(spec.inet6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  made_[index] = fd.valid() && Open(spec, fd.get());
  if (made_[index]) fds_[index] = std::move(fd);
}

void Sockets::Observed(absl::Span<const size_t> which, Observe observe) const {
  std::vector<SocketSpec> specs;
  for (const size_t i : which) {
    if (made_[i]) specs.push_back(specs_[i]);
  }
  if (!specs.empty()) observe(specs);
}

void Sockets::Finish(size_t index) {
  const SocketSpec& spec = specs_[index];
  UniqueFd& fd = fds_[index];
  if (!fd.valid()) return;
  // A minisocket takes over what is set when it comes into being.
  if (spec.switched) SetTransparent(spec, fd.get(), spec.transparent);
  for (const Step& step : StepsTo(spec)) {
    switch (step.what) {
      case Step::What::kPeerSegment:
        Send(netns_, spec, step);
        break;
      case Step::What::kShutdown:
        (void)::shutdown(fd.get(), SHUT_WR);
        break;
      case Step::What::kClose:
        fd.reset();
        break;
    }
  }
}

void Sockets::Remake(size_t index, Observe observe) {
  const SocketSpec& spec = specs_[index];
  absl::StatusOr<DiagClient> client = DiagClient::Open();
  if (!client.ok()) Fatal("no sock_diag");
  const FlowKey flow{.local = spec.local,
                     .remote = spec.remote,
                     .local_port = spec.local_port,
                     .remote_port = spec.remote_port};
  const uint32_t dif = spec.device >= 0 ? netns_.ifindex(spec.device) : 0;
  client->AddQuery(spec.wire_family(), flow, dif);
  const ExactReply reply = client->Ask()[0];
  if (reply.socket && reply.socket->time_wait()) {
    (void)client->Destroy(*reply.socket, spec.wire_family(), dif);
  }
  fds_[index].reset();
  Make(index);
  if (spec.observed) Observed({&index, 1}, observe);
  Finish(index);
}

}  // namespace utproxy::parity
