// SPDX-License-Identifier: GPL-3.0-or-later
// The sk_lookup program itself, run on packets that no socket call could send.
#include "steer/program.h"

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "kernel_fixture.h"
#include "steer/bpf_flow_map.h"

namespace utproxy {
namespace {

constexpr uint32_t kMaxFlows = 16;

class ProgramTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (const std::string why = EnterNetns(); !why.empty()) GTEST_SKIP() << why;
    auto program = SkLookupProgram::Load(kMaxFlows, 4);
    if (absl::IsUnimplemented(program.status())) GTEST_SKIP() << program.status();
    ASSERT_TRUE(program.ok()) << program.status();
    program_.emplace(*std::move(program));
    program_->LookForEntries(/*destinations=*/true);
    if (GetParam() && !BpfFlowMap::HasBatches(program_->flows_fd())) {
      GTEST_SKIP() << "the kernel has no batches";
    }
  }
  BpfFlowMap Map() { return BpfFlowMap(program_->flows_fd(), GetParam()); }

  void Hold(const UniqueFd& listener) {
    const uint64_t cookie = CookieOf(listener);
    const uint64_t fd = static_cast<uint64_t>(listener.get());
    ASSERT_EQ(bpf_map_update_elem(program_->listeners_fd(), &cookie, &fd, BPF_ANY), 0);
  }

  // The cookie of the socket that the program chooses for a packet of this flow; 0 for none.
  uint64_t Choice(const FlowKey& flow, Family family) {
    bpf_sk_lookup context{};
    context.family = family == Family::kIpv4 ? AF_INET : AF_INET6;
    context.protocol = static_cast<uint32_t>(flow.proto);
    context.remote_port = htons(flow.remote_port);
    context.local_port = flow.local_port;
    if (family == Family::kIpv4) {
      context.remote_ip4 = flow.remote.Ipv4();
      context.local_ip4 = flow.local.Ipv4();
    } else {
      std::memcpy(context.remote_ip6, flow.remote.bytes().data(), 16);
      std::memcpy(context.local_ip6, flow.local.bytes().data(), 16);
    }
    LIBBPF_OPTS(bpf_test_run_opts, run);
    run.ctx_in = &context;
    run.ctx_size_in = sizeof context;
    bpf_sk_lookup out{};
    run.ctx_out = &out;
    run.ctx_size_out = sizeof out;
    EXPECT_EQ(bpf_prog_test_run_opts(program_->program_fd(), &run), 0) << std::strerror(errno);
    EXPECT_EQ(run.retval, static_cast<uint32_t>(SK_PASS));
    return out.cookie;
  }

  std::optional<SkLookupProgram> program_;
};

FlowKey Flow(const char* local, const char* remote, Proto proto = Proto::kTcp) {
  const Endpoint l = ParseEndpoint(local).value(), r = ParseEndpoint(remote).value();
  return {.local = l.address,
          .remote = r.address,
          .local_port = l.port,
          .remote_port = r.port,
          .proto = proto};
}

