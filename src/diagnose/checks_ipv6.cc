// SPDX-License-Identifier: GPL-3.0-or-later
// IPv6 left out where IPv4 is proxied.
#include <absl/strings/str_cat.h>

#include <algorithm>

#include "diagnose/checks.h"
#include "diagnose/fixes.h"
#include "diagnose/marked_route.h"

namespace utproxy {

void CheckIpv6(const SystemView& view, Findings* findings) {
  for (size_t i = 0; i < view.targets.size(); ++i) {
    const ProxyTarget& target = view.targets[i];
    if (!target.policy_known || target.rules.empty() || !target.v4) continue;
    const bool rule6 = std::any_of(view.rules.begin(), view.rules.end(), [&](const PolicyRule& r) {
      return r.family == Family::kIpv6 && FitsMark(r, MarkOf(target));
    });
    for (const InterfaceFacts& iif : view.interfaces) {
      if (!iif.up || iif.loopback || !target.CoversInterface(iif.name) || !rule6) continue;
      Finding f;
      f.id = "ipv6_missing";
      f.where = absl::StrCat("IPv6, ", iif.name);
      f.target = i;
      if (target.v6 && iif.ipv6_disabled && iif.Has(Family::kIpv4)) {
        f.severity = Severity::kWarning;
        f.cause = absl::StrCat("The rules are there for IPv6, too, but IPv6 is switched off on ",
                               iif.name, ".");
        f.fix = absl::StrCat("sysctl -w net/ipv6/conf/", ShellWord(iif.name), "/disable_ipv6=0");
        findings->push_back(std::move(f));
      } else if (!target.v6 && iif.Has(Family::kIpv6) && IsIptables(target.rules.front()) &&
                 std::none_of(view.targets.begin(), view.targets.end(), [&](const ProxyTarget& o) {
                   return o.v6 && o.kind == target.kind &&
                          o.policy.on_port == target.policy.on_port;
                 })) {
        const std::string words =
            target.kind == ProxyTarget::Kind::kQueue
                ? "-j NFQUEUE"
                : absl::StrCat("-j TPROXY --on-port ", target.policy.on_port, " ");
        const bool legacy = IptablesTool(target.rules.front()) != "iptables";
        f.cause = absl::StrCat(
            "The mark has a policy rule for IPv6, and ", iif.name,
            " has an IPv6 address, but no ip6tables rule takes IPv6 packets to the proxy.");
        f.fix = absl::StrCat("{ echo '*mangle'; ", IptablesTool(target.rules.front()),
                             "-save -t mangle | grep -e '", words,
                             "' | sed 's/--on-ip [^ ]*/--on-ip ::/'; echo COMMIT; } | "
                             "ip6tables",
                             legacy ? "-legacy" : "", "-restore --noflush");
        findings->push_back(std::move(f));
      }
    }
  }
}

}  // namespace utproxy
