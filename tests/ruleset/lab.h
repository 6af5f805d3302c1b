// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_RULESET_LAB_H_
#define UTPROXY_TESTS_RULESET_LAB_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.h"
#include "netlink/socket.h"
#include "utproxy/address.h"
#include "utproxy/flow.h"

// A network namespace of the test's own, with devices to put packets in by and a queue to see them
// come out of.
namespace utproxy::lab {

// Moves the calling process into a fresh network namespace with lo up. The reason where it can't,
// else empty.
std::string EnterNamespace();

struct Output {
  int status;  // as in a shell; 128 and up for signals
  std::string text;
};
// Runs a bash script; stdout and stderr together.
Output Shell(const std::string& script);

// All that `ruleset` may touch, as text: nftables, rules, routes of every table. Counters and
// handles are not in it.
std::string NetworkState();

struct TestPacket {
  std::string src, dst;  // both families
  uint16_t sport = 1000, dport = 53;
  Proto proto = Proto::kUdp;
  size_t payload = 8;
};
// The packet from its IP header on, checksums right.
std::vector<uint8_t> Build(const TestPacket& packet);
// The same cut into two fragments, the second without ports.
std::vector<std::vector<uint8_t>> BuildFragments(const TestPacket& packet);

// A tun device, up: what is written comes in at PREROUTING as from its far end.
class Tun {
 public:
  explicit Tun(const std::string& name);
  bool Write(const std::vector<uint8_t>& packet) const;
  // The next packet that leaves by it, within five seconds; empty if none.
  std::vector<uint8_t> Read() const;

 private:
  UniqueFd fd_;
};

struct Queued {
  uint32_t id = 0;
  uint32_t mark = 0;  // host byte order
  std::vector<uint8_t> payload;
};
// Bound to one queue, copying whole packets.
class TestQueue {
 public:
  static std::unique_ptr<TestQueue> Bind(uint16_t number);
  // The next packet, within five seconds; nullptr if none.
  std::unique_ptr<Queued> Next();
  void Accept(uint32_t id, uint32_t mark);

 private:
  TestQueue(NetlinkSocket socket, uint16_t number) : socket_(std::move(socket)), number_(number) {}
  NetlinkSocket socket_;
  uint16_t number_;
  std::vector<std::unique_ptr<Queued>> waiting_;
};

// The source port of a packet of Build().
uint16_t SourcePort(const std::vector<uint8_t>& packet);

}  // namespace utproxy::lab

#endif  // UTPROXY_TESTS_RULESET_LAB_H_
