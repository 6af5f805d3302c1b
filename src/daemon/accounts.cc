// SPDX-License-Identifier: GPL-3.0-or-later
#include "daemon/accounts.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"

namespace utproxy {
namespace {

constexpr size_t kEntryBytes = 65536;  // a group's members stand in its entry

struct Known {
  std::mutex mutex;
  bool files_only = false;
  std::map<std::string, Account> users;  // by the text that they were asked for with
  std::map<std::string, gid_t> groups;
};
Known& TheKnown() {
  static Known known;
  return known;
}

std::optional<uint32_t> IdOf(absl::string_view text) {
  uint32_t id = 0;
  // 0xffffffff stands for none.
  if (!absl::SimpleAtoi(text, &id) || id == UINT32_MAX) return std::nullopt;
  return id;
}

// The first entry of the file that `fits`.
template <typename Entry, typename Next, typename Fits>
std::optional<Entry> InFile(const char* path, std::vector<char>* buffer, Next next, Fits fits) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path, "re"), &std::fclose);
  Entry entry{};
  Entry* found = nullptr;
  while (file != nullptr && next(file.get(), &entry, buffer->data(), buffer->size(), &found) == 0) {
    if (fits(*found)) return *found;
  }
  return std::nullopt;
}

std::optional<Account> LookUpUser(const std::string& text, bool files_only) {
  std::vector<char> buffer(kEntryBytes);
  const std::optional<uint32_t> id = IdOf(text);
  std::optional<passwd> user;
  if (files_only) {
    user = InFile<passwd>("/etc/passwd", &buffer, ::fgetpwent_r, [&](const passwd& entry) {
      return id ? entry.pw_uid == *id : entry.pw_name == text;
    });
  } else {
    passwd entry{};
    passwd* found = nullptr;
    const int error = id ? ::getpwuid_r(*id, &entry, buffer.data(), buffer.size(), &found)
                         : ::getpwnam_r(text.c_str(), &entry, buffer.data(), buffer.size(), &found);
    if (error == 0 && found != nullptr) user = entry;
  }
  if (!user) return std::nullopt;
  return Account{user->pw_name, user->pw_uid, user->pw_gid};
}

std::optional<gid_t> LookUpGroup(const std::string& name, bool files_only) {
  std::vector<char> buffer(kEntryBytes);
  if (files_only) {
    const auto found = InFile<group>("/etc/group", &buffer, ::fgetgrent_r,
                                     [&](const group& entry) { return entry.gr_name == name; });
    return found ? std::optional(found->gr_gid) : std::nullopt;
  }
  group entry{};
  group* found = nullptr;
  const int error = ::getgrnam_r(name.c_str(), &entry, buffer.data(), buffer.size(), &found);
  return error == 0 && found != nullptr ? std::optional(found->gr_gid) : std::nullopt;
}

// What `look_up` finds, or found before.
template <typename T, typename LookUp>
std::optional<T> Remembered(std::map<std::string, T>* known, const std::string& text,
                            LookUp look_up, bool files_only) {
  const std::optional<T> found = look_up(text, files_only);
  if (found) known->insert_or_assign(text, *found);
  const auto it = known->find(text);
  return it != known->end() ? std::optional<T>(it->second) : std::nullopt;
}

absl::Status NoSuch(const char* what, const char* file, bool files_only) {
  const std::string text = absl::StrCat("no ", what, " of this name");
  if (!files_only)
    return absl::InvalidArgumentError(absl::StrCat(text, ", and not a ", what, " number"));
  return absl::InvalidArgumentError(absl::StrCat(
      text, " in ", file,
      ", where alone utproxy looks while it runs: else write the number, or restart it"));
}

}  // namespace

absl::StatusOr<Account> FindUser(const std::string& name_or_number) {
  Known& known = TheKnown();
  const std::lock_guard lock(known.mutex);
  const auto found = Remembered(&known.users, name_or_number, LookUpUser, known.files_only);
  if (found) return *found;
  if (const std::optional<uint32_t> id = IdOf(name_or_number)) {
    return Account{name_or_number, *id, *id};
  }
  return NoSuch("user", "/etc/passwd", known.files_only);
}

absl::StatusOr<gid_t> ParseGroup(absl::string_view name_or_number) {
  if (const std::optional<uint32_t> id = IdOf(name_or_number)) return *id;
  Known& known = TheKnown();
  const std::lock_guard lock(known.mutex);
  const auto found =
      Remembered(&known.groups, std::string(name_or_number), LookUpGroup, known.files_only);
  if (found) return *found;
  return NoSuch("group", "/etc/group", known.files_only);
}

absl::StatusOr<Account> ParseAccount(absl::string_view text) {
  const size_t colon = text.find(':');
  ASSIGN_OR_RETURN(Account account, FindUser(std::string(text.substr(0, colon))));
  if (colon != absl::string_view::npos) {
    ASSIGN_OR_RETURN(account.gid, ParseGroup(text.substr(colon + 1)));
  }
  return account;
}

std::optional<Account> DefaultAccount() {
  if (::geteuid() != 0) return std::nullopt;
  const absl::StatusOr<Account> account = FindUser(kDefaultUser);
  return account.ok() ? std::optional<Account>(*account) : std::nullopt;
}

void LookForAccountsInFilesOnly() {
  Known& known = TheKnown();
  const std::lock_guard lock(known.mutex);
  known.files_only = true;
}

}  // namespace utproxy
