// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_PARITY_COVERAGE_H_
#define UTPROXY_TESTS_PARITY_COVERAGE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "spec.h"
#include "utproxy/decide.h"

namespace utproxy::parity {

// What Decide() went through for one packet: a recorder.
struct Steps {
  static constexpr bool kActive = true;
  bool unparsed = false;
  std::optional<Socket> established, passed_over, listener, shadow;
  bool listener_looked_up = false;
  LaddrSource source = LaddrSource::kOnIp;
  Address laddr;
  uint16_t lport = 0;

  void Unparsed(const Packet&) { unparsed = true; }
  void Established(const Packet&, const std::optional<Socket>& found,
                   const std::optional<Socket>& passed) {
    established = found;
    passed_over = passed;
  }
  void TimeWait(const Packet&, const Socket&) {}
  void ListenerSkipped(const Packet&, const Socket&) {}
  void Laddr(const Packet&, const Policy&, const Address& address, uint16_t port,
             LaddrSource from) {
    laddr = address;
    lport = port;
    source = from;
  }
  void Listener(const Packet&, const std::optional<Socket>& found,
                const std::optional<Socket>& shadowed_by, const std::optional<Socket>&) {
    listener_looked_up = true;
    listener = found;
    shadow = shadowed_by;
  }
  void Transparent(const Socket&) {}
  void Mark(const Packet&, const Policy&, const Decision&) {}
};
static_assert(ActiveRecorder<Steps>);

// One case, as far as it tells which rows of the kernel's procedure it went through.
struct CoveredCase {
  const Scene& scene;
  const std::vector<bool>& made;  // which of the scene's sockets there are
  const Policy& policy;
  const PacketSpec& spec;
  const Packet& packet;  // as parsed
  const Outcome& outcome;
  const Decision& decision;
  const Steps& steps;
};

// Counts how often each row was reached. A row is a sentence about what TPROXY does in some
// circumstances; all of them are known from the start, so that one never reached shows.
class Coverage {
 public:
  Coverage();
  void Count(const CoveredCase& c);
  void Add(const Coverage& other);

  const std::map<std::string, uint64_t>& rows() const { return rows_; }
  // Those that were reached less often than this.
  std::vector<std::string> Below(uint64_t bound) const;

 private:
  void CountHeaders(const CoveredCase& c);
  void CountEstablished(const CoveredCase& c);
  void CountLaddr(const CoveredCase& c);
  void CountTimeWait(const CoveredCase& c);
  void CountMark(const CoveredCase& c);
  void CountLookup(const CoveredCase& c);
  void CountTcpScores(const CoveredCase& c, const std::vector<const SocketSpec*>& bucket);
  void CountUdpScores(const CoveredCase& c, const std::vector<const SocketSpec*>& bucket);
  void Row(const char* name, bool reached);

  std::map<std::string, uint64_t> rows_;
  bool registering_ = true;
};

}  // namespace utproxy::parity

#endif  // UTPROXY_TESTS_PARITY_COVERAGE_H_
