// SPDX-License-Identifier: GPL-3.0-or-later
//
// What a writer does to a socket table, and what readers then ask of every lookup: that each socket
// they get is whole, no older than what the writer had acknowledged before the lookup, and had not
// been erased before; and that what is never erased is found. Who runs when is for others to say:
// threads, or a schedule.
#ifndef UTPROXY_TESTS_STRESS_TABLE_CHECKS_H_
#define UTPROXY_TESTS_STRESS_TABLE_CHECKS_H_

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "sockets/table_testing.h"
#include "utproxy/socket_table.h"

namespace utproxy {

struct Population {
  uint32_t steady;   // flows that are always there
  uint32_t passing;  // flows that come and go in waves
  uint32_t group;    // sockets of one key, of which the even ones are always there; of two more,
                     // one comes before the other goes
};

constexpr uint16_t kGroupPort = 8080;

inline uint32_t Mix(uint64_t n, uint32_t generation, uint32_t salt) {
  uint64_t x = (n << 32 | generation) * 0x9e3779b97f4a7c15u + salt;
  x ^= x >> 29;
  return static_cast<uint32_t>((x * 0xbf58476d1ce4e5b9u) >> 32);
}

// All fields beside the key follow from the cookie and the generation in `mark`.
inline Socket Fill(Socket s, uint32_t generation) {
  s.mark = generation;
  s.inode = Mix(s.cookie, generation, 1);
  s.ifindex = Mix(s.cookie, generation, 2);
  s.flags = static_cast<uint16_t>(Mix(s.cookie, generation, 3));
  return s;
}
inline bool Whole(const Socket& s) { return s == Fill(s, s.mark); }

inline Socket Flow(uint32_t n, uint32_t generation) {
  return Fill(FlowSocket(n, n + 1), generation);
}
inline Socket Member(uint32_t n, uint32_t generation) {
  return Fill(ListenerSocket(kGroupPort, 1000000 + n, n), generation);
}

using Random = std::minstd_rand;

// What the writer has acknowledged of one socket: a generation, and whether it is there.
struct Acknowledged {
  std::atomic<uint32_t> written{0};  // there, at least in this generation (0: not yet)
  std::atomic<uint32_t> erased{0};   // gone up to this generation
};

template <class Hasher>
class TableChecks {
 public:
  explicit TableChecks(const Population& of)
      : of_(of), flows_(of.steady + of.passing), members_(of.group + 2), told_(kTold) {
    auto table = BasicSocketTable<Hasher>::Create({.max_sockets = 1 << 14});
    EXPECT_TRUE(table.ok()) << table.status();
    table_ = *std::move(table);
    for (uint32_t n = 0; n < of_.steady; ++n) Put(n);
    for (uint32_t n = 0; n <= of_.group; n += 2) PutMember(n);
  }

  // The writer: wave after wave, up and down, while go_on(waves begun so far) says so.
  template <class GoOn>
  void Write(GoOn go_on) {
    Random random(0);
    for (uint32_t wave = 0; go_on(wave); ++wave) {
      for (uint32_t i = 0; i < of_.passing; ++i) {
        const uint32_t n = of_.steady + (i * 7 + wave) % of_.passing;
        wave % 2 == 0 ? Put(n) : Take(n);
        Put(Below(&random, of_.steady));
        PutMember(Below(&random, of_.group / 2) * 2);
        const uint32_t passing = Below(&random, of_.group / 2) * 2 + 1;
        Below(&random, 2) == 0 ? PutMember(passing) : TakeMember(passing);
        if (Below(&random, 2) == 0) Relay();
      }
    }
  }

  // The readers: any of these, from any thread, over and over.
  void CheckOne(Random* random) {
    const uint32_t n = Draw(random);
    const Known known = Before(flows_[n]);
    CheckFlow(n, known, table_->FindOne(Flow(n, 0).key()));
  }

  void CheckBatch(Random* random) {
    std::vector<uint32_t> flows(1 + Below(random, 70));
    std::vector<Known> known;
    std::vector<FlowKey> keys;
    for (uint32_t& n : flows) {
      n = Draw(random);
      known.push_back(Before(flows_[n]));
      keys.push_back(Flow(n, 0).key());
    }
    std::vector<std::optional<Socket>> found(keys.size());
    table_->FindBatch(keys, [&](size_t i, const auto& socket) { found[i] = socket; });
    for (size_t i = 0; i < flows.size(); ++i) CheckFlow(flows[i], known[i], found[i]);
  }

  void CheckGroup(Random*) {
    std::vector<Known> known(members_.size());
    for (uint32_t n = 0; n < known.size(); ++n) known[n] = Before(members_[n]);
    absl::InlinedVector<Socket, 8> found;
    table_->FindAll(Member(0, 0).key(), &found);
    uint32_t next = 0, steady = 0, relay = 0;
    for (const Socket& s : found) {
      const uint32_t n = s.order;
      Check(Intact(s) && n < known.size() && s.cookie == 1000000 + n, "a torn or wrong member");
      if (n >= known.size()) return;
      Check(n >= next, "members out of order or twice");
      next = n + 1;
      (n < of_.group ? steady : relay) += n >= of_.group || n % 2 == 0;
      Check(s.mark > known[n].erased, "a member that had been erased");
      Check(s.mark >= known[n].written, "a member that had been replaced");
    }
    Check(steady == of_.group / 2, "a steady member was missed");
    Check(relay != 0, "one of two was missed, of which one was always there");
    const std::optional<Socket> first = table_->FindOne(Member(0, 0).key());
    Check(first && first->order == 0 && Intact(*first), "the first member was missed");
  }

