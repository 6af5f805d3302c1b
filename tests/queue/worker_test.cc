// SPDX-License-Identifier: GPL-3.0-or-later
#include "queue/worker.h"

#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <functional>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "loopback.h"
#include "messages.h"
#include "queue/queue_stats.h"
#include "support/netns.h"

namespace utproxy {
namespace {

using loopback::QueueRule;
using loopback::Receiver;
using loopback::Sender;

// Decides every packet alike and remembers what it saw.
class FakeDecider : public BatchDecider {
 public:
  void DecideBatch(absl::Span<const QueuedPacket> packets,
                   absl::Span<Decision> decisions) override {
    for (size_t i = 0; i < packets.size(); ++i) {
      last = packets[i].packet;
      Decision d;
      d.verdict = verdict;
      d.reason = verdict == Verdict::kAccept ? Reason::kListener : Reason::kNoSocket;
      d.mark = remark ? remark(packets[i].packet.mark) : packets[i].packet.mark;
      decisions[i] = d;
    }
  }

  void SetCrowded(bool is) override { crowded.push_back(is); }

  Verdict verdict = Verdict::kAccept;
  std::vector<bool> crowded;
  std::function<uint32_t(uint32_t)> remark;
  Packet last;
};

// Keeps what a worker tells of its batches.
class FakeObserver : public BatchObserver {
 public:
  void Decided(const DecidedBatch& batch) override {
    ASSERT_EQ(batch.packets.size(), batch.decisions.size());
    EXPECT_GE(batch.decided_ns, last_decided_ns);
    last_decided_ns = batch.decided_ns;
    took_ns += batch.took_ns;
    for (size_t i = 0; i < batch.packets.size(); ++i) {
      ids.push_back(batch.packets[i].id);
      marks.push_back(batch.decisions[i].mark);
      bytes += batch.packets[i].bytes.size();
      if (batch.packets[i].arrived_ns != 0) arrived_ns = batch.packets[i].arrived_ns;
    }
    packets.store(ids.size());
  }

  std::atomic<size_t> packets{0};  // for any thread; all else once the worker has stopped
  std::vector<uint32_t> ids;
  std::vector<uint32_t> marks;
  size_t bytes = 0;
  std::atomic<int64_t> arrived_ns{0};
  int64_t last_decided_ns = 0;
  uint64_t took_ns = 0;
};

class Worker : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string why = testing::EnterNetns();
    if (!why.empty()) GTEST_SKIP() << "SKIP: " << why;
  }

  // The worker, with a rule that feeds it; null (and the test skipped) where there can be none.
  std::unique_ptr<QueueWorker> Make(const QueueOptions& options = {}) {
    auto worker = QueueWorker::Create(0, options, &decider_);
    EXPECT_TRUE(worker.ok()) << worker.status();
    return worker.ok() ? std::move(*worker) : nullptr;
  }

  FakeDecider decider_;
};

