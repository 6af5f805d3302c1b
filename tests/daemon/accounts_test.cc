// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/accounts.h"

#include <gtest/gtest.h>

namespace utproxy {
namespace {

TEST(Accounts, ByNameAndNumber) {
  for (const bool files_only : {false, true}) {
    if (files_only) LookForAccountsInFilesOnly();
    const auto root = FindUser("root");
    ASSERT_TRUE(root.ok()) << root.status();
    EXPECT_EQ(root->uid, 0u);
    EXPECT_EQ(FindUser("0")->name, "root");
    EXPECT_EQ(ParseGroup("root").value(), 0u);
    EXPECT_EQ(ParseAccount("root:7")->gid, 7u);
    EXPECT_EQ(FindUser("4000000000")->gid, 4000000000u);  // nobody's
    EXPECT_FALSE(FindUser("4294967295").ok());            // (uid_t)-1
    for (const char* text : {"no-such-user", "", ":", "root:", "root:no-such-group"}) {
      const auto none = ParseAccount(text);
      ASSERT_FALSE(none.ok()) << text;
      EXPECT_EQ(none.status().message().find("restart it") != std::string::npos, files_only);
    }
  }
}

}  // namespace
}  // namespace utproxy
