// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_EXPLAIN_CONTEXT_H_
#define UTPROXY_DAEMON_EXPLAIN_CONTEXT_H_

#include <absl/status/statusor.h>

#include <string>
#include <vector>

#include "daemon/json.h"
#include "decide/explain.h"
#include "diagnose/system_view.h"
#include "netlink/route_probe.h"

namespace utproxy {

// What surrounds a decision: policy rules, sysctls, input chains and sk_lookup programs of the
// calling thread's network namespace, of the moment of Load(). One thread.
class ExplainContext {
 public:
  // Without CAP_NET_ADMIN rules of netfilter and programs stay unknown, which the sentences say.
  // `own_program`: the id of utproxy's sk_lookup program, where the caller has one.
  static absl::StatusOr<ExplainContext> Load(uint32_t own_program = 0);
  // Of a view made up, and programs by name, for tests.
  ExplainContext(SystemView view, std::vector<std::string> programs)
      : view_(std::move(view)), programs_(std::move(programs)) {}

  // "The rule with priority 32765 (fwmark 0x1/0x1) leads to that table. ...": which rule chose the
  // route, and what rp_filter and src_valid_mark mean for the packet.
  std::string RouteSentences(const Packet& packet, uint32_t mark, const RouteAnswer& route) const;
  // What the input chains do to it, where routing delivers it.
  std::string InputSentence(const Packet& packet, uint32_t mark) const;
  // Whether another sk_lookup program has a say in the listener's lookup; empty where none has.
  std::string ProgramSentence() const;

 private:
  SystemView view_;
  std::vector<std::string> programs_;  // sk_lookup programs that are not utproxy's
};

// What the kernel's own two do with the packet: {"xt_TPROXY": "...", "nft tproxy": "..."}.
// `spread`: the target has several on-ports.
Json KernelWould(const Packet& packet, const Decision& decision, bool spread = false);

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_EXPLAIN_CONTEXT_H_
