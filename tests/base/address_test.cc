// SPDX-License-Identifier: GPL-3.0-or-later
#include "utproxy/address.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

TEST(Address, Ipv4AndItsMappedFormAreEqual) {
  EXPECT_EQ(Address::Parse("192.0.2.1"), Address::Parse("::ffff:192.0.2.1"));
  EXPECT_EQ(Address::Parse("0.0.0.0"), Address::Parse("::"));
  EXPECT_EQ(Address::Parse("192.0.2.1")->ToString(Family::kIpv4), "192.0.2.1");
  EXPECT_EQ(Address::Parse("2001:db8::1")->ToString(Family::kIpv6), "2001:db8::1");
  EXPECT_FALSE(Address::Parse("192.0.2"));
  EXPECT_FALSE(Address::Parse("fe80::1%lo"));
}

TEST(Endpoint, ReadsWhatIsWritten) {
  for (const char* text : {"192.0.2.1:53", "[2001:db8::1]:65535", "[::]:0", "0.0.0.0:0"}) {
    const auto endpoint = ParseEndpoint(text);
    ASSERT_TRUE(endpoint) << text;
    EXPECT_EQ(EndpointToString(endpoint->address, endpoint->port, endpoint->family), text);
  }
  for (const char* text : {"", ":", "192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:+1",
                           "2001:db8::1:53", "[192.0.2.1]:53", "[2001:db8::1]", "192.0.2.1: 1"}) {
    EXPECT_FALSE(ParseEndpoint(text)) << text;
  }
}

TEST(Cidr, ContainsItsAddresses) {
  const auto in = [](const char* prefix, const char* address) {
    return ParseCidr(prefix)->Contains(*Address::Parse(address));
  };
  EXPECT_TRUE(in("10.77.0.0/16", "10.77.255.255"));
  EXPECT_FALSE(in("10.77.0.0/16", "10.78.0.0"));
  EXPECT_TRUE(in("10.77.64.0/18", "10.77.127.255"));
  EXPECT_FALSE(in("10.77.64.0/18", "10.77.128.0"));
  EXPECT_TRUE(in("10.77.1.1", "10.77.1.1"));
  EXPECT_FALSE(in("10.77.1.0/31", "10.77.1.2"));
  EXPECT_TRUE(in("0.0.0.0/0", "255.255.255.255"));
  EXPECT_TRUE(in("0.0.0.0/0", "0.0.0.0"));
  EXPECT_FALSE(in("0.0.0.0/0", "2001:db8::1"));
  EXPECT_FALSE(in("1.2.3.0/24", "2001:db8::1.2.3.4"));
  EXPECT_TRUE(in("2001:db8:8000::/33", "2001:db8:ffff::1"));
  EXPECT_FALSE(in("2001:db8:8000::/33", "2001:db8:7fff::1"));
  EXPECT_TRUE(in("2001:db8::1", "2001:db8::1"));
  EXPECT_FALSE(in("2001:db8::1", "2001:db8::"));
  EXPECT_TRUE(in("::/0", "2001:db8::1"));
}

TEST(Cidr, RefusesHostBitsAndLongPrefixes) {
  EXPECT_EQ(CidrToString(*ParseCidr("10.0.0.0/8")), "10.0.0.0/8");
  EXPECT_EQ(CidrToString(*ParseCidr("10.0.0.1")), "10.0.0.1");
  EXPECT_EQ(CidrToString(*ParseCidr("0.0.0.0/0")), "0.0.0.0/0");
  EXPECT_EQ(CidrToString(*ParseCidr("2001:db8::/32")), "2001:db8::/32");
  for (const char* text : {"10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "/8", "::1/0", "::/129"}) {
    EXPECT_FALSE(ParseCidr(text)) << text;
  }
}

}  // namespace
}  // namespace utproxy
