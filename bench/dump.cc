// SPDX-License-Identifier: GPL-3.0-or-later
//
// What does it cost to take in a dump of all connections?
//
//   dump [SOCKETS=100000 [MADE=1000000 [ROUNDS=7]]]
//
// Contestants alternate. With SOCKETS real TCP sockets, both ends of connections over lo in a
// namespace of its own:
//   discard  the kernel's dump is read and thrown away
//   fill     it goes into an empty table, as when the mirror starts
//   refill   it goes into the table again, as at each later sweep
// And with MADE sockets and SOCKETS of them, messages made after one of the kernel's, so that only
// reading and storing them is timed: fill and refill. Prints one JSON object, nanoseconds of
// processor time a socket.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "arguments.h"
#include "base/clock.h"
#include "churn/idle.h"
#include "mirror/socket_count.h"
#include "mirror/sweep.h"
#include "netlink/socket.h"
#include "support/netns.h"

namespace utproxy {
namespace {

using Messages = std::vector<char>;  // whole netlink messages, one after the other
using Figures = std::map<std::string, std::vector<double>>;

constexpr uint32_t kConnections = kAllStates & ~kListenStates;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "dump: %s\n", what.c_str());
  std::exit(1);
}

void Check(const absl::Status& status) {
  if (!status.ok()) Fail(std::string(status.message()));
}

// The least that one can do with a dump; returns its sockets.
size_t Discard(NetlinkSocket* socket, Messages* first) {
  size_t count = 0;
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    DiagRequest request = DumpRequest(family, Proto::kTcp, kConnections);
    Check(socket->Transact(&request.header, "dump", [&](const nlmsghdr& message) {
      if (count++ != 0 || first == nullptr) return;
      const auto* bytes = reinterpret_cast<const char*>(&message);
      first->assign(bytes, bytes + message.nlmsg_len);
    }));
  }
  return count;
}

// A table and its writer, as the mirror has them.
struct Target {
  std::unique_ptr<SocketTable> table = *SocketTable::Create({});
  UdpEpochs epochs;
  TableWriter writer{table.get(), &epochs};
  InterfaceSnapshot interfaces;
};

void TakeDump(DiagClient* client, Target* target) {
  target->table->Reserve(CountTcpSockets());
  Sweep sweep(&target->writer, &target->interfaces, MonotonicNs());
  Check(DumpConnections(client, &sweep, [] {}));
  if (!sweep.Finish().empty()) Fail("a dump missed sockets that do nothing");
}

void TakeMessages(const Messages& messages, size_t count, Target* target) {
  target->table->Reserve(count);
  Sweep sweep(&target->writer, &target->interfaces, MonotonicNs());
  for (size_t at = 0; at < messages.size();) {
    const auto* message = reinterpret_cast<const nlmsghdr*>(&messages[at]);
    if (const std::optional<Socket> socket = ReadDiagMessage(*message, Proto::kTcp)) {
      sweep.Take(*socket);
    }
    at += NLMSG_ALIGN(message->nlmsg_len);
  }
  if (!sweep.Finish().empty()) Fail("a dump missed what it has just stored");
}

// `count` connections of one service with clients of all kinds, in no order of their cookies, which
// is how a hash table's walk shows them.
Messages MakeMessages(const Messages& like, size_t count) {
  const size_t length = NLMSG_ALIGN(like.size());
  Messages messages(length * count);
  std::vector<uint32_t> cookies(count);
  for (uint32_t i = 0; i < count; ++i) cookies[i] = i + 1;
  std::mt19937 random(1);
  std::shuffle(cookies.begin(), cookies.end(), random);
  for (size_t i = 0; i < count; ++i) {
    char* at = &messages[i * length];
    std::copy(like.begin(), like.end(), at);
    auto* body = static_cast<inet_diag_msg*>(NLMSG_DATA(reinterpret_cast<nlmsghdr*>(at)));
    body->id.idiag_dst[0] = cookies[i];  // unique; the rest is the template's
    body->id.idiag_dport = static_cast<__be16>(random() | 1);
    body->id.idiag_cookie[0] = cookies[i];
    body->id.idiag_cookie[1] = 0;
  }
  return messages;
}

// Processor time, in ns, that `run` takes, in the kernel too: what others take of the processor
// meanwhile is left out.
template <class Run>
double Time(Run run) {
  const int64_t start = ThreadCpuNs();
  run();
  return static_cast<double>(ThreadCpuNs() - start);
}

void MeasureReal(size_t sockets, int rounds, Figures* figures, Messages* like) {
  const churn::IdleSockets idle(sockets, 0);
  absl::StatusOr<NetlinkSocket> raw = NetlinkSocket::Open(NETLINK_SOCK_DIAG);
  Check(raw.status());
  absl::StatusOr<DiagClient> client = DiagClient::Open();
  Check(client.status());
  // The first dump of all gives the sockets their cookies.
  if (Discard(&*raw, like) < sockets) Fail("the kernel does not show all sockets");
  const double n = static_cast<double>(sockets);
  for (int i = 0; i < rounds; ++i) {
    (*figures)["real discard"].push_back(Time([&] { Discard(&*raw, nullptr); }) / n);
    Target target;
    (*figures)["real fill"].push_back(Time([&] { TakeDump(&*client, &target); }) / n);
    (*figures)["real refill"].push_back(Time([&] { TakeDump(&*client, &target); }) / n);
    if (target.table->size() < sockets) Fail("the table does not hold all sockets");
  }
}

void MeasureMade(const Messages& like, const std::vector<size_t>& counts, int rounds,
                 Figures* figures) {
  std::map<size_t, Messages> messages;
  for (const size_t count : counts) messages[count] = MakeMessages(like, count);
  for (int i = 0; i < rounds; ++i) {
    for (const auto& [count, all] : messages) {
      const std::string name = "made " + std::to_string(count);
      const double n = static_cast<double>(count);
      Target target;
      const auto take = [&, count = count, &all = all] { TakeMessages(all, count, &target); };
      (*figures)[name + " fill"].push_back(Time(take) / n);
      (*figures)[name + " refill"].push_back(Time(take) / n);
      if (target.table->size() != count) Fail("the table does not hold all made sockets");
    }
  }
}

void Print(const Figures& figures) {
  const char* comma = "{";
  for (const auto& [name, values] : figures) {
    std::printf("%s\"%s\": [", comma, name.c_str());
    for (size_t i = 0; i < values.size(); ++i) std::printf("%s%.1f", i == 0 ? "" : ", ", values[i]);
    std::printf("]");
    comma = ",\n ";
  }
  std::printf("}\n");
}

int Main(size_t sockets, size_t made, int rounds) {
  if (const std::string why = testing::EnterNetns(); !why.empty()) {
    std::fprintf(stderr, "dump: skipped: %s\n", why.c_str());
    return 77;
  }
  Figures figures;
  Messages like;
  MeasureReal(sockets, rounds, &figures, &like);
  MeasureMade(like, {sockets, made}, rounds, &figures);
  Print(figures);
  return 0;
}

}  // namespace
}  // namespace utproxy

int main(int argc, char** argv) {
  const utproxy::Arguments arguments(argc, argv);
  return utproxy::Main(arguments.Number<size_t>(1, 100000), arguments.Number<size_t>(2, 1000000),
                       arguments.Number(3, 7));
}