  void CheckSnapshot(Random*) {
    std::vector<Known> known;
    for (uint32_t n = 0; n < flows_.size(); ++n) known.push_back(Before(flows_[n]));
    std::vector<Socket> all;
    table_->Snapshot(&all);
    std::vector<int> seen(flows_.size());
    uint32_t members = 0;
    for (const Socket& s : all) {
      Check(Intact(s), "a torn socket in a snapshot");
      if (s.cookie >= 1000000) {
        members += s.order < of_.group && s.order % 2 == 0;
        continue;
      }
      const uint32_t n = static_cast<uint32_t>(s.cookie) - 1;
      CheckFlow(n, known[n], s);
      ++seen[n];
    }
    for (const int times : seen) Check(times <= 1, "a flow twice in a snapshot");
    for (uint32_t n = 0; n < of_.steady; ++n)
      Check(seen[n] == 1, "a steady flow not once in a snapshot");
    Check(members == of_.group / 2, "steady members not once in a snapshot");
  }

  static constexpr std::array kKinds = {&TableChecks::CheckOne, &TableChecks::CheckBatch,
                                        &TableChecks::CheckGroup, &TableChecks::CheckSnapshot};

  void Check(bool holds, const char* what) {
    if (holds) return;
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    if (failures_++ == 0) first_failure_ = what;
  }
  int failures() {
    const std::lock_guard<std::mutex> lock(failure_mutex_);
    return failures_;
  }
  // Once nobody writes or reads any more.
  const std::string& first_failure() const { return first_failure_; }
  SocketTableStats stats() const { return table_->stats(); }

 private:
  static constexpr uint32_t kTold = 1 << 22;

  // What a socket stands for, beside the table and with no synchronisation but the table's: who
  // has got the socket sees it, or TSan finds a race.
  void Tell(uint32_t generation) {
    if (generation < kTold) told_[generation] = generation;
  }
  bool Intact(const Socket& s) const {
    return Whole(s) && (s.mark >= kTold || told_[s.mark] == s.mark);
  }

  void Put(uint32_t n) {
    Tell(++generation_);
    Check(table_->Upsert(Flow(n, generation_)).ok(), "an upsert failed");
    flows_[n].written.store(generation_, std::memory_order_release);
  }
  void Take(uint32_t n) {
    if (!table_->Erase(Flow(n, 0).key(), n + 1)) return;
    flows_[n].erased.store(generation_, std::memory_order_release);
  }
  void PutMember(uint32_t n) {
    Tell(++generation_);
    Check(table_->Upsert(Member(n, generation_)).ok(), "an upsert failed");
    members_[n].written.store(generation_, std::memory_order_release);
  }
  void TakeMember(uint32_t n) {
    if (!table_->Erase(Member(n, 0).key(), 1000000 + n)) return;
    members_[n].erased.store(generation_, std::memory_order_release);
  }

  void Relay() {
    relay_ = 1 - relay_;
    PutMember(of_.group + relay_);
    TakeMember(of_.group + 1 - relay_);
  }

  // What a reader knows of a flow before it looks it up.
  struct Known {
    uint32_t written;
    uint32_t erased;
  };
  static Known Before(const Acknowledged& a) {
    // `erased` second: where it is under `written`, the socket was there when this was read.
    const uint32_t written = a.written.load(std::memory_order_acquire);
    return {written, a.erased.load(std::memory_order_acquire)};
  }

  void CheckFlow(uint32_t n, const Known& known, const std::optional<Socket>& found) {
    if (!found) {
      Check(n >= of_.steady, "a steady flow was missed");
      return;
    }
    Check(found->key() == Flow(n, 0).key() && found->cookie == n + 1, "the wrong socket");
    Check(Intact(*found), "a torn socket");
    Check(found->mark > known.erased, "a socket that had been erased");
    Check(found->mark >= known.written, "a socket that had been replaced");
  }

  static uint32_t Below(Random* random, uint32_t limit) {
    return static_cast<uint32_t>((*random)() >> 4) % limit;
  }
  uint32_t Draw(Random* random) const {
    return Below(random, Below(random, 2) == 0 ? of_.steady : of_.steady + of_.passing);
  }

  const Population of_;
  std::unique_ptr<BasicSocketTable<Hasher>> table_;
  uint32_t generation_ = 0;
  uint32_t relay_ = 0;
  std::vector<Acknowledged> flows_, members_;
  std::vector<uint32_t> told_;  // by generation
  std::mutex failure_mutex_;
  int failures_ = 0;
  std::string first_failure_;
};

}  // namespace utproxy

#endif  // UTPROXY_TESTS_STRESS_TABLE_CHECKS_H_