// Waits up to ten seconds until so many packets wait in queue 0.
bool AwaitDepth(uint32_t packets) {
  for (int ms = 0; ms < 10000; ++ms) {
    const auto stats = ReadQueueStats(0);
    if (stats.ok() && stats->has_value() && (*stats)->depth == packets) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

#define REQUIRE_RULE(...) \
  if (!QueueRule(__VA_ARGS__)) GTEST_SKIP() << "SKIP: iptables cannot make a rule with NFQUEUE"

TEST_F(Worker, AcceptsAndCounts) {
  REQUIRE_RULE("--queue-num 0");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  ASSERT_TRUE(worker->Start().ok());
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(1000, 100), 1000u);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(receiver.Wait()) << i;
  ASSERT_TRUE(worker->Stop().ok());
  const WorkerCounters& c = worker->counters();
  EXPECT_EQ(c.packets.value(), 1000u);
  EXPECT_EQ(c.bytes.value(), 1000u * 128);
  EXPECT_EQ(c.accepted.value(), 1000u);
  EXPECT_EQ(c.marked.value(), 0u);
  EXPECT_EQ(c.dropped.value(), 0u);
  EXPECT_EQ(c.reasons[static_cast<size_t>(Reason::kListener)].value(), 1000u);
  EXPECT_EQ(c.verdicts_gone.value() + c.verdict_errors.value() + c.verdicts_unsent.value(), 0u);
  EXPECT_EQ(c.damaged.value() + c.malformed.value() + c.overruns.value(), 0u);
  uint64_t batches = 0, timed = 0;
  for (size_t i = 0; i < c.batch_size.size(); ++i) batches += c.batch_size.bucket(i);
  for (size_t i = 0; i < c.decide_ns_packets.size(); ++i) timed += c.decide_ns_packets.bucket(i);
  EXPECT_EQ(batches, c.batches.value());
  EXPECT_EQ(timed, 1000u);
  EXPECT_EQ(decider_.last.dport, loopback::kPort);
  EXPECT_EQ(decider_.last.iif, if_nametoindex("lo"));
  EXPECT_EQ(decider_.last.dst, *Address::Parse("127.0.0.1"));
  EXPECT_EQ(decider_.last.outcome, ParseOutcome::kOk);
}

TEST_F(Worker, TellsItsObserverOfEveryPacketOnceAndInOrder) {
  REQUIRE_RULE("--queue-num 0");
  FakeObserver observer;
  decider_.remark = [](uint32_t) { return 0x17; };
  auto worker = QueueWorker::Create(0, {}, &decider_, &observer);
  ASSERT_TRUE(worker.ok()) << worker.status();
  const int64_t before = MonotonicNs();
  ASSERT_TRUE((*worker)->Start().ok());
  Receiver receiver;  // without one the sender is told of each
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(1000, 100), 1000u);
  ASSERT_TRUE((*worker)->Stop().ok());
  ASSERT_EQ(observer.packets.load(), 1000u);
  for (size_t i = 1; i < 1000; ++i) ASSERT_EQ(observer.ids[i], observer.ids[0] + i);
  EXPECT_EQ(observer.marks, std::vector<uint32_t>(1000, 0x17));
  EXPECT_EQ(observer.bytes, 1000u * 128);
  EXPECT_GE(observer.last_decided_ns, before);
  EXPECT_LE(observer.last_decided_ns, MonotonicNs());
  EXPECT_EQ(observer.took_ns, (*worker)->counters().decide_ns.value());
}

