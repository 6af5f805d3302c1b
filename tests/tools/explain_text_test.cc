// SPDX-License-Identifier: GPL-3.0-or-later
#include "explain_text.h"

#include <gtest/gtest.h>

namespace utproxy::tools {
namespace {

Json Explained() {
  return Json::parse(R"({
    "verdict": "accept", "reason": "listener", "mark": "0x1",
    "socket": {"state": "LISTEN", "local": "0.0.0.0:12345", "cookie": 7, "pid": 42, "comm": "proxy",
               "cgroup": "/system.slice/docker-1.scope"},
    "packet": {"family": "ipv4", "proto": "tcp", "src": "10.0.0.2", "sport": 40000,
               "dst": "203.0.113.80", "dport": 8080, "mark": "0x0"},
    "steps": [
      {"step": "listener", "result": "found",
       "why": "The lookup of tcp 10.0.0.1:12345 for 10.0.0.2:40000 leads to the LISTEN socket at 0.0.0.0:12345.",
       "candidates": [{"local": "0.0.0.0:12345", "score": 2, "transparent": true, "chosen": true,
                       "why": "It has the highest score of all.", "pid": 42, "comm": "proxy"}]},
      {"step": "route", "result": "local",
       "why": "With mark 0x1 the packet is routed to this host by table 100. The rule with priority 32765 (fwmark 0x1/0x1) leads to table 100."}],
    "kernel": {"xt_TPROXY": "pins the socket, sets the mark 0x1, accepts"}})");
}

TEST(ExplainText, Golden80) {
  EXPECT_EQ(ExplainText(Explained(), 80, false),
            R"(accept listener  tcp 10.0.0.2:40000 > 203.0.113.80:8080  mark 0x0 > 0x1
  socket  LISTEN 0.0.0.0:12345  cookie 7  proxy[42] in /system.slice/docker-1.scope
  listener: found
      The lookup of tcp 10.0.0.1:12345 for 10.0.0.2:40000 leads to the LISTEN
      socket at 0.0.0.0:12345.
      * 0.0.0.0:12345  score 2, transparent  proxy[42]
          It has the highest score of all.
  route: local
      With mark 0x1 the packet is routed to this host by table 100. The rule
      with priority 32765 (fwmark 0x1/0x1) leads to table 100.
  xt_TPROXY: pins the socket, sets the mark 0x1, accepts.
)");
}

TEST(ExplainText, Golden200) {
  EXPECT_EQ(ExplainText(Explained(), 200, false),
            R"(accept listener  tcp 10.0.0.2:40000 > 203.0.113.80:8080  mark 0x0 > 0x1
  socket  LISTEN 0.0.0.0:12345  cookie 7  proxy[42] in /system.slice/docker-1.scope
  listener: found
      The lookup of tcp 10.0.0.1:12345 for 10.0.0.2:40000 leads to the LISTEN socket at 0.0.0.0:12345.
      * 0.0.0.0:12345  score 2, transparent  proxy[42]
          It has the highest score of all.
  route: local
      With mark 0x1 the packet is routed to this host by table 100. The rule with priority 32765 (fwmark 0x1/0x1) leads to table 100.
  xt_TPROXY: pins the socket, sets the mark 0x1, accepts.
)");
}

TEST(ExplainText, ColourOnlyWhereAsked) {
  EXPECT_EQ(ExplainText(Explained(), 80, false).find('\x1b'), std::string::npos);
  EXPECT_NE(ExplainText(Explained(), 80, true).find('\x1b'), std::string::npos);
}

}  // namespace
}  // namespace utproxy::tools
