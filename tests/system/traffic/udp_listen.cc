// SPDX-License-Identifier: GPL-3.0-or-later
// A transparent UDP responder: takes datagrams meant for anybody, learns whom they were meant for
// from IP_RECVORIGDSTADDR / IPV6_RECVORIGDSTADDR, and answers from that address, through a socket
// bound to it. Those sockets stay open and are watched: a datagram that arrives at an unconnected
// one was stolen from the listener. `--connect` connects them to the peer, as proxies with per-flow
// sockets do.
#include <netinet/ip.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common.h"

#ifndef IPV6_RECVORIGDSTADDR
#define IPV6_RECVORIGDSTADDR 74
#endif

namespace traffic {
namespace {

struct Datagram {
  Endpoint peer;
  Endpoint destination;  // length 0: the kernel did not say
  uint8_t bytes[65536];
  size_t size = 0;
};

void TakeDestination(const msghdr& message, Endpoint* destination) {
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr;
       c = CMSG_NXTHDR(const_cast<msghdr*>(&message), c)) {
    bool v4 = c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_ORIGDSTADDR;
    bool v6 = c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_RECVORIGDSTADDR;
    if (!v4 && !v6) continue;
    destination->length = v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    std::memcpy(&destination->storage, CMSG_DATA(c), destination->length);
  }
}

// A v4-mapped address becomes the IPv4 address, so that a plain IPv4 socket can be bound to it.
Endpoint Unmapped(const Endpoint& endpoint) {
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&endpoint.storage);
  if (endpoint.family() != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) return endpoint;
  return ParseEndpoint(FormatEndpoint(endpoint));
}

class Responder {
 public:
  explicit Responder(const Args& args)
      : listener_(OpenListener(args, SOCK_DGRAM)),
        report_(args.Flag("report")),
        silent_(args.Flag("silent")),
        connect_(args.Flag("connect")),
        mark_(static_cast<int>(args.Int("mark", 0))),
        deadline_ms_(NowMs() + args.Int("seconds", 600) * 1000) {
    bool dual_or_v4 = args.Get("family", "4") != "6";
    if (dual_or_v4) SetIntOption(listener_, IPPROTO_IP, IP_RECVORIGDSTADDR, 1, "RECVORIGDSTADDR");
    if (args.Get("family", "4") != "4") {
      SetIntOption(listener_, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1, "IPV6_RECVORIGDSTADDR");
    }
    int size = 32 << 20;
    setsockopt(listener_, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    Watch(listener_);
  }

  int Run() {
    JsonLine("ready").Add("local", LocalOf(listener_)).Print();
    epoll_event events[64];
    while (!Stopped() && NowMs() < deadline_ms_) {
      int count = epoll_wait(epoll_, events, 64, 200);
      for (int i = 0; i < count; ++i) Drain(events[i].data.fd);
    }
    Drain(listener_);
    JsonLine("summary")
        .Add("received", received_)
        .Add("intact", intact_)
        .Add("answered", answered_)
        .Add("at_reply_sockets", at_reply_sockets_)
        .Add("destinations", destinations_)
        .Add("errors", errors_)
        .Print();
    return 0;
  }

 private:
  void Watch(int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) DieErrno("epoll_ctl");
  }

  void Drain(int fd) {
    static Datagram datagram;
    while (Receive(fd, &datagram)) Answer(fd, &datagram);
  }

  static bool Receive(int fd, Datagram* datagram) {
    alignas(cmsghdr) char control[256];
    iovec part{datagram->bytes, sizeof(datagram->bytes)};
    datagram->peer = Endpoint{};
    datagram->destination = Endpoint{};
    msghdr message{};
    message.msg_name = &datagram->peer.storage;
    message.msg_namelen = sizeof(datagram->peer.storage);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
    if (got < 0) return false;
    datagram->peer.length = message.msg_namelen;
    datagram->size = static_cast<size_t>(got);
    TakeDestination(message, &datagram->destination);
    return true;
  }

  void Answer(int fd, Datagram* datagram) {
    ++received_;
    std::string destination =
        datagram->destination.length != 0 ? FormatEndpoint(datagram->destination) : LocalOf(fd);
    ++destinations_[destination];
    if (fd != listener_) ++at_reply_sockets_;
    Head head;
    bool intact = false;
    if (datagram->size >= sizeof(head)) {
      std::memcpy(&head, datagram->bytes, sizeof(head));
      intact = head.magic == kUdpAsk && head.down == datagram->size &&
               Pattern(head.key).Matches(0, datagram->bytes + sizeof(head),
                                         datagram->size - sizeof(head));
    }
    intact_ += intact;
    if (report_) Report(fd, *datagram, destination, intact);
    if (silent_ || !intact) return;
    int reply = fd == listener_ ? ReplySocket(datagram->destination, datagram->peer) : fd;
    if (reply < 0) return;
    head.magic = kUdpAnswer;
    std::memcpy(datagram->bytes, &head, sizeof(head));
    Pattern(head.key ^ kDownKey)
        .Fill(0, datagram->bytes + sizeof(head), datagram->size - sizeof(head));
    Send(reply, *datagram);
  }

  void Send(int fd, const Datagram& datagram) {
    Endpoint peer = Unmapped(datagram.peer);
    if (sendto(fd, datagram.bytes, datagram.size, 0, peer.raw(), peer.length) < 0) {
      ++errors_[std::string("sendto: ") + std::strerror(errno)];
      return;
    }
    ++answered_;
  }

  void Report(int fd, const Datagram& datagram, const std::string& destination, bool intact) {
    JsonLine("datagram")
        .Add("destination", destination)
        .Add("peer", FormatEndpoint(datagram.peer))
        .Add("size", static_cast<int64_t>(datagram.size))
        .Add("at_listener", fd == listener_)
        .Add("ok", intact)
        .Print();
  }

  int ReplySocket(const Endpoint& destination, const Endpoint& peer) {
    if (destination.length == 0) {
      ++errors_["no original destination"];
      return -1;
    }
    std::string key = FormatEndpoint(destination);
    if (connect_) key += " " + FormatEndpoint(peer);
    auto found = replies_.find(key);
    if (found != replies_.end()) return found->second;
    int fd = OpenReply(Unmapped(destination), Unmapped(peer));
    if (fd >= 0) {
      replies_[key] = fd;
      Watch(fd);
    }
    return fd;
  }

  int OpenReply(const Endpoint& local, const Endpoint& peer) {
    int fd = socket(local.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) DieErrno("socket");
    SetIntOption(fd, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");
    SetTransparent(fd, local.family());
    if (mark_ != 0) SetIntOption(fd, SOL_SOCKET, SO_MARK, mark_, "SO_MARK");
    if (bind(fd, local.raw(), local.length) != 0 ||
        (connect_ && connect(fd, peer.raw(), peer.length) != 0)) {
      ++errors_["bind " + FormatEndpoint(local) + ": " + std::strerror(errno)];
      close(fd);
      return -1;
    }
    return fd;
  }

  int listener_;
  int epoll_ = -1;
  bool report_, silent_, connect_;
  int mark_;
  int64_t deadline_ms_;
  int64_t received_ = 0, intact_ = 0, answered_ = 0, at_reply_sockets_ = 0;
  std::map<std::string, int64_t> destinations_, errors_;
  std::map<std::string, int> replies_;
};

}  // namespace

int UdpListen(int argc, char** argv) {
  std::set<std::string> flags = kListenFlags;
  flags.insert({"report", "silent", "connect"});
  return Responder(Args(argc, argv, kListenValues, flags)).Run();
}

}  // namespace traffic