// The kernel stamps packets while somebody wants it, from a moment later on.
TEST_F(Worker, TellsWhenAStampedPacketArrived) {
  REQUIRE_RULE("--queue-num 0");
  const UniqueFd wants(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ASSERT_EQ(::setsockopt(wants.get(), SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on), 0);
  FakeObserver observer;
  auto worker = QueueWorker::Create(0, {}, &decider_, &observer);
  ASSERT_TRUE(worker.ok()) << worker.status();
  ASSERT_TRUE((*worker)->Start().ok());
  Sender sender;
  timespec before{}, after{};
  ::clock_gettime(CLOCK_REALTIME, &before);
  for (int ms = 0; ms < 10000 && observer.arrived_ns.load() == 0; ++ms) {
    (void)sender.Send(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_TRUE((*worker)->Stop().ok());
  ::clock_gettime(CLOCK_REALTIME, &after);
  // The kernel gives microseconds.
  EXPECT_GE(observer.arrived_ns.load(), int64_t{before.tv_sec} * kNsPerSec);
  EXPECT_LE(observer.arrived_ns.load(), int64_t{after.tv_sec} * kNsPerSec + after.tv_nsec);
}

TEST_F(Worker, SetsTheMark) {
  REQUIRE_RULE("--queue-num 0");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  decider_.remark = [](uint32_t mark) { return (mark & ~0xffu) ^ 0x5a; };
  ASSERT_TRUE(worker->Start().ok());
  Receiver receiver;
  Sender plain, marked(0x12345678);
  ASSERT_TRUE(receiver.ok() && plain.ok() && marked.ok());
  if (!receiver.rcvmark()) GTEST_SKIP() << "SKIP: kernel without SO_RCVMARK";
  ASSERT_EQ(plain.Send(1), 1u);
  EXPECT_EQ(receiver.Wait(), 0x5au);
  ASSERT_EQ(marked.Send(1), 1u);
  EXPECT_EQ(receiver.Wait(), 0x1234565au);
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(worker->counters().marked.value(), 2u);
}

TEST_F(Worker, LeavesAMarkThatDoesNotChangeAndCanClearOne) {
  REQUIRE_RULE("--queue-num 0");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  ASSERT_TRUE(worker->Start().ok());
  Receiver receiver;
  Sender sender(0x77);
  ASSERT_TRUE(receiver.ok() && sender.ok());
  if (!receiver.rcvmark()) GTEST_SKIP() << "SKIP: kernel without SO_RCVMARK";
  ASSERT_EQ(sender.Send(1), 1u);
  EXPECT_EQ(receiver.Wait(), 0x77u);
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(worker->counters().marked.value(), 0u);

  worker = Make();
  ASSERT_NE(worker, nullptr);
  decider_.remark = [](uint32_t) { return 0u; };
  ASSERT_TRUE(worker->Start().ok());
  ASSERT_EQ(sender.Send(1), 1u);
  EXPECT_EQ(receiver.Wait(), 0u);
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(worker->counters().marked.value(), 1u);
}

TEST_F(Worker, TakesIpv6) {
  REQUIRE_RULE("--queue-num 0", "ip6tables-nft");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  ASSERT_TRUE(worker->Start().ok());
  Receiver receiver(AF_INET6);
  Sender sender(0, AF_INET6);
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(10), 10u);
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(receiver.Wait());
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(worker->counters().accepted.value(), 10u);
  EXPECT_EQ(decider_.last.family, Family::kIpv6);
  EXPECT_EQ(decider_.last.src, *Address::Parse("::1"));
}

TEST_F(Worker, Drops) {
  REQUIRE_RULE("--queue-num 0");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  decider_.verdict = Verdict::kDrop;
  ASSERT_TRUE(worker->Start().ok());
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(100), 100u);
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(worker->counters().dropped.value(), 100u);
  EXPECT_EQ(worker->counters().reasons[static_cast<size_t>(Reason::kNoSocket)].value(), 100u);
  EXPECT_EQ(receiver.Count(), 0u);
}

TEST_F(Worker, ReadsOnlyTheCopyRangeAndCountsTheWhole) {
  REQUIRE_RULE("--queue-num 0");
  QueueOptions options;
  options.copy_range = 80;
  auto worker = Make(options);
  ASSERT_NE(worker, nullptr);
  ASSERT_TRUE(worker->Start().ok());
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(3, 20000), 3u);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(receiver.Wait());
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(worker->counters().bytes.value(), 3u * 20028);
  EXPECT_EQ(decider_.last.outcome, ParseOutcome::kOk);
}

TEST_F(Worker, AFullQueueDropsUnlessItFailsOpen) {
  REQUIRE_RULE("--queue-num 0");
  for (const bool fail_open : {false, true}) {
    QueueOptions options;
    options.maxlen = 4;
    options.fail_open = fail_open;
    auto worker = Make(options);
    ASSERT_NE(worker, nullptr);
    Receiver receiver;
    Sender sender;
    ASSERT_TRUE(receiver.ok() && sender.ok());
    ASSERT_EQ(sender.Send(10), 10u);
    EXPECT_EQ(receiver.Count(), fail_open ? 6u : 0u);
    const auto stats = ReadQueueStats(0);
    ASSERT_TRUE(stats.ok() && stats->has_value());
    EXPECT_EQ((*stats)->depth, 4u);
    EXPECT_EQ((*stats)->copy_range, options.copy_range);
    EXPECT_EQ((*stats)->dropped, fail_open ? 0u : 6u);
    ASSERT_TRUE(worker->Start().ok());
    ASSERT_TRUE(worker->Stop().ok());
    EXPECT_EQ(receiver.Count(), 4u);
  }
}

