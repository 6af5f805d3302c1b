// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_GENERATOR_H_
#define UTPROXY_TESTS_PARITY_GENERATOR_H_

#include <cstdint>
#include <random>
#include <vector>

#include "kernel_oracle.h"
#include "spec.h"

namespace utproxy::parity {

// Draws cases. The same seed gives the same cases, on every machine. Addresses and ports come from
// pools so small that sockets and packets meet all the time.
class Generator {
 public:
  explicit Generator(uint64_t seed) : random_(seed) {}

  // What stays for some scenes: setting it up is costly.
  struct World {
    DeviceAddresses addresses;
    std::vector<Policy> policies;
    Marks marks;
    bool steers = false;  // a foreign sk_lookup program is there
    friend bool operator==(const World&, const World&) = default;
  };
  // `number`: of the world among those of a run; rare kinds take turns by it.
  World DrawWorld(size_t policies, uint64_t number);
  Scene DrawScene(const World& world);
  PacketSpec DrawPacket(const World& world, const Scene& scene);
  // 1..marks.size()
  uint8_t DrawMarkIndex(const World& world);

 private:
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }
  bool Percent(uint32_t percent) { return Below(100) < percent; }
  template <typename Container>
  const auto& Pick(const Container& from) {
    return from[Below(static_cast<uint32_t>(std::size(from)))];
  }

  std::vector<AddressSpec> DrawIpv4Addresses(int device);
  std::vector<AddressSpec> DrawIpv6Addresses(int device);
  Policy DrawPolicy();
  uint16_t DrawPort(const World& world);
  Address DrawLocal(const World& world, Family family);
  Address DrawRemote(Family family);
  Family DrawFamily() { return Percent(50) ? Family::kIpv4 : Family::kIpv6; }

  SocketSpec DrawSocket(const World& world);
  SocketSpec DrawBound(const World& world, Proto proto);
  void Crowd(Scene* scene);
  SocketSpec DrawConnected(const World& world, Proto proto);
  void DrawTcpState(const World& world, SocketSpec* spec);
  SocketSpec DrawRequest(const World& world, const SocketSpec& listener);
  void DrawSteers(const World& world, Scene* scene);

  PacketSpec DrawPlain(const World& world);
  void AimAt(const World& world, const SocketSpec& socket, PacketSpec* spec);
  void DrawTransport(PacketSpec* spec);
  void DrawIpv4Shape(PacketSpec* spec);
  void DrawIpv6Shape(PacketSpec* spec);
  void DrawOddity(const World& world, PacketSpec* spec);

  std::mt19937_64 random_;
};

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_GENERATOR_H_
