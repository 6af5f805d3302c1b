// SPDX-License-Identifier: GPL-3.0-or-later
#ifndef UTPROXY_DAEMON_ACCOUNTS_H_
#define UTPROXY_DAEMON_ACCOUNTS_H_

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <sys/types.h>

#include <optional>
#include <string>

// Users and groups by name or number. Any thread may call any of these.
namespace utproxy {

// The user that the daemon becomes where it is started as root and such a user exists.
inline constexpr char kDefaultUser[] = "utproxy";

struct Account {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
};

// All are InvalidArgument where there is no such user or group.
absl::StatusOr<Account> FindUser(const std::string& name_or_number);
absl::StatusOr<gid_t> ParseGroup(absl::string_view name_or_number);
// "USER" or "USER:GROUP"; without GROUP the user's own.
absl::StatusOr<Account> ParseAccount(absl::string_view text);
// kDefaultUser, where this process is root's and there is such a user.
std::optional<Account> DefaultAccount();

// From now on names are looked for in /etc/passwd and /etc/group, and among those that were found
// before; the modules of nsswitch.conf are not asked, which may do anything: connect to services,
// make timers, load code. For the daemon, whose filter of system calls would end it.
void LookForAccountsInFilesOnly();

}  // namespace utproxy

#endif  // UTPROXY_DAEMON_ACCOUNTS_H_
