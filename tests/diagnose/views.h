// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_TESTS_DIAGNOSE_VIEWS_H_
#define UTPROXY_TESTS_DIAGNOSE_VIEWS_H_

#include <linux/rtnetlink.h>

#include "diagnose/system_view.h"

namespace utproxy {

// A healthy dual-stack router with xt_TPROXY for tcp port 8080 from lan0 to port 12345, made up.
inline SystemView HealthyView() {
  SystemView view;
  InterfaceFacts lan;
  lan.index = 2;
  lan.name = "lan0";
  lan.up = true;
  lan.addresses = {{*Address::Parse("10.77.1.1"), Family::kIpv4, 24, true, false},
                   {*Address::Parse("fd77:1::1"), Family::kIpv6, 64, true, false}};
  view.interfaces = {lan};
  ProxyTarget target;
  target.kind = ProxyTarget::Kind::kXt;
  target.udp = false;
  target.dports = {{8080, 8080}};
  target.iifs = {"lan0"};
  target.policy.on_port = 12345;
  target.policy.mark_value = target.policy.mark_mask = 1;
  target.rules = {{2, "mangle", "PREROUTING", 4, false}, {10, "mangle", "PREROUTING", 4, false}};
  view.targets = {target};
  for (const Family family : {Family::kIpv4, Family::kIpv6}) {
    PolicyRule rule;
    rule.family = family;
    rule.priority = 32765;
    rule.mark = rule.mask = 1;
    rule.table = 100;
    view.rules.push_back(rule);
    view.routes.push_back({family, 100, RTN_LOCAL, 1});
    ProbeFacts probe;
    probe.family = family;
    probe.iif = "lan0";
    probe.mark = 1;
    probe.answer.kind = RouteAnswer::Kind::kLocal;
    view.probes.push_back(probe);
  }
  SocketFacts listener;
  listener.socket.local_port = 12345;
  listener.socket.state = SockState::kListen;
  listener.socket.flags = Socket::kInet6 | Socket::kTransparent | Socket::kTransparentKnown;
  listener.socket.cookie = 7;
  listener.pid = 42;
  listener.fd = 3;
  listener.comm = "proxy";
  view.sockets = {listener};
  view.processes[42] = {.pid = 42,
                        .comm = "proxy",
                        .uid = 0,
                        .max_fds = 1024,
                        .fds = 9,
                        .capabilities = ~uint64_t{0},
                        .command_line = {"proxy"}};
  view.conntrack_max = 1000;
  view.features = {{"sock_diag", true}, {"NFQUEUE", true}, {"sk_lookup", true}};
  return view;
}

// Routing refuses what carries the mark.
inline void Refuse(SystemView* view, Family family, int error) {
  for (ProbeFacts& probe : view->probes) {
    if (probe.family != family) continue;
    probe.answer.kind = RouteAnswer::Kind::kRefused;
    probe.answer.error = error;
  }
}

// Routing forwards what carries the mark, as it does without rule or route, by `table`.
inline void Forward(SystemView* view, Family family, uint32_t table = RT_TABLE_MAIN) {
  for (ProbeFacts& probe : view->probes) {
    if (probe.family != family) continue;
    probe.answer.kind = RouteAnswer::Kind::kForward;
    probe.answer.table = table;
  }
}

}  // namespace utproxy

#endif  // UTPROXY_TESTS_DIAGNOSE_VIEWS_H_