TEST_F(Worker, TwoQueuesBalance) {
  REQUIRE_RULE("--queue-balance 0:1");
  FakeDecider second;
  auto a = Make();
  auto b = QueueWorker::Create(1, {}, &second);
  ASSERT_NE(a, nullptr);
  ASSERT_TRUE(b.ok()) << b.status();
  ASSERT_TRUE(a->Start().ok());
  ASSERT_TRUE((*b)->Start().ok());
  Receiver receiver;
  ASSERT_TRUE(receiver.ok());
  for (int source = 1; source <= 64; ++source) {
    Sender sender(0, AF_INET, static_cast<uint8_t>(source));
    ASSERT_TRUE(sender.ok());
    ASSERT_EQ(sender.Send(10), 10u);
  }
  for (int i = 0; i < 640; ++i) ASSERT_TRUE(receiver.Wait());
  ASSERT_TRUE(a->Stop().ok());
  ASSERT_TRUE((*b)->Stop().ok());
  EXPECT_GT(a->counters().packets.value(), 0u);
  EXPECT_GT((*b)->counters().packets.value(), 0u);
  EXPECT_EQ(a->counters().packets.value() + (*b)->counters().packets.value(), 640u);
}

TEST_F(Worker, ASecondBinderIsRefusedAndTold) {
  auto first = Make();
  ASSERT_NE(first, nullptr);
  const auto second = QueueWorker::Create(0, {}, &decider_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_NE(second.status().message().find("bind queue 0: another program has it"),
            absl::string_view::npos)
      << second.status();
  EXPECT_NE(RemedyOf(second.status()), "");
  first.reset();
  EXPECT_TRUE(QueueWorker::Create(0, {}, &decider_).ok());
}

TEST_F(Worker, WithoutCapabilityTheErrorNamesIt) {
  absl::Status status;
  // Capabilities are a thread's own.
  std::thread([&] {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct none[2] = {};
    ASSERT_EQ(::syscall(SYS_capset, &header, none), 0);
    status = QueueWorker::Create(0, {}, &decider_).status();
  }).join();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
  EXPECT_NE(RemedyOf(status).find("CAP_NET_ADMIN"), std::string::npos);
}

TEST_F(Worker, StopAnswersEverythingQueued) {
  REQUIRE_RULE("--queue-num 0");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(5000), 5000u);
  ASSERT_EQ(receiver.Count(), 0u);
  ASSERT_TRUE(worker->Start().ok());
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(receiver.Count(), 5000u);
  EXPECT_EQ(worker->counters().packets.value(), 5000u);
  EXPECT_FALSE(worker->running());
  const auto stats = ReadQueueStats(0);
  ASSERT_TRUE(stats.ok());
  EXPECT_FALSE(stats->has_value()) << "still bound";
  EXPECT_TRUE(worker->Stop().ok()) << "a second time";
}

// Packets that come while it stops are the kernel's to drop; all that were queued are answered.
TEST_F(Worker, StopLosesNothingWhilePacketsCome) {
  REQUIRE_RULE("--queue-num 0");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  ASSERT_TRUE(worker->Start().ok());
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  std::atomic<bool> end{false};
  std::atomic<size_t> sent{0};
  std::thread traffic([&] {
    while (!end.load() && sent.load() < 200000) sent += sender.Send(10);
  });
  while (sent.load() < 2000) std::this_thread::yield();
  EXPECT_TRUE(worker->Stop().ok());
  end = true;
  traffic.join();
  const WorkerCounters& c = worker->counters();
  EXPECT_EQ(c.verdicts_gone.value() + c.verdict_errors.value() + c.verdicts_unsent.value(), 0u);
  EXPECT_EQ(receiver.Count(), c.accepted.value());
  EXPECT_GE(c.accepted.value(), 1u);
}

TEST_F(Worker, PacketsThatTheKernelFlushedAreCounted) {
  REQUIRE_RULE("--queue-num 0");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(100), 100u);
  if (!loopback::Shell("nft delete table ip mangle")) GTEST_SKIP() << "SKIP: no nft";
  ASSERT_TRUE(worker->Start().ok());
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(worker->counters().packets.value(), 100u);
  EXPECT_EQ(receiver.Count(), 0u);
  EXPECT_EQ(worker->counters().verdicts_gone.value(), 100u);
  EXPECT_EQ(worker->counters().verdict_errors.value(), 0u);
}

