// SPDX-License-Identifier: GPL-3.0-or-later
// The router's own traffic: out, marked, back in by lo, queued, delivered to a proxy, and answered.
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <fstream>
#include <iterator>

#include "lab.h"
#include "ruleset/cgroup.h"
#include "ruleset/ruleset.h"

namespace utproxy {
namespace {

using lab::Shell;

sockaddr_storage SockAddr(const std::string& address, uint16_t port, socklen_t& size) {
  sockaddr_storage storage{};
  const Address parsed = Address::Parse(address).value();
  if (address.find(':') == std::string::npos) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
    *v4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {parsed.Ipv4()}};
    size = sizeof *v4;
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    std::memcpy(&v6->sin6_addr, parsed.bytes().data(), 16);
    size = sizeof *v6;
  }
  return storage;
}

class Udp {
 public:
  explicit Udp(int family) : fd_(::socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
    const timeval five_seconds{5, 0};
    Set(SOL_SOCKET, SO_RCVTIMEO, five_seconds);
  }
  template <typename T>
  void Set(int level, int option, T value) {
    EXPECT_EQ(::setsockopt(fd_.get(), level, option, &value, sizeof value), 0);
  }
  void SetTransparent(bool v6) {
    Set<int>(v6 ? SOL_IPV6 : SOL_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, 1);
  }
  bool Bind(const std::string& address, uint16_t port) {
    socklen_t size;
    const sockaddr_storage to = SockAddr(address, port, size);
    return ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&to), size) == 0;
  }
  bool Send(const std::string& address, uint16_t port, const std::string& text) {
    socklen_t size;
    const sockaddr_storage to = SockAddr(address, port, size);
    return ::sendto(fd_.get(), text.data(), text.size(), 0, reinterpret_cast<const sockaddr*>(&to),
                    size) == static_cast<ssize_t>(text.size());
  }
  // "text from ADDR:PORT", or the error.
  std::string Receive(Endpoint* peer = nullptr) {
    char buffer[100];
    sockaddr_storage from{};
    socklen_t size = sizeof from;
    const ssize_t n =
        ::recvfrom(fd_.get(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size);
    if (n < 0) return std::string("nothing: ") + std::strerror(errno);
    Endpoint end;
    if (from.ss_family == AF_INET) {
      const auto* v4 = reinterpret_cast<const sockaddr_in*>(&from);
      end = {Address::FromIpv4(v4->sin_addr.s_addr), ntohs(v4->sin_port), Family::kIpv4};
    } else {
      const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&from);
      end = {Address::FromIpv6(&v6->sin6_addr), ntohs(v6->sin6_port), Family::kIpv6};
    }
    if (peer != nullptr) *peer = end;
    return absl::StrCat(std::string(buffer, static_cast<size_t>(n)), " from ",
                        EndpointToString(end.address, end.port, end.family));
  }

 private:
  UniqueFd fd_;
};

RulesetSpec LocalDns() {
  RulesetSpec spec;
  spec.name = "dns";
  spec.match.protos = {Proto::kUdp};
  spec.match.dports = {{53, 53}};
  spec.mark_value = 0x101;  // bit 8 is outside of the mask: toggled by the verdict, not matched
  spec.mark_mask = 0xf;
  spec.local_output = true;
  spec.exclude_marks = {{0x20, 0xf0}};
  spec.exclude_uids = {12345, 12346};
  return spec;
}

class LocalOutputTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const std::string why = lab::EnterNamespace();
    if (!why.empty()) GTEST_SKIP() << why;
    // Router solicitations and multicast reports are no packets of ours.
    (void)Shell(
        "sysctl -qw net.ipv6.conf.default.addr_gen_mode=1 "
        "net.ipv6.conf.default.accept_ra=0 net.ipv6.conf.default.router_solicitations=0");
    wan_ = std::make_unique<lab::Tun>("wan");
    ASSERT_EQ(Shell("set -e; ip addr add 192.0.2.1/24 dev wan; ip route add default dev wan\n"
                    "ip -6 addr add fd00::1/64 dev wan nodad; ip -6 route add default dev wan")
                  .status,
              0);
  }
  bool v6() const { return GetParam(); }
  int family() const { return v6() ? AF_INET6 : AF_INET; }
  std::string far() const { return v6() ? "2001:db8::53" : "198.51.100.53"; }
  std::string own() const { return v6() ? "fd00::1" : "192.0.2.1"; }
  std::string any() const { return v6() ? "::" : "0.0.0.0"; }

  // Sends one query by `client`; whether it left by the uplink rather than by way of lo.
  bool LeavesByWan(Udp& client) {
    const uint16_t port = next_port_++;
    EXPECT_TRUE(client.Bind(any(), port));
    EXPECT_TRUE(client.Send(far(), 53, "query"));
    while (true) {
      const std::vector<uint8_t> packet = wan_->Read();
      if (packet.empty()) return false;
      if (lab::SourcePort(packet) == port) return true;
    }
  }
  std::unique_ptr<lab::Tun> wan_;
  uint16_t next_port_ = 5000;
};

