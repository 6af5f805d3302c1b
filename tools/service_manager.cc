// SPDX-License-Identifier: GPL-3.0-or-later
#include "service_manager.h"

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <absl/strings/string_view.h>
#include <fcntl.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/clock.h"
#include "base/fd.h"

namespace utproxy::tools {

// As sd_listen_fds_with_names(3) does, which knows of all or nothing: it fails where one of them is
// not open, and then leaves the others open and nobody's. Empty where they are for another process,
// or not as many as there are names.
std::vector<ServiceManager::Passed> ServiceManager::PassedToThis() {
  const auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return absl::string_view(text == nullptr ? "" : text);
  };
  std::vector<Passed> passed;
  int64_t process = 0;
  size_t count = 0;
  if (!absl::SimpleAtoi(value("LISTEN_PID"), &process) || process != ::getpid() ||
      !absl::SimpleAtoi(value("LISTEN_FDS"), &count)) {
    return passed;
  }
  const std::vector<std::string> names = absl::StrSplit(value("LISTEN_FDNAMES"), ':');
  if (names.size() != count) return passed;
  for (const std::string& name : names) {
    const int fd = SD_LISTEN_FDS_START + static_cast<int>(passed.size());
    passed.push_back({name, fd, ::fcntl(fd, F_GETFD) >= 0});
  }
  return passed;
}

ServiceManager::ServiceManager()
    : passed_(PassedToThis()), keeps_(std::getenv("NOTIFY_SOCKET") != nullptr) {
  uint64_t us = 0;
  if (::sd_watchdog_enabled(0, &us) > 0) {
    watchdog_ns_ = static_cast<int64_t>(std::min<uint64_t>(us, INT64_MAX / 1000) * 1000);
  }
}

void ServiceManager::Ready(const std::string& status) const {
  (void)::sd_notifyf(0, "READY=1\nSTATUS=%s", status.c_str());
}

void ServiceManager::Reloading() const {
  (void)::sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld",
                     static_cast<long long>(MonotonicNs() / 1000));
}

void ServiceManager::Stopping() const { (void)::sd_notify(0, "STOPPING=1"); }

void ServiceManager::Status(const std::string& status) const {
  (void)::sd_notifyf(0, "STATUS=%s", status.c_str());
}

Estate ServiceManager::Inherited(std::vector<std::string>* warnings) {
  Estate estate;
  for (const Passed& passed : std::exchange(passed_, {})) {
    if (!passed.open) {
      warnings->push_back(absl::StrCat("LISTEN_FDNAMES: ", passed.name, " is descriptor ",
                                       passed.fd, ", which is not open: left out"));
      continue;
    }
    UniqueFd fd(passed.fd);
    (void)::fcntl(fd.get(), F_SETFD, FD_CLOEXEC);
    kept_[passed.name] = false;
    estate.Add(passed.name, std::move(fd));
  }
  for (const char* name : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) (void)::unsetenv(name);
  return estate;
}

// What was kept for another process goes first, as it may be another descriptor of the same name.
// FDPOLL=0: else an error that waits in a socket would have it thrown away.
void ServiceManager::Keep(const Belongings& belongings) {
  if (!keeps_) return;
  std::map<std::string, bool> kept;
  for (const auto& [name, fd] : belongings) {
    kept[name] = true;
    const auto before = kept_.find(name);
    if (before != kept_.end() && before->second) continue;
    if (before != kept_.end()) Forget(name);
    const std::string words = absl::StrCat("FDSTORE=1\nFDPOLL=0\nFDNAME=", name);
    (void)::sd_pid_notify_with_fds(0, 0, words.c_str(), &fd, 1);
  }
  for (const auto& [name, ours] : kept_) {
    if (!kept.contains(name)) Forget(name);
  }
  kept_ = std::move(kept);
}

void ServiceManager::Forget(const std::string& name) {
  (void)::sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name.c_str());
}

std::vector<std::string> ServiceManager::Watch(const std::vector<Beat>& beats, int64_t now_ns) {
  progress_.Look(beats, now_ns);
  std::vector<std::string> stuck = progress_.Stuck(now_ns, watchdog_ns_ / 2);
  if (stuck.empty()) (void)::sd_notify(0, "WATCHDOG=1");
  std::vector<std::string> fresh;
  for (const std::string& name : stuck) {
    if (std::find(stuck_.begin(), stuck_.end(), name) == stuck_.end()) fresh.push_back(name);
  }
  stuck_ = std::move(stuck);
  return fresh;
}

}  // namespace utproxy::tools