TEST_F(Worker, AnotherGoesOnWhereOneLeaves) {
  REQUIRE_RULE("--queue-num 0");
  auto first = Make();
  ASSERT_NE(first, nullptr);
  ASSERT_TRUE(first->Start().ok());
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(100), 100u);
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(receiver.Wait()) << i;
  ASSERT_TRUE(first->Leave().ok());
  EXPECT_FALSE(first->running());
  ASSERT_EQ(sender.Send(100), 100u);
  ASSERT_TRUE(AwaitDepth(100));

  FakeDecider decider;
  UniqueFd fd(::dup(first->fd()));
  auto second = QueueWorker::Create(0, {.maxlen = 200}, &decider, nullptr, std::move(fd));
  ASSERT_TRUE(second.ok()) << second.status();
  first.reset();  // closes its descriptor, not the queue
  ASSERT_TRUE((*second)->Start().ok());
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(receiver.Wait()) << i;
  ASSERT_TRUE((*second)->Stop().ok());
  EXPECT_EQ((*second)->counters().packets.value(), 100u);
  EXPECT_EQ((*second)->counters().verdicts_gone.value(), 0u);
  EXPECT_EQ(receiver.Count(), 0u);
}

TEST_F(Worker, WhoLeavesCanGoOn) {
  REQUIRE_RULE("--queue-num 0");
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(sender.Send(50), 50u);
    ASSERT_TRUE(worker->Start().ok());
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(receiver.Wait()) << round;
    ASSERT_TRUE(worker->Leave().ok());
  }
  ASSERT_TRUE(worker->Start().ok());
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(worker->counters().packets.value(), 150u);
  EXPECT_EQ(worker->counters().verdicts_gone.value(), 0u);
}

// As by a process that was killed between receiving and answering them.
TEST_F(Worker, PacketsThatNobodyAnsweredComeAgain) {
  REQUIRE_RULE("--queue-num 0");
  auto dead = NfQueue::Bind(0, {});
  ASSERT_TRUE(dead.ok()) << dead.status();
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  ASSERT_EQ(sender.Send(kBatch + 10), kBatch + 10);
  size_t received = 0;
  ASSERT_EQ((*dead)->Receive(true, [&](const Message&) { ++received; }),
            NfQueue::Received::kMessages);
  ASSERT_EQ(received, kBatch);

  auto worker = QueueWorker::Create(0, {}, &decider_, nullptr, UniqueFd(::dup((*dead)->fd())));
  ASSERT_TRUE(worker.ok()) << worker.status();
  ASSERT_TRUE((*worker)->Start().ok());
  for (size_t i = 0; i < kBatch + 10; ++i) ASSERT_TRUE(receiver.Wait()) << i;
  ASSERT_TRUE((*worker)->Stop().ok());
  EXPECT_EQ((*worker)->counters().packets.value(), kBatch + 10);
  EXPECT_EQ((*worker)->counters().verdicts_gone.value(), 0u);
}

TEST_F(Worker, AForeignSocketIsNotAdopted) {
  auto bound = NfQueue::Bind(1, {});
  ASSERT_TRUE(bound.ok()) << bound.status();
  EXPECT_FALSE(NfQueue::Adopt(UniqueFd(::dup((*bound)->fd())), 0, {}).ok());
  EXPECT_FALSE(NfQueue::Adopt(UniqueFd(::socket(AF_UNIX, SOCK_STREAM, 0)), 0, {}).ok());
  EXPECT_TRUE(NfQueue::Adopt(UniqueFd(::dup((*bound)->fd())), 1, {}).ok());
  // A worker binds its queue then.
  auto worker = QueueWorker::Create(0, {}, &decider_, nullptr, UniqueFd(::dup((*bound)->fd())));
  EXPECT_TRUE(worker.ok()) << worker.status();
}

