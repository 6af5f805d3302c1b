// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/privileges.h"

#include <absl/strings/str_cat.h>
#include <grp.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "base/status.h"

namespace utproxy {
namespace {

struct FreeCapabilities {
  void operator()(_cap_struct* caps) const { cap_free(caps); }
};
using Capabilities = std::unique_ptr<_cap_struct, FreeCapabilities>;

bool Has(const Capabilities& caps, cap_value_t which) {
  cap_flag_value_t value = CAP_CLEAR;
  return cap_get_flag(caps.get(), which, CAP_PERMITTED, &value) == 0 && value == CAP_SET;
}

// Of `wanted`, those there are. The kernel refuses the others.
absl::Status KeepOnly(const std::vector<cap_value_t>& wanted) {
  const Capabilities now(cap_get_proc());
  const Capabilities kept(cap_init());
  if (now == nullptr || kept == nullptr) return ErrnoStatus(errno, "read capabilities");
  for (const cap_value_t each : wanted) {
    if (!Has(now, each)) continue;
    for (const cap_flag_t set : {CAP_PERMITTED, CAP_EFFECTIVE}) {
      if (cap_set_flag(kept.get(), set, 1, &each, CAP_SET) != 0) {
        return ErrnoStatus(errno, "choose capabilities");
      }
    }
  }
  if (cap_set_proc(kept.get()) != 0) return ErrnoStatus(errno, "drop capabilities");
  return absl::OkStatus();
}

// What no program that this process starts could have. With no_new_privs that is nothing anyhow.
absl::Status EmptyBoundingSet() {
  const Capabilities now(cap_get_proc());
  if (now == nullptr || !Has(now, CAP_SETPCAP)) return absl::OkStatus();
  for (cap_value_t each = 0; cap_get_bound(each) >= 0; ++each) {
    if (cap_get_bound(each) == 1 && cap_drop_bound(each) != 0) {
      return ErrnoStatus(errno, "empty the capability bounding set");
    }
  }
  return absl::OkStatus();
}

absl::Status Become(const Account& account) {
  if (account.uid == ::geteuid() && account.gid == ::getegid()) return absl::OkStatus();
  const std::string what = absl::StrCat("become user ", account.name);
  const char* const remedy = "Start it as root, or as that user with CAP_NET_ADMIN";
  // Capabilities outlive the change of user only so.
  if (::prctl(PR_SET_KEEPCAPS, 1) != 0 || ::setgroups(0, nullptr) != 0 ||
      ::setresgid(account.gid, account.gid, account.gid) != 0 ||
      ::setresuid(account.uid, account.uid, account.uid) != 0 || ::prctl(PR_SET_KEEPCAPS, 0) != 0) {
    return WithRemedy(ErrnoStatus(errno, what), remedy);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status GiveUpPrivileges(const Privileges& privileges) {
  std::vector<cap_value_t> kept = {CAP_NET_ADMIN};
  if (privileges.takes_sockets) kept.insert(kept.end(), {CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH});
  RETURN_IF_ERROR(EmptyBoundingSet());
  if (privileges.account) RETURN_IF_ERROR(Become(*privileges.account));
  if (cap_reset_ambient() != 0) return ErrnoStatus(errno, "empty the ambient capabilities");
  RETURN_IF_ERROR(KeepOnly(kept));
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoStatus(errno, "set no_new_privs");
  // A reload may look for users by name.
  LookForAccountsInFilesOnly();
  const bool open = privileges.seccomp == SeccompMode::kOff;
  // Also set back by the change of user, or not, as fs.suid_dumpable says.
  if (::prctl(PR_SET_DUMPABLE, open ? 1 : 0) != 0) return ErrnoStatus(errno, "forbid core dumps");
  return LoadSeccompFilter(privileges.seccomp, privileges.takes_sockets);
}

}  // namespace utproxy
