// SPDX-License-Identifier: GPL-3.0-or-later
#include "service_manager.h"

#include <absl/strings/str_cat.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/clock.h"

namespace utproxy::tools {

ServiceManager::ServiceManager() : keeps_(std::getenv("NOTIFY_SOCKET") != nullptr) {
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

Estate ServiceManager::Inherited() {
  Estate estate;
  char** names = nullptr;
  const int count = ::sd_listen_fds_with_names(/*unset_environment=*/1, &names);
  for (int i = 0; i < count; ++i) {
    UniqueFd fd(SD_LISTEN_FDS_START + i);
    if (names == nullptr || names[i] == nullptr) continue;
    kept_[names[i]] = false;
    estate.Add(names[i], std::move(fd));
    std::free(names[i]);
  }
  std::free(names);
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
