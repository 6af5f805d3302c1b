// SPDX-License-Identifier: GPL-3.0-or-later
#include "netlink/diag_codec.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <libmnl/libmnl.h>
#include <linux/sock_diag.h>

#include <cstring>
#include <vector>

#include "netlink/messages.h"

namespace utproxy {
namespace {

Address A(const char* text) { return *Address::Parse(text); }

// A reply as the kernel would write it.
class Reply {
 public:
  explicit Reply(uint8_t family) : buffer_(512) {
    header_ = mnl_nlmsg_put_header(buffer_.data());
    header_->nlmsg_type = SOCK_DIAG_BY_FAMILY;
    body_ = static_cast<inet_diag_msg*>(mnl_nlmsg_put_extra_header(header_, sizeof *body_));
    body_->idiag_family = family;
    body_->idiag_state = 1;
    body_->id.idiag_sport = htons(53);
    body_->id.idiag_dport = htons(4000);
    body_->id.idiag_cookie[0] = 7;
    body_->id.idiag_cookie[1] = 1;
  }
  nlmsghdr& header() { return *header_; }
  inet_diag_msg& body() { return *body_; }

 private:
  std::vector<char> buffer_;
  nlmsghdr* header_;
  inet_diag_msg* body_;
};

TEST(ReadDiagMessage, ReadsTransparencyAndCookie) {
  Reply reply(AF_INET);
  reply.body().id.idiag_src[0] = A("192.0.2.1").Ipv4();
  const uint8_t sockopt[2] = {1 << 5, 0};
  mnl_attr_put(&reply.header(), INET_DIAG_SOCKOPT, sizeof sockopt, sockopt);
  mnl_attr_put_u32(&reply.header(), INET_DIAG_MARK, 0x111);
  const auto socket = ReadDiagMessage(reply.header(), Proto::kTcp);
  ASSERT_TRUE(socket);
  EXPECT_EQ(socket->local, A("192.0.2.1"));
  EXPECT_EQ(socket->local_port, 53);
  EXPECT_EQ(socket->remote_port, 4000);
  EXPECT_EQ(socket->cookie, 0x100000007u);
  EXPECT_EQ(socket->mark, 0x111u);
  EXPECT_TRUE(socket->transparent() && socket->transparent_known());
  EXPECT_FALSE(socket->time_wait() || socket->inet6());
}

TEST(ReadDiagMessage, FinWait2WithTimer3IsATimeWaitMinisock) {
  Reply reply(AF_INET6);
  reply.body().idiag_state = 5;
  reply.body().idiag_timer = 3;
  const auto socket = ReadDiagMessage(reply.header(), Proto::kTcp);
  ASSERT_TRUE(socket);
  EXPECT_TRUE(socket->time_wait());
  EXPECT_FALSE(socket->transparent_known());
}

TEST(ReadDiagMessage, AnEventNamesItsOwnProtocol) {
  Reply reply(AF_INET);
  mnl_attr_put_u8(&reply.header(), INET_DIAG_PROTOCOL, IPPROTO_UDP);
  EXPECT_EQ(ReadDiagMessage(reply.header(), Proto::kTcp)->proto, Proto::kUdp);
}

TEST(ReadDiagMessage, RefusesWhatIsShortOrForeign) {
  Reply reply(AF_INET);
  reply.header().nlmsg_len -= 1;
  EXPECT_FALSE(ReadDiagMessage(reply.header(), Proto::kTcp));
  Reply unix_socket(AF_UNIX);
  EXPECT_FALSE(ReadDiagMessage(unix_socket.header(), Proto::kTcp));
  Reply other(AF_INET);
  other.header().nlmsg_type = NLMSG_ERROR;
  EXPECT_FALSE(ReadDiagMessage(other.header(), Proto::kTcp));
  Reply sctp(AF_INET);
  mnl_attr_put_u8(&sctp.header(), INET_DIAG_PROTOCOL, IPPROTO_SCTP);
  EXPECT_FALSE(ReadDiagMessage(sctp.header(), Proto::kTcp));
  Reply only_bound(AF_INET);
  only_bound.body().idiag_state = 13;  // TCP_BOUND_INACTIVE
  EXPECT_FALSE(ReadDiagMessage(only_bound.header(), Proto::kTcp));
}

TEST(ErrorOf, IsAnErrnoValueWhateverTheMessageSays) {
  struct {
    nlmsghdr header{.nlmsg_len = sizeof(nlmsghdr) + sizeof(nlmsgerr), .nlmsg_type = NLMSG_ERROR};
    nlmsgerr body{};
  } message;
  EXPECT_EQ(ErrorOf(message.header), 0);
  message.body.error = -ENOENT;
  EXPECT_EQ(ErrorOf(message.header), ENOENT);
  for (const int none : {INT32_MIN, -4096, 1, INT32_MAX}) {
    message.body.error = none;
    EXPECT_EQ(ErrorOf(message.header), EPROTO) << none;
  }
  --message.header.nlmsg_len;
  EXPECT_EQ(ErrorOf(message.header), std::nullopt);
}

TEST(TakeMessage, TakesWholeMessagesOnly) {
  alignas(nlmsghdr) char bytes[2 * sizeof(nlmsghdr) + 4]{};
  auto* first = reinterpret_cast<nlmsghdr*>(bytes);
  first->nlmsg_len = sizeof *first + 2;  // to be followed by two bytes of padding
  auto* second = reinterpret_cast<nlmsghdr*>(bytes + sizeof *first + 4);
  for (const uint32_t claimed : {0u, 15u, 17u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    second->nlmsg_len = claimed;
    absl::Span<const char> rest(bytes);
    EXPECT_EQ(TakeMessage(&rest), first);
    EXPECT_EQ(TakeMessage(&rest), nullptr) << claimed;
  }
  second->nlmsg_len = sizeof *second;
  absl::Span<const char> rest(bytes);
  EXPECT_EQ(TakeMessage(&rest), first);
  EXPECT_EQ(TakeMessage(&rest), second);
  EXPECT_EQ(TakeMessage(&rest), nullptr);
}

TEST(TakeMessage, PaddingMayBeMissingAtTheEnd) {
  alignas(nlmsghdr) char bytes[sizeof(nlmsghdr) + 4]{};
  reinterpret_cast<nlmsghdr*>(bytes)->nlmsg_len = sizeof(nlmsghdr) + 2;
  absl::Span<const char> rest(bytes, sizeof(nlmsghdr) + 2);
  EXPECT_NE(TakeMessage(&rest), nullptr);
  EXPECT_TRUE(rest.empty());
}

TEST(ReadDiagMessage, AttributesShorterThanTheyShouldBeAreIgnored) {
  Reply reply(AF_INET6);
  mnl_attr_put(&reply.header(), INET_DIAG_SOCKOPT, 0, nullptr);
  mnl_attr_put(&reply.header(), INET_DIAG_MARK, 2, "ab");
  const auto socket = ReadDiagMessage(reply.header(), Proto::kTcp);
  ASSERT_TRUE(socket);
  EXPECT_FALSE(socket->transparent_known());
  EXPECT_EQ(socket->mark, 0u);
}

TEST(ExactRequest, UdpIsAskedTheOtherWayRound) {
  FlowKey flow{.local = A("192.0.2.1"),
               .remote = A("192.0.2.9"),
               .local_port = 53,
               .remote_port = 4000,
               .proto = Proto::kTcp};
  const DiagRequest tcp = ExactRequest(Family::kIpv4, flow, 3, 1);
  EXPECT_EQ(tcp.body.id.idiag_sport, htons(53));
  EXPECT_EQ(tcp.body.id.idiag_src[0], A("192.0.2.1").Ipv4());
  EXPECT_EQ(tcp.body.id.idiag_if, 3u);
  EXPECT_EQ(tcp.body.id.idiag_cookie[0], 0xffffffffu);
  flow.proto = Proto::kUdp;
  const DiagRequest udp = ExactRequest(Family::kIpv4, flow, 3, 1);
  EXPECT_EQ(udp.body.id.idiag_dport, htons(53));
  EXPECT_EQ(udp.body.id.idiag_src[0], A("192.0.2.9").Ipv4());
}

}  // namespace
}  // namespace utproxy