TEST_P(LocalOutputTest, GoesToTheProxyAndTheAnswerComesBack) {
  absl::StatusOr<InstalledRuleset> ruleset = InstalledRuleset::Install({LocalDns()});
  ASSERT_TRUE(ruleset.ok()) << ruleset.status();
  EXPECT_TRUE(ruleset->warnings().empty());
  const std::unique_ptr<lab::TestQueue> queue = lab::TestQueue::Bind(0);
  ASSERT_NE(queue, nullptr);
  Udp listener(family()), client(family());
  listener.SetTransparent(v6());
  listener.Set<int>(SOL_SOCKET, SO_REUSEADDR, 1);
  ASSERT_TRUE(listener.Bind(any(), 53));
  client.Set<int>(SOL_SOCKET, SO_MARK, 0x1000);  // bits outside of the mask come through
  ASSERT_TRUE(client.Send(far(), 53, "query"));

  const std::unique_ptr<lab::Queued> queued = queue->Next();
  ASSERT_NE(queued, nullptr);
  EXPECT_EQ(queued->mark, 0x1001u);
  queue->Accept(queued->id, (queued->mark & ~0xfu) ^ 0x101u);
  Endpoint peer;
  EXPECT_EQ(listener.Receive(&peer).substr(0, 10), "query from");
  EXPECT_EQ(peer.address.ToString(peer.family), own());

  Udp answer(family());
  answer.SetTransparent(v6());
  answer.Set<int>(SOL_SOCKET, SO_REUSEADDR, 1);
  ASSERT_TRUE(answer.Bind(far(), 53));
  ASSERT_TRUE(answer.Send(own(), peer.port, "answer"));
  EXPECT_EQ(client.Receive(),
            absl::StrCat("answer from ", v6() ? "[2001:db8::53]:53" : "198.51.100.53:53"));
  EXPECT_EQ(Shell("awk '{print $3}' /proc/net/netfilter/nfnetlink_queue").text, "0\n");
}

TEST_P(LocalOutputTest, ExcludedPacketsLeaveAsTheyWould) {
  absl::StatusOr<InstalledRuleset> ruleset = InstalledRuleset::Install({LocalDns()});
  ASSERT_TRUE(ruleset.ok()) << ruleset.status();
  Udp marked(family());
  marked.Set<int>(SOL_SOCKET, SO_MARK, 0x25);
  EXPECT_TRUE(LeavesByWan(marked));
  for (const uid_t uid : {12345u, 12346u}) {
    ::setfsuid(uid);  // whom a socket belongs to is decided when it is made
    Udp of_user(family());
    ::setfsuid(0);
    EXPECT_TRUE(LeavesByWan(of_user));
  }
}

TEST_P(LocalOutputTest, SocketsBoundToADeviceLeaveByIt) {
  absl::StatusOr<InstalledRuleset> ruleset = InstalledRuleset::Install({LocalDns()});
  ASSERT_TRUE(ruleset.ok()) << ruleset.status();
  Udp bound(family());
  bound.Set(SOL_SOCKET, SO_BINDTODEVICE, std::array<char, 4>{'w', 'a', 'n', '\0'});
  EXPECT_TRUE(LeavesByWan(bound));
}

TEST_P(LocalOutputTest, PacketsToThisHostStayOutOfIt) {
  absl::StatusOr<InstalledRuleset> ruleset = InstalledRuleset::Install({LocalDns()});
  ASSERT_TRUE(ruleset.ok()) << ruleset.status();
  const std::unique_ptr<lab::TestQueue> queue = lab::TestQueue::Bind(0);
  Udp server(family()), client(family());
  ASSERT_TRUE(server.Bind(own(), 53));
  ASSERT_TRUE(client.Send(own(), 53, "query"));
  EXPECT_EQ(server.Receive().substr(0, 10), "query from");
}

TEST_P(LocalOutputTest, CgroupsAreExcludedWithWhatIsBelowThem) {
  std::ifstream mounts("/proc/self/mountinfo");
  const std::string text{std::istreambuf_iterator<char>(mounts), std::istreambuf_iterator<char>()};
  const std::string root = FindCgroupRoot(text);
  if (root.empty()) GTEST_SKIP() << "no cgroup v2 is mounted";
  const std::string name = absl::StrCat("utp-", ::getpid());
  const std::string path = absl::StrCat(root, "/", name), inner = path + "/inner";
  if (::mkdir(path.c_str(), 0755) != 0 || ::mkdir(inner.c_str(), 0755) != 0) {
    (void)::rmdir(path.c_str());
    GTEST_SKIP() << "can not make the cgroup " << path;
  }
  std::ifstream own_file("/proc/self/cgroup");
  std::string line, home;
  while (std::getline(own_file, line)) {
    if (line.rfind("0::", 0) == 0) home = root + line.substr(3);
  }
  const auto enter = [](const std::string& cgroup) {
    std::ofstream(cgroup + "/cgroup.procs") << ::getpid() << std::flush;
  };
  RulesetSpec spec = LocalDns();
  spec.exclude_cgroups = {"/" + name};
  {
    absl::StatusOr<InstalledRuleset> ruleset = InstalledRuleset::Install({spec});
    EXPECT_TRUE(ruleset.ok()) << ruleset.status();
    enter(inner);
    Udp inside(family());
    enter(home);
    EXPECT_TRUE(LeavesByWan(inside));
    // A socket at a lower level than the excluded cgroup is not mistaken for one inside.
    const std::unique_ptr<lab::TestQueue> queue = lab::TestQueue::Bind(0);
    Udp outside(family());
    EXPECT_TRUE(outside.Send(far(), 53, "query"));
    EXPECT_NE(queue->Next(), nullptr);
  }
  EXPECT_EQ(::rmdir(inner.c_str()), 0);
  EXPECT_EQ(::rmdir(path.c_str()), 0);
}

TEST_P(LocalOutputTest, WithoutAnExclusionThereIsAWarning) {
  RulesetSpec spec = LocalDns();
  spec.exclude_marks = {};
  spec.exclude_uids = {};
  absl::StatusOr<InstalledRuleset> ruleset = InstalledRuleset::Install({spec});
  ASSERT_TRUE(ruleset.ok()) << ruleset.status();
  ASSERT_EQ(ruleset->warnings().size(), 1u);
  EXPECT_NE(ruleset->warnings()[0].find("its own packets"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Families, LocalOutputTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Ipv6" : "Ipv4"; });

}  // namespace
}  // namespace utproxy
