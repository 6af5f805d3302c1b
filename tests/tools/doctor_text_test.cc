// SPDX-License-Identifier: GPL-3.0-or-later
#include "doctor_text.h"

#include <gtest/gtest.h>

#include "../diagnose/views.h"
#include "doctor_source.h"
#include "doctor_watch.h"
#include "text.h"

namespace utproxy::tools {
namespace {

SystemView WithoutRule() {
  SystemView view = HealthyView();
  view.rules.erase(view.rules.begin());
  Forward(&view, Family::kIpv4);
  view.conntrack_count = 950;
  return view;
}

TEST(DoctorText, Golden80) {
  const SystemView view = WithoutRule();
  EXPECT_EQ(DoctorText(view, Diagnose(view), 80, false),
            R"(xt TPROXY: tcp port 8080 from lan0 to port 12345, mark 0x1/0x1, IPv4 and IPv6

Errors
  no_fwmark_rule  IPv4, lan0
      No policy rule leads packets with mark 0x1/0x1 to a table of their own, so
      they are forwarded instead of delivered.
      fix: ip rule add fwmark 0x1/0x1 lookup 100

Warnings
  conntrack_full  nf_conntrack
      Connection tracking has 950 of at most 1000 entries; when it is full,
      packets of new flows are dropped.
      fix: sysctl -w net.netfilter.nf_conntrack_max=4000
)");
}

TEST(DoctorText, Golden200) {
  const SystemView view = WithoutRule();
  EXPECT_EQ(DoctorText(view, Diagnose(view), 200, false),
            R"(xt TPROXY: tcp port 8080 from lan0 to port 12345, mark 0x1/0x1, IPv4 and IPv6

Errors
  no_fwmark_rule  IPv4, lan0
      No policy rule leads packets with mark 0x1/0x1 to a table of their own, so they are forwarded instead of delivered.
      fix: ip rule add fwmark 0x1/0x1 lookup 100

Warnings
  conntrack_full  nf_conntrack
      Connection tracking has 950 of at most 1000 entries; when it is full, packets of new flows are dropped.
      fix: sysctl -w net.netfilter.nf_conntrack_max=4000
)");
}

TEST(DoctorText, Healthy) {
  const SystemView view = HealthyView();
  EXPECT_EQ(DoctorText(view, {}, 80, false),
            "xt TPROXY: tcp port 8080 from lan0 to port 12345, mark 0x1/0x1, IPv4 and IPv6\n\n"
            "No error found.\n");
  EXPECT_NE(DoctorText(view, {}, 80, true).find("\x1b["), std::string::npos);
}

TEST(Wrap, BreaksAtBlanks) {
  EXPECT_EQ(Wrap("one two three", 9, 2), "  one two\n  three\n");
  EXPECT_EQ(Wrap("a-word-longer-than-that b", 5, 1), " a-word-longer-than-that\n b\n");
  EXPECT_EQ(Wrap("", 80, 2), "");
}

TEST(DaemonOf, ReadsACommandLine) {
  const auto daemon = DaemonOf({"/usr/sbin/utproxy", "run", "--install", "--queue-balance", "2:3",
                                "--on-port", "1090", "--tproxy-mark", "0x1", "--control", "/x"});
  ASSERT_TRUE(daemon);
  EXPECT_EQ(daemon->control, "/x");
  EXPECT_EQ(daemon->target.policy.on_port, 1090);
  EXPECT_EQ(daemon->target.queue_last, 3);
  EXPECT_FALSE(DaemonOf({"utproxy", "run", "--nonsense"}));
  EXPECT_FALSE(DaemonOf({"other", "run"}));
  EXPECT_FALSE(DaemonOf({}));
}

TEST(DoctorWatch, TellsWhatChanged) {
  const SystemView before = HealthyView();
  SystemView now = WithoutRule();
  Findings findings = Diagnose(now);
  std::vector<DoctorChange> changes = CompareViews(before, {}, now, &findings);
  ASSERT_EQ(changes.size(), 2u);
  EXPECT_EQ(changes[0].event, "appeared");
  EXPECT_EQ(changes[0].finding.id, "rule_removed");
  Findings none;
  changes = CompareViews(now, findings, before, &none);
  EXPECT_EQ(changes[0].event, "mended");
  now = before;
  now.sockets[0].socket.cookie = 8;
  changes = CompareViews(before, {}, now, &none);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].event, "listener_restarted");
  now = before;
  now.daemon = DaemonFacts{};
  changes = CompareViews(now, {}, before, &none);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].event, "daemon_gone");
  changes = CompareViews(before, {}, now, &none);
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].event, "daemon_back");
}

}  // namespace
}  // namespace utproxy::tools
