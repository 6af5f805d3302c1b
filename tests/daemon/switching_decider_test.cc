// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/switching_decider.h"

#include <gtest/gtest.h>

#include <thread>

namespace utproxy {
namespace {

// Marks each packet with its own number.
class Marker : public BatchDecider {
 public:
  explicit Marker(uint32_t mark) : mark_(mark) {}
  void DecideBatch(absl::Span<const QueuedPacket> packets,
                   absl::Span<Decision> decisions) override {
    for (size_t i = 0; i < packets.size(); ++i) {
      decisions[i].mark = mark_;
      decisions[i].lport = packets[i].packet.dport;
    }
  }
  void SetCrowded(bool crowded) override { crowded_ = crowded; }
  bool crowded() const { return crowded_; }

 private:
  const uint32_t mark_;
  bool crowded_ = false;
};

std::shared_ptr<DeciderVersion> Version(uint32_t number) {
  auto version = std::make_shared<DeciderVersion>();
  version->number = number;
  version->decider = std::make_unique<Marker>(number);
  return version;
}

bool IsEven(const Packet& packet) { return packet.dport % 2 == 0; }

// The marks of packets to ports 0 to count - 1; each decision must be for its own packet.
std::vector<uint32_t> Marks(SwitchingDecider& decider, size_t count) {
  std::vector<QueuedPacket> packets(count);
  std::vector<Decision> decisions(count);
  for (size_t i = 0; i < count; ++i) packets[i].packet.dport = static_cast<uint16_t>(i);
  decider.DecideBatch(packets, absl::MakeSpan(decisions));
  std::vector<uint32_t> marks;
  for (size_t i = 0; i < count; ++i) {
    EXPECT_EQ(decisions[i].lport, i);
    EXPECT_EQ(decisions[i].mark, decider.version_of(i));
    marks.push_back(decisions[i].mark);
  }
  return marks;
}

using Numbers = std::vector<uint32_t>;

TEST(SwitchingDecider, EachPacketIsDecidedByOne) {
  SwitchingDecider decider(Version(1));
  EXPECT_EQ(Marks(decider, 4), (Numbers{1, 1, 1, 1}));
  decider.Begin(Version(2), IsEven);
  EXPECT_EQ(Marks(decider, 5), (Numbers{2, 1, 2, 1, 2}));
  EXPECT_EQ(Marks(decider, 1), Numbers{2});
  decider.End();
  EXPECT_EQ(Marks(decider, 4), (Numbers{2, 2, 2, 2}));
}

TEST(SwitchingDecider, AllMayBeForTheNewOneOrNone) {
  SwitchingDecider decider(Version(1));
  decider.Begin(Version(2), nullptr);
  EXPECT_EQ(Marks(decider, 3), (Numbers{2, 2, 2}));
  decider.End();
  decider.Begin(Version(3), [](const Packet&) { return false; });
  EXPECT_EQ(Marks(decider, 3), (Numbers{2, 2, 2}));
  decider.End();
  EXPECT_EQ(Marks(decider, 3), (Numbers{3, 3, 3}));
}

TEST(SwitchingDecider, Undone) {
  SwitchingDecider decider(Version(1));
  for (const bool partly : {true, false}) {
    decider.Begin(Version(2), partly ? SwitchingDecider::ForNew(IsEven) : nullptr);
    (void)Marks(decider, 2);
    decider.Undo();
    EXPECT_EQ(Marks(decider, 2), (Numbers{1, 1}));
  }
}

TEST(SwitchingDecider, VersionsAreLetGo) {
  const std::shared_ptr<DeciderVersion> first = Version(1);
  SwitchingDecider decider(first);
  decider.Begin(Version(2), IsEven);
  (void)Marks(decider, 2);
  decider.End();
  EXPECT_GT(first.use_count(), 1) << "the worker has not been told";
  (void)Marks(decider, 2);
  EXPECT_EQ(first.use_count(), 1);
}

TEST(SwitchingDecider, BothAreToldOfACrowd) {
  const std::shared_ptr<DeciderVersion> first = Version(1), second = Version(2);
  SwitchingDecider decider(first);
  decider.SetCrowded(true);
  decider.Begin(second, IsEven);
  (void)Marks(decider, 1);
  EXPECT_TRUE(static_cast<Marker&>(*first->decider).crowded());
  EXPECT_TRUE(static_cast<Marker&>(*second->decider).crowded());
}

TEST(SwitchingDecider, WhilePacketsCome) {
  SwitchingDecider decider(Version(1));
  std::atomic<bool> stop{false};
  std::thread worker([&] {
    uint32_t newest = 1;
    while (!stop.load()) {
      const Numbers marks = Marks(decider, kBatch);
      EXPECT_GE(marks[0], newest);
      for (size_t i = 2; i < marks.size(); ++i) EXPECT_EQ(marks[i], marks[i - 2]);
      newest = marks[0];
    }
  });
  for (uint32_t n = 2; n < 500; ++n) {
    decider.Begin(Version(n), IsEven);
    std::this_thread::yield();
    decider.End();
  }
  stop.store(true);
  worker.join();
}

}  // namespace
}  // namespace utproxy
