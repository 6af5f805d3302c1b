// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_CHURN_PLACE_H_
#define UTPROXY_TESTS_CHURN_PLACE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "churn/timeline.h"
#include "churn/wire.h"

namespace utproxy::churn {

// What all places have in common. One thread.
struct World {
  Addresses addresses;
  std::mt19937_64 random{std::random_device{}()};
  uint32_t next_mark = 0x10;
  std::map<std::string, uint64_t> changes;  // successful ones, by kind
  std::map<std::string, uint64_t> refused;  // changes that the kernel refused, by kind and errno

  uint64_t Below(uint64_t bound) { return random() % bound; }
  bool Chance(unsigned percent) { return Below(100) < percent; }
  // Each socket has its own; the low four bits are 0, as the rules' mark has one of them.
  uint32_t NewMark() { return next_mark += 0x10; }
};

// A protocol and a port, the sockets that are there and have been.
class Place {
 public:
  Place(World* world, Proto proto, uint16_t port) : world_(*world), proto_(proto), port_(port) {}
  virtual ~Place() = default;

  // Makes one change to a socket here, chosen by chance.
  virtual void ChangeSomething() = 0;
  // A packet that may be sent here; false: none just now.
  virtual bool ChooseProbe(Probe* probe) = 0;
  // Looks after what goes on by itself. Often.
  virtual void Attend(int64_t /*now_ns*/) {}

  uint16_t port() const { return port_; }
  Timeline* timeline() { return &timeline_; }

 protected:
  // Runs `act`, system calls that return true where they succeeded, and records that the place is
  // then as `edit` makes of it. `what` is of static storage. Returns what `act` did.
  bool Change(const char* what, const std::function<bool()>& act,
              const std::function<void(PlaceState*)>& edit);
  // Records that since before_ns, or a moment later, and surely now, the place is as `edit` makes
  // of it. kKnown: no socket was changed, only what is known of one.
  enum class Counts : uint8_t { kChange, kKnown };
  void Note(const char* what, int64_t before_ns, const std::function<void(PlaceState*)>& edit,
            Counts counts = Counts::kChange);
  Family AnyFamily() { return world_.Chance(50) ? Family::kIpv4 : Family::kIpv6; }

  World& world_;
  const Proto proto_;
  const uint16_t port_;

 private:
  Timeline timeline_;
};

SocketState* FindMark(PlaceState* state, uint32_t mark);
void EraseMark(PlaceState* state, uint32_t mark);

// A socket of the calling thread's network namespace that is bound to nothing yet: marked,
// transparent, nonblocking. UDP may share an address by SO_REUSEADDR, TCP by SO_REUSEPORT.
UniqueFd NewSocket(Proto proto, Serves serves, uint32_t mark);
bool BindTo(const UniqueFd& fd, Serves serves, const Address& address, uint16_t port);
// Connects to the client's port, without waiting.
bool ConnectTo(const UniqueFd& fd, Family family, const Address& address, uint16_t port);
bool Disconnect(const UniqueFd& fd);
bool SetTransparent(const UniqueFd& fd, Serves serves, bool on);
// close() then aborts a connection with RST.
void AbortOnClose(const UniqueFd& fd);

}  // namespace utproxy::churn

#endif  // UTPROXY_TESTS_CHURN_PLACE_H_
