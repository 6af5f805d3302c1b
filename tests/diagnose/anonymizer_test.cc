// SPDX-License-Identifier: GPL-3.0-or-later
#include "diagnose/anonymizer.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

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

TEST(Anonymizer, NoTwoAddressesGetOneMask) {
  Anonymizer a;
  std::set<std::string> masks;
  // More networks than 10/8 has.
  constexpr uint32_t kNetworks = 200'000;
  for (uint32_t n = 0; n < kNetworks; ++n) {
    const uint32_t net = n + (20U << 16);
    const std::string text = absl::StrCat(net >> 16, ".", net >> 8 & 0xff, ".", net & 0xff, ".7");
    const std::string mask = a.Mask(text);
    ASSERT_TRUE(masks.insert(mask).second) << text << " became " << mask << " once more";
    ASSERT_EQ(a.Mask(text), mask);
  }
  EXPECT_EQ(masks.count("10.0.1.1"), 1u);
  EXPECT_EQ(masks.count("11.0.0.1"), 1u);
}

TEST(Anonymizer, EachNetworkThatCanBeMaskedHasItsOwn) {
  std::vector<bool> seen(size_t{1} << 24);
  for (uint32_t n = 1; n <= Anonymizer::kIpv4Networks; ++n) {
    const uint32_t net = Anonymizer::Ipv4Network(n);
    ASSERT_FALSE(seen[net]) << n;
    seen[net] = true;
    const uint32_t first = net >> 16;
    ASSERT_TRUE(first != 0 && first != 127 && first < 224) << n << ": one that stays";
  }
}

TEST(Anonymizer, LinkLocalNetworksStayApart) {
  Anonymizer a;
  std::set<std::string> masks;
  for (const char* text : {"fe80::1", "fe80::2", "fe80:0:0:1::1", "fe80:0:0:2::1",
                           "fe80:0:0:1::", "fe80::", "fe90::1"}) {
    const std::string mask = a.Mask(text);
    EXPECT_TRUE(masks.insert(mask).second) << text << " became " << mask;
    EXPECT_EQ(mask.substr(0, 4), "fe80");
  }
}

TEST(Anonymizer, HardwareAddressesStayApart) {
  Anonymizer a;
  std::set<std::string> masks;
  for (uint32_t n = 0; n < 70'000; ++n) {
    ASSERT_TRUE(masks
                    .insert(a.Mask(absl::StrFormat("52:54:00:%02x:%02x:%02x", n >> 16,
                                                   n >> 8 & 0xff, n & 0xff)))
                    .second);
  }
}

}  // namespace
}  // namespace utproxy
