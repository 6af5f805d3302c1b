// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/anonymizer.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

TEST(Anonymizer, SameAddressSameMask) {
  Anonymizer a;
  EXPECT_EQ(a.Mask("192.0.2.7:80 192.0.2.9, 192.0.2.0/24 198.51.100.7"),
            "10.0.1.1:80 10.0.1.2, 10.0.1.0/24 10.0.2.1");
  EXPECT_EQ(a.Mask("\"198.51.100.7\" and 192.0.2.7."), "\"10.0.2.1\" and 10.0.1.1.");
}

TEST(Anonymizer, Ipv6) {
  Anonymizer a;
  EXPECT_EQ(a.Mask("[2001:db8::80]:53 2001:db8::/64 2001:db8:0:1::80"),
            "[fd00:0:0:1::1]:53 fd00:0:0:1::/64 fd00:0:0:2::1");
  EXPECT_EQ(a.Mask("::ffff:192.0.2.7"), "::ffff:10.0.1.1");
  EXPECT_EQ(a.Mask("fe80::1234"), "fe80::1");
}

TEST(Anonymizer, WhatStays) {
  Anonymizer a;
  for (const char* text : {"127.0.0.1", "0.0.0.0/0", "::/0", "::1", "224.0.0.1", "ff02::1",
                           "version 1.0.6", "12:34:56", "0x1/0x1", "lan0", "", "beef"}) {
    EXPECT_EQ(a.Mask(text), text);
  }
  EXPECT_EQ(a.Mask("52:54:00:12:34:56"), "02:00:00:00:00:01");
}

}  // namespace
}  // namespace utproxy
