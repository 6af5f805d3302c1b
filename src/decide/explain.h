// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DECIDE_EXPLAIN_H_
#define UTPROXY_DECIDE_EXPLAIN_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "decide/listener.h"
#include "utproxy/decide.h"

namespace utproxy {

// The steps of one packet's explanation, in the order in which they are taken. Route and delivery
// come after the decision and are added by who knows the routes.
enum class StepKind : uint8_t {
  kEstablished,
  kTimeWait,
  kLaddr,
  kListener,
  kTransparent,
  kMark,
  kRoute,
  kDelivery,
};
// "established", "time_wait", ... as the JSON output names them.
const char* StepName(StepKind kind);

enum class PortState : uint8_t;

// One of several on-ports of a target (decide/spread.h), for people to read.
struct PortCandidate {
  uint16_t port = 0;
  bool backup = false;
  PortState state{};
  bool chosen = false;
  std::string why = {};  // one sentence
};

struct ExplainStep {
  StepKind kind = StepKind::kEstablished;
  // established   found, none, ignored (a UDP socket that does not count), skipped (no headers)
  // time_wait     reopen (a listener is looked up in its stead), keep
  // laddr         the address and port, as in "10.0.1.1:1090"
  // listener      found, none, shadowed (by a connected UDP socket), skipped
  // transparent   yes, no
  // mark          the mark afterwards, as in "0x1"
  std::string result;
  std::string why;                    // sentences for a netfilter engineer
  std::vector<Candidate> candidates;  // of a listener lookup; empty in all other steps
  // Of a laddr step of a target with several on-ports: in the order in which the packet would go to
  // them.
  std::vector<PortCandidate> ports = {};
};

struct Explanation {
  Decision decision;
  std::vector<ExplainStep> steps;
};

// The recorder that makes explain and trace out of the decision itself: see ActiveRecorder for
// when each member is called. For one packet; not thread-safe.
class ExplainRecorder {
 public:
  static constexpr bool kActive = true;

  // `candidates` gives those of the lookup's last listener lookup; may be empty (null).
  explicit ExplainRecorder(std::function<std::vector<Candidate>()> candidates = nullptr)
      : candidates_(std::move(candidates)) {}

  void Unparsed(const Packet& packet);
  void Established(const Packet& packet, const std::optional<Socket>& found,
                   const std::optional<Socket>& passed_over);
  void TimeWait(const Packet& packet, const Socket& minisock);
  void ListenerSkipped(const Packet& packet, const Socket& established);
  void Laddr(const Packet& packet, const Policy& policy, const Address& laddr, uint16_t lport,
             LaddrSource source);
  void Listener(const Packet& packet, const std::optional<Socket>& found,
                const std::optional<Socket>& shadow, const std::optional<Socket>& time_wait);
  void Transparent(const Socket& socket);
  void Mark(const Packet& packet, const Policy& policy, const Decision& decision);

  const std::vector<ExplainStep>& steps() const { return steps_; }
  std::vector<ExplainStep> TakeSteps() { return std::move(steps_); }

 private:
  void Add(StepKind kind, std::string result, std::string why);

  std::function<std::vector<Candidate>()> candidates_;
  std::vector<ExplainStep> steps_;
  std::string looked_up_;  // laddr:lport
};
static_assert(ActiveRecorder<ExplainRecorder>);

// Decides as Decide() does and tells each step. The candidates of the listener step come from
// lookup.candidates() where there is such a member (see ListLookup; its collecting has to be on).
template <SocketLookup Lookup>
Explanation Explain(const Packet& packet, const Policy& policy, Lookup& lookup) {
  ExplainRecorder recorder;
  if constexpr (requires { std::vector<Candidate>(lookup.candidates()); }) {
    recorder = ExplainRecorder([&lookup] { return std::vector<Candidate>(lookup.candidates()); });
  }
  Explanation explanation;
  explanation.decision = Decide(packet, policy, lookup, recorder);
  explanation.steps = recorder.TakeSteps();
  return explanation;
}

}  // namespace utproxy

#endif  // UTPROXY_DECIDE_EXPLAIN_H_