TEST_F(Worker, OnlyTheKernelIsListenedTo) {
  auto queue = NfQueue::Bind(0, {});
  ASSERT_TRUE(queue.ok()) << queue.status();
  sockaddr_nl to{};
  socklen_t len = sizeof to;
  ASSERT_EQ(getsockname((*queue)->fd(), reinterpret_cast<sockaddr*>(&to), &len), 0);
  const UniqueFd forger(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  const std::vector<uint8_t> packet =
      MessageBytes().Nfgen().PacketHeader(1).Payload("forged").Finish();
  ASSERT_EQ(::sendto(forger.get(), packet.data(), packet.size(), 0,
                     reinterpret_cast<sockaddr*>(&to), sizeof to),
            static_cast<ssize_t>(packet.size()));
  int messages = 0;
  EXPECT_EQ((*queue)->Receive(true, [&](const Message&) { ++messages; }),
            NfQueue::Received::kMessages);
  EXPECT_EQ(messages, 0);
}

TEST_F(Worker, RunsOnTheCpuAskedFor) {
  cpu_set_t allowed;
  ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  int cpu = 0;
  while (!CPU_ISSET(static_cast<unsigned>(cpu), &allowed)) ++cpu;
  auto worker = Make();
  ASSERT_NE(worker, nullptr);
  EXPECT_TRUE(worker->Start(cpu).ok());
  EXPECT_TRUE(worker->running());
  EXPECT_TRUE(worker->Stop().ok());

  worker = Make();
  ASSERT_NE(worker, nullptr);
  const absl::Status status = worker->Start(CPU_SETSIZE - 1);
  EXPECT_EQ(status.message().find("pin queue 0 to CPU 1023: "), 0u) << status;
  EXPECT_NE(RemedyOf(status), "");
  EXPECT_FALSE(worker->running());
  EXPECT_FALSE(worker->Start(CPU_SETSIZE).ok());
}

struct Crowd {
  const char* name;
  uint32_t maxlen;
  int rcvbuf;
  uint32_t packets;
};
class CrowdedWorker : public Worker, public ::testing::WithParamInterface<Crowd> {};

TEST_P(CrowdedWorker, TellsTheDeciderWhileManyPacketsWait) {
  REQUIRE_RULE("--queue-num 0");
  QueueOptions options;
  options.maxlen = GetParam().maxlen;
  options.rcvbuf = GetParam().rcvbuf;
  auto worker = Make(options);
  ASSERT_NE(worker, nullptr);
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  for (uint32_t sent = 64; sent <= GetParam().packets; sent += 64) {
    ASSERT_EQ(sender.Send(64, 100), 64u);
    ASSERT_TRUE(AwaitDepth(sent)) << sent;
  }
  ASSERT_TRUE(worker->Start().ok());
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(receiver.Count(), GetParam().packets);
  EXPECT_EQ(decider_.crowded, (std::vector<bool>{true, false}));
}

INSTANTIATE_TEST_SUITE_P(Queues, CrowdedWorker,
                         ::testing::Values(Crowd{"default", 16384, 0, 2048},
                                           Crowd{"short_queue", 1024, 0, 512},
                                           Crowd{"small_buffer", 16384, 262144, 320}),
                         [](const auto& test) { return test.param.name; });

TEST_F(Worker, TheSocketBufferHoldsAFullQueue) {
  REQUIRE_RULE("--queue-num 0");
  QueueOptions options;
  options.maxlen = 4096;
  options.copy_range = kMaxCopyRange;
  auto worker = Make(options);
  ASSERT_NE(worker, nullptr);
  Receiver receiver;
  Sender sender;
  ASSERT_TRUE(receiver.ok() && sender.ok());
  // In steps, because lo keeps no more than net.core.netdev_max_backlog packets.
  for (uint32_t sent = 128; sent <= 4096; sent += 128) {
    ASSERT_EQ(sender.Send(128, 1400), 128u);
    ASSERT_TRUE(AwaitDepth(sent)) << sent;
  }
  const auto stats = ReadQueueStats(0);
  ASSERT_TRUE(stats.ok() && stats->has_value());
  EXPECT_EQ((*stats)->user_dropped, 0u);
  ASSERT_TRUE(worker->Start().ok());
  ASSERT_TRUE(worker->Stop().ok());
  EXPECT_EQ(receiver.Count(), 4096u);
}

}  // namespace
}  // namespace utproxy