TEST_P(ProgramTest, ComputesTheKeyOfEachFlow) {
  const UniqueFd tcp = Listen(SOCK_STREAM, "[::]:1090"), udp = Listen(SOCK_DGRAM, "[::]:1090");
  Hold(tcp);
  Hold(udp);
  const uint64_t tcp_cookie = CookieOf(tcp), udp_cookie = CookieOf(udp);
  const std::vector<FlowKey> keys = {
      Flow("192.0.2.1:53", "198.51.100.7:40000"),
      Flow("255.255.255.255:67", "0.0.0.0:68", Proto::kUdp),  // DHCP: the unspecified address
      Flow("[2001:db8::1]:65535", "[2001:db8::2]:1"),
      Flow("[ff02::1:2]:547", "[::]:546", Proto::kUdp),
      Flow("0.0.0.0:0", "0.0.0.0:0", Proto::kUdp),
  };
  const std::vector<Family> families = {Family::kIpv4, Family::kIpv4, Family::kIpv6, Family::kIpv6,
                                        Family::kIpv4};
  std::vector<uint64_t> cookies;
  for (const FlowKey& key : keys) {
    cookies.push_back(key.proto == Proto::kTcp ? tcp_cookie : udp_cookie);
  }
  EXPECT_EQ(Map().Write(keys, cookies), keys.size());
  for (size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(Choice(keys[i], families[i]), cookies[i]) << i;
  EXPECT_EQ(program_->counters().steered, keys.size());
}

TEST_P(ProgramTest, EveryPartOfTheKeyCounts) {
  const UniqueFd tcp = Listen(SOCK_STREAM, "[::]:1090");
  Hold(tcp);
  const FlowKey key = Flow("192.0.2.1:53", "198.51.100.7:40000");
  const uint64_t cookie = CookieOf(tcp);
  ASSERT_EQ(Map().Write({&key, 1}, {&cookie, 1}), 1u);
  EXPECT_EQ(Choice(key, Family::kIpv4), cookie);
  EXPECT_EQ(Choice(Flow("192.0.2.2:53", "198.51.100.7:40000"), Family::kIpv4), 0u);
  EXPECT_EQ(Choice(Flow("192.0.2.1:54", "198.51.100.7:40000"), Family::kIpv4), 0u);
  EXPECT_EQ(Choice(Flow("192.0.2.1:53", "198.51.100.8:40000"), Family::kIpv4), 0u);
  EXPECT_EQ(Choice(Flow("192.0.2.1:53", "198.51.100.7:40001"), Family::kIpv4), 0u);
  EXPECT_EQ(Choice(Flow("192.0.2.1:53", "198.51.100.7:40000", Proto::kUdp), Family::kIpv4), 0u);
  EXPECT_EQ(program_->counters().no_entry, 5u);
}

TEST_P(ProgramTest, CountsWhatItCannotDo) {
  const UniqueFd tcp = Listen(SOCK_STREAM, "[::]:1090");
  Hold(tcp);
  const FlowKey keys[] = {Flow("192.0.2.1:53", "198.51.100.7:1", Proto::kUdp),  // a TCP socket
                          Flow("192.0.2.1:53", "198.51.100.7:2")};              // no such socket
  const uint64_t cookies[] = {CookieOf(tcp), CookieOf(tcp) + 1000};
  ASSERT_EQ(Map().Write(keys, cookies), 2u);
  EXPECT_EQ(Choice(keys[0], Family::kIpv4), 0u);
  EXPECT_EQ(Choice(keys[1], Family::kIpv4), 0u);
  EXPECT_EQ(program_->counters().assign_refused, 1u);
  EXPECT_EQ(program_->counters().socket_gone, 1u);
}

TEST_P(ProgramTest, WriteStopsWhereTheMapIsFullAndEraseSkipsWhatIsNotThere) {
  std::vector<FlowKey> keys;
  for (uint16_t i = 0; i < kMaxFlows + 4; ++i) keys.push_back({.remote_port = i});
  const std::vector<uint64_t> cookies(keys.size(), 7);
  EXPECT_EQ(Map().Write(keys, cookies), kMaxFlows);
  EXPECT_EQ(Map().Write(absl::MakeSpan(keys).first(4), absl::MakeSpan(cookies).first(4)), 4u)
      << "what stands already needs no room";
  EXPECT_EQ(Map().Erase(absl::MakeSpan(keys).subspan(2, 4)), 4u);
  EXPECT_EQ(Map().Erase(keys), keys.size());
  uint64_t value = 0;
  for (const FlowKey& key : keys) {
    EXPECT_NE(bpf_map_lookup_elem(program_->flows_fd(), &key, &value), 0);
  }
}

TEST_P(ProgramTest, ABadDescriptorIsNoSuccess) {
  const FlowKey keys[2] = {{.remote_port = 1}, {.remote_port = 2}};
  const uint64_t cookies[2] = {1, 2};
  BpfFlowMap map(-1, GetParam());
  EXPECT_EQ(map.Write(keys, cookies), 0u);
  EXPECT_EQ(map.Erase(keys), 0u);
}

INSTANTIATE_TEST_SUITE_P(Updates, ProgramTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "batched" : "one_by_one"; });

}  // namespace
}  // namespace utproxy
