// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_STEER_FAKE_FLOW_MAP_H_
#define UTPROXY_TESTS_STEER_FAKE_FLOW_MAP_H_

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "steer/flow_map.h"

namespace utproxy {

// A FlowMap of limited size that refuses what it is told to, and notices where two threads are at
// one key at once.
class FakeFlowMap final : public FlowMap {
 public:
  explicit FakeFlowMap(size_t capacity) : capacity_(capacity) {}

  size_t Write(absl::Span<const FlowKey> keys, absl::Span<const uint64_t> cookies) override {
    ++writes;
    for (size_t i = 0; i < keys.size(); ++i) {
      Enter(keys[i]);
      const bool written = WriteOne(keys[i], cookies[i]);
      Leave(keys[i]);
      if (!written) return i;
    }
    return keys.size();
  }

  size_t Erase(absl::Span<const FlowKey> keys) override {
    for (size_t i = 0; i < keys.size(); ++i) {
      Enter(keys[i]);
      const bool erased = EraseOne(keys[i]);
      Leave(keys[i]);
      if (!erased) return i;
    }
    return keys.size();
  }

  std::optional<uint64_t> Get(const FlowKey& key) const {
    const std::lock_guard lock(mutex_);
    const auto it = entries_.find(Bytes(key));
    if (it == entries_.end()) return std::nullopt;
    return it->second;
  }
  size_t size() const {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }
  void RefuseWrites(const FlowKey& key) { refused_writes_.insert(Bytes(key)); }
  void RefuseErasures(const FlowKey& key) { refused_erasures_.insert(Bytes(key)); }
  void RefuseNothing() {
    refused_writes_.clear();
    refused_erasures_.clear();
  }

  std::atomic<int> writes{0};
  std::atomic<int> overfull{0};
  std::atomic<int> collisions{0};  // two threads at one key

 private:
  static std::string Bytes(const FlowKey& key) {
    return std::string(reinterpret_cast<const char*>(&key), sizeof key);
  }
  void Enter(const FlowKey& key) {
    const std::lock_guard lock(mutex_);
    if (!in_use_.insert(Bytes(key)).second) ++collisions;
  }
  void Leave(const FlowKey& key) {
    std::this_thread::yield();
    const std::lock_guard lock(mutex_);
    in_use_.erase(Bytes(key));
  }
  bool WriteOne(const FlowKey& key, uint64_t cookie) {
    const std::lock_guard lock(mutex_);
    if (refused_writes_.count(Bytes(key)) != 0) return false;
    if (entries_.count(Bytes(key)) == 0 && entries_.size() >= capacity_) {
      ++overfull;
      return false;
    }
    entries_[Bytes(key)] = cookie;
    return true;
  }
  bool EraseOne(const FlowKey& key) {
    const std::lock_guard lock(mutex_);
    if (refused_erasures_.count(Bytes(key)) != 0) return false;
    entries_.erase(Bytes(key));
    return true;
  }

  const size_t capacity_;
  mutable std::mutex mutex_;
  std::map<std::string, uint64_t> entries_;
  std::set<std::string> in_use_;
  std::set<std::string> refused_writes_, refused_erasures_;  // set while no other thread runs
};

}  // namespace utproxy

#endif  // UTPROXY_TESTS_STEER_FAKE_FLOW_MAP_H_
